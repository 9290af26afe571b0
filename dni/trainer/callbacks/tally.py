"""What is measured: functions and metrics as a config tells them, averaged over samples."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from ...errors import ConfigError, did_you_mean
from ...vision import import_torchvision
from ..record import Average
from ..registry import METRICS
from ..state import State


@METRICS.register("accuracy")
def accuracy(input: Tensor, target: Tensor, *, top: int = 1) -> Tensor:
    """Whether the right class is among the likeliest; averaged it is the accuracy.

    Args:
        input: Scores. Shape ``[B, classes, *]``.
        target: Class indices ``[B, *]``, or scores of which the largest counts, as ``input``.
        top: How many of the likeliest count.

    Returns:
        Share of right answers in the batch. Shape ``[]``, from 0 to 1.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]))
        tensor(0.5000)
    """
    if target.dim() == input.dim():
        target = target.argmax(1)
    if top == 1:
        return (input.argmax(1) == target).float().mean()
    return (input.topk(top, 1).indices == target.unsqueeze(1)).any(1).float().mean()


@METRICS.register("mean")
def mean(input: Tensor) -> Tensor:
    """Mean of a value of the batch. Shape ``[]``."""
    return input.float().mean()


@METRICS.register("mean_squared_error")
def mean_squared_error(input: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared differences. Shape ``[]``."""
    return functional.mse_loss(input, target)


@METRICS.register("mean_absolute_error")
def mean_absolute_error(input: Tensor, target: Tensor) -> Tensor:
    """Mean of the absolute differences. Shape ``[]``."""
    return functional.l1_loss(input, target)


class FunctionTally:
    """A function of the batch, averaged by samples: since the last report, and over the epoch.

    Args:
        function: Called with the values of the batch; its result is averaged over the batch.

    Attributes:
        is_fresh: Whether there was a batch since the last report.
    """

    is_fresh = False

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._window, self._epoch = Average(), Average()

    def update(self, values: list[Tensor], weight: int) -> None:
        """Take in a batch of ``weight`` samples."""
        self.is_fresh = True
        value = self._function(*values)
        self._window.update(value if value.dim() == 0 else value.mean(), weight)

    def window(self) -> Tensor:
        """The mean since this was last asked."""
        value = self._window.compute()
        self._take_over()
        self.is_fresh = False
        return value

    def epoch(self) -> Tensor:
        """The mean since the last reset."""
        self._take_over()
        return self._epoch.compute()

    def _take_over(self) -> None:
        self._epoch.merge_state(self._window)
        self._window.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._window.reset()
        self._epoch.reset()

    def state_dict(self) -> dict[str, Any]:
        """Both averages."""
        return {
            "window": self._window.state_dict(),
            "epoch": self._epoch.state_dict(),
            "is_fresh": self.is_fresh,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._window.load_state_dict(state["window"])
        self._epoch.load_state_dict(state["epoch"])
        self.is_fresh = state.get("is_fresh", True)


class MetricTally:
    """A metric that keeps its own sums (``update``, ``compute``, ``reset``), as torchmetrics do.

    Its value is the one over the epoch so far, whenever it is asked.

    Args:
        metric: The metric, for this tally alone.

    Attributes:
        is_fresh: Whether there was a batch since the last report.
    """

    is_fresh = False

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        if hasattr(metric, "persistent"):
            metric.persistent(True)  # torchmetrics else leave their sums out of the state

    def update(self, values: list[Tensor], weight: int) -> None:
        """Take in a batch; the metric sees its size for itself."""
        self.is_fresh = True
        if hasattr(self._metric, "to"):
            self._metric.to(values[0].device)
        self._metric.update(*values)

    def epoch(self) -> Tensor:
        """The value since the last reset. Shape ``[]``."""
        with warnings.catch_warnings():
            # After a resume torchmetrics do not know that the loaded sums were updated.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            value: Tensor = self._metric.compute()
        self._metric._computed = None
        return value

    def window(self) -> Tensor:
        """The same: the value since the last reset."""
        self.is_fresh = False
        return self.epoch()

    def reset(self) -> None:
        """Forget everything."""
        self._metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """The metric's own state."""
        return {"metric": dict(self._metric.state_dict()), "is_fresh": self.is_fresh}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._metric.load_state_dict(state["metric"])
        self.is_fresh = state.get("is_fresh", True)


Tally = FunctionTally | MetricTally


class Metric:
    """A metric as a config tells it.

    A function whose parameters include ``input`` is called with the values of the batch and
    averaged; anything else is called with ``args`` and makes an object that has ``update``,
    ``compute`` and ``reset``, a class of torchmetrics for example.

    Args:
        name: Name of the metric, for messages.
        type: Registered name, import path, or the class or function itself.
        input: Key in the state of the first argument.
        target: Key of the second; ``None`` for a metric without.
        train: Whether it is also measured in training, at every step.
        args: Further arguments of the class or function.

    Raises:
        ConfigError: ``type`` leads nowhere, or does not take these arguments.

    Example:
        >>> top2 = Metric("top2", "accuracy", input="logits", target="label", top=2)
        >>> top2.keys
        ['logits', 'label']
    """

    def __init__(
        self,
        name: str,
        type: str | Callable[..., Any],
        *,
        input: str,
        target: str | None = None,
        train: bool = True,
        **args: Any,
    ) -> None:
        self.name = name
        self.train = train
        self.keys = [input] if target is None else [input, target]
        found = _find(type) if isinstance(type, str) else type
        self._is_function = "input" in inspect.signature(found).parameters
        self._make = functools.partial(found, **args)
        try:
            if self._is_function:
                inspect.signature(found).bind(*self.keys, **args)
            else:
                self._make()
        except (TypeError, ValueError, RuntimeError) as err:
            raise ConfigError(
                f"The metric {name!r} of type {type!r} cannot be made with "
                f"input={input!r}, target={target!r} and {args or 'no further arguments'}: {err}"
            ) from err

    def tally(self) -> Tally:
        """A new tally of this metric."""
        return FunctionTally(self._make) if self._is_function else MetricTally(self._make())

    def missing(self, state: State) -> str | None:
        """The first key it reads that is not there."""
        return next((key for key in self.keys if key not in state), None)

    def values(self, state: State) -> list[Tensor]:
        """What it takes from the state.

        Raises:
            ConfigError: A key is not there.
        """
        try:
            return [state[key] for key in self.keys]
        except KeyError as err:
            raise ConfigError(
                f"The metric {self.name!r} reads {err.args[0]!r}, which neither the data nor a "
                f"step writes.{did_you_mean(err.args[0], state)}"
            ) from None


def _find(name: str) -> Callable[..., Any]:
    if name not in METRICS and "torchmetrics" in name and importlib.util.find_spec("torchvision"):
        import_torchvision()
    return METRICS.find(name)
