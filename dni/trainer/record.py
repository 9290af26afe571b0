"""What a run reports: scalars, images, figures, histograms and text, handed to whoever listens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean

Scalar = float | int | Tensor


@dataclass
class Entries:
    """What is reported at one moment of a run.

    Attributes:
        scalars: Numbers, read from their device.
        images: Bytes. Shape ``[C, H, W]``, ``C`` is 1 or 3.
        figures: Figures of matplotlib.
        histograms: Values of any shape, on the CPU.
        text: Words.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    histograms: dict[str, Tensor] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        kinds = self.scalars, self.images, self.figures, self.histograms, self.text
        return any(kinds)


class Sink(Protocol):
    """Whoever writes entries somewhere: a file, TensorBoard, a service."""

    def write(self, entries: Entries, step: int, epoch: int) -> None:
        """Take what was reported at a step.

        Args:
            entries: What was reported; not to be changed.
            step: Updates made before.
            epoch: Epochs completed before.
        """
        ...


class Record:
    """Gathers what callbacks and steps report, and hands it to its sinks when it is flushed.

    A scalar may be a tensor on any device: it is kept as it is, and all of them are read at once
    by `flush`. Reporting itself never waits for a device.

    Attributes:
        sinks: Who is told, in this order.
        latest: The last value of every scalar flushed so far.

    Example:
        >>> record = Record()
        >>> record.scalar("train/loss", torch.tensor(0.5))
        >>> record.flush(step=0).scalars
        {'train/loss': 0.5}
        >>> record.value("train/loss")
        0.5
    """

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.latest: dict[str, float] = {}
        self._scalars: dict[str, Scalar] = {}
        self._entries = Entries()
        self._is_muted = False

    def scalar(self, name: str, value: Scalar) -> None:
        """Report a number.

        Args:
            name: Path of the value, ``"train/accuracy"``.
            value: A number, or a tensor with one element.

        Raises:
            ConfigError: The tensor has several elements, or the value is no number.
        """
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ConfigError(
                    f"The scalar {name!r} was given a tensor of shape {tuple(value.shape)}; it "
                    "takes one number. Report its mean, or all of it as a histogram."
                )
            value = value.detach()
        elif not hasattr(value, "__float__"):
            raise ConfigError(f"The scalar {name!r} was given {value!r}; it takes one number.")
        self._scalars[name] = value

    def image(self, name: str, value: Tensor) -> None:
        """Report an image.

        Args:
            name: Path of the image.
            value: Bytes, grey or red, green and blue. Shape ``[1, H, W]`` or ``[3, H, W]``.

        Raises:
            ConfigError: The tensor is no such image.
        """
        if value.dtype != torch.uint8 or value.dim() != 3 or value.shape[0] not in (1, 3):
            raise ConfigError(
                f"The image {name!r} is {value.dtype} of shape {tuple(value.shape)}; it must be "
                "torch.uint8 of shape [1, H, W] or [3, H, W]."
            )
        self._entries.images[name] = value.detach()

    def figure(self, name: str, value: Any) -> None:
        """Report a figure of matplotlib."""
        self._entries.figures[name] = value

    def histogram(self, name: str, value: Tensor) -> None:
        """Report the distribution of the elements of a tensor of any shape."""
        self._entries.histograms[name] = value.detach()

    def text(self, name: str, value: str) -> None:
        """Report words."""
        self._entries.text[name] = value

    def value(self, name: str) -> float:
        """The last value of a scalar, flushed or not; one that waits on its device is waited for.

        Raises:
            ConfigError: Nothing of that name was reported so far; the nearest name is given.
        """
        if name in self._scalars:
            return float(self._scalars[name])
        if name not in self.latest:
            known = [*self.latest, *self._scalars]
            near = did_you_mean(name, known) or " Nothing was reported at all so far."
            raise ConfigError(f"Nothing has reported the scalar {name!r}.{near}")
        return self.latest[name]

    def waiting(self) -> dict[str, Scalar]:
        """The scalars reported since the last flush, by name."""
        return dict(self._scalars)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """What is reported during a ``with`` block is forgotten at its end: it was a rehearsal."""
        kept = self._scalars, self._entries, self._is_muted
        self._scalars, self._entries, self._is_muted = {}, Entries(), True
        try:
            yield
        finally:
            self._scalars, self._entries, self._is_muted = kept

    def flush(self, step: int, epoch: int = 0) -> Entries:
        """Read what was reported since the last time, and hand it to the sinks.

        Args:
            step: Updates made before.
            epoch: Epochs completed before.

        Returns:
            What was handed on; nothing is, where nothing was reported.
        """
        entries, self._entries = self._entries, Entries()
        waiting, self._scalars = self._scalars, {}
        entries.scalars = read(waiting)
        if self._is_muted or not entries:
            return entries
        entries.images = {name: value.cpu() for name, value in entries.images.items()}
        entries.histograms = {name: value.cpu() for name, value in entries.histograms.items()}
        self.latest.update(entries.scalars)
        for sink in self.sinks:
            sink.write(entries, step, epoch)
        return entries

    def state_dict(self) -> dict[str, Any]:
        """The last values, and what waits for the next flush if it is a scalar."""
        return {"latest": dict(self.latest), "waiting": read(self._scalars)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.latest = dict(state["latest"])
        self._scalars = dict(state["waiting"])
        self._entries = Entries()


def read(scalars: dict[str, Scalar]) -> dict[str, float]:
    """The values of scalars, with one wait per device for all its tensors together.

    Args:
        scalars: Numbers and tensors of one element.

    Returns:
        Numbers of Python, in the same order.

    Example:
        >>> read({"a": torch.tensor([2]), "b": 0.5})
        {'a': 2.0, 'b': 0.5}
    """
    by_device: dict[torch.device, list[str]] = {}
    for name, value in scalars.items():
        if isinstance(value, Tensor):
            by_device.setdefault(value.device, []).append(name)
    values: dict[str, float] = {}
    for names in by_device.values():
        tensors = [scalars[name] for name in names]
        stacked = torch.stack([t.reshape(()).double() for t in tensors if isinstance(t, Tensor)])
        values.update(zip(names, stacked.tolist(), strict=True))
    return {
        name: values[name] if isinstance(value, Tensor) else float(value)
        for name, value in scalars.items()
    }


class Average:
    r"""Mean of numbers weighted by samples, without waiting for the device.

    After :math:`n` calls it is :math:`\sum_i w_i v_i / \sum_i w_i`; the sums are in double
    precision, taken over a block of calls at a time, so that a call costs an append.

    Example:
        >>> average = Average()
        >>> average.update(torch.tensor(1.0), 3)
        >>> average.update(torch.tensor(5.0), 1)
        >>> average.compute().item()
        2.0
    """

    BLOCK = 64

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._total: Tensor | float = 0.0
        self._weight = 0.0
        self._values: list[Tensor] = []
        self._weights: list[float] = []

    def update(self, value: Tensor, weight: float = 1) -> None:
        """Take in one value.

        Args:
            value: A mean over ``weight`` samples. Shape ``[]``.
            weight: Number of samples.
        """
        self._values.append(value.detach() if value.requires_grad else value)
        self._weights.append(weight)
        if len(self._values) >= self.BLOCK:
            self._fold()

    def _fold(self) -> None:
        if self._values:
            values = torch.stack(self._values).double()
            terms = values * torch.tensor(self._weights, dtype=torch.float64, device=values.device)
            before = torch.as_tensor(self._total, dtype=torch.float64, device=values.device)
            # Summed one after the other, so that where the blocks end makes no difference.
            self._total = torch.cat([before.reshape(1), terms]).cumsum(0)[-1]
            self._weight += math.fsum(self._weights)
            self._values, self._weights = [], []

    def compute(self) -> Tensor:
        """The mean; not a number where nothing was taken in. Shape ``[]``."""
        self._fold()
        if not self._weight:
            return torch.tensor(math.nan, dtype=torch.float64)
        return torch.as_tensor(self._total, dtype=torch.float64) / self._weight

    def merge_state(self, other: Average) -> None:
        """Take in all that another average has taken in."""
        self._fold()
        other._fold()
        self._total = self._total + other._total
        self._weight += other._weight

    def state_dict(self) -> dict[str, Any]:
        """Both sums."""
        self._fold()
        return {"total": float(self._total), "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.reset()
        self._total, self._weight = state["total"], state["weight"]
