"""Episodes as data of the trainer: windows in order, of the length the curriculum is at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dni.errors import ConfigError, did_you_mean
from dni.trainer.data import Batch, Source

from .episodes import TASKS, Length, Task
from .windows import Window, cut

_FRESH = 1_000_003  # apart from the seeds of training


@dataclass(frozen=True)
class Place:
    """Where an episode began.

    Attributes:
        batch: Windows before it.
        length: How long it is.
        random: State of the generator that then drew it.
    """

    batch: int
    length: Length
    random: Tensor

    def saved(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        return {"batch": self.batch, "length": asdict(self.length), "random": self.random}

    @classmethod
    def loaded(cls, saved: dict[str, Any]) -> Place:
        """The place that `saved` was called on."""
        return cls(saved["batch"], Length(**saved["length"]), saved["random"])


class Episodes(Source):
    """Windows of one episode after the other, without end.

    A batch has ``inputs`` ``[T, B, *]``, ``targets`` ``[T, B, *]``, ``asked`` ``[T]``, ``steps``,
    by which its loss is divided, ``done``, whether the episode ends with it, and with
    ``foresight`` also ``due`` ``[B, *]``, the answers of the steps that follow.

    Args:
        task: Name of the task.
        batch_size: Sequences side by side.
        window: Steps that are back-propagated through; ``None`` for whole episodes. The first
            window of an episode is shorter by a random number of steps.
        foresight: Steps after a window whose answers ``due`` tells.

    Attributes:
        length: Of the next episode; the callback `Curriculum` sets it.
        place: Where the episode that is under way began.
    """

    def __init__(
        self,
        task: str = "copy",
        *,
        batch_size: int = 32,
        window: int | None = 4,
        foresight: int = 0,
    ) -> None:
        self.task, self.window, self.foresight = find_task(task), window, foresight
        if window is not None and window < 1 or foresight < 0:
            raise ConfigError(
                f"`window` is {window} and `foresight` {foresight}; a window of at least one step "
                "is needed (null for whole episodes), and 0 or more steps of foresight."
            )
        super().__init__((), batch_size=batch_size)
        self.length = Length()
        self.place: Place | None = None

    def count(self, *, training: bool = False) -> int | None:
        """Unknown: there is no end."""
        return None

    def batches(self, epoch: int, *, start: int = 0, training: bool = False) -> Iterator[Batch]:
        """The windows, from one of them on.

        Raises:
            ConfigError: Nobody tells where the run was, which is what `Curriculum` does.
        """
        generator, batch, length = torch.Generator(), 0, self.length
        if not start:
            generator.manual_seed((self.seed or 0) + epoch * _FRESH)
        elif self.place is not None:
            batch, length = self.place.batch, self.place.length
            generator.set_state(self.place.random)
        else:
            raise ConfigError(
                "A run on episodes goes on where its callback `Curriculum` says, and it has none."
            )
        while True:
            if training:
                self.place = Place(batch, length, generator.get_state())
            episode = self.task.make(length, self.batch_size, generator)
            offset = int(torch.randint(self.window or 1, (1,), generator=generator))
            for window in cut(episode, self.window, offset=offset, foresight=self.foresight):
                if batch >= start:
                    yield named(window, self.window)
                batch += 1
            length = self.length

    def order(self, epoch: int, *, training: bool = False) -> None:
        """None: samples are drawn as they are needed."""

    def state_dict(self) -> dict[str, Any]:
        """What the windows depend on."""
        settings = {"task": self.task.name, "window": self.window, "foresight": self.foresight}
        return {**super().state_dict(), **settings}


class Trials(Source):
    """A whole episode of each pattern length, the same in every evaluation.

    Args:
        task: Name of the task.
        batch_size: Sequences of each length.
        longest: The largest length; repeats are as many as in the curriculum.
    """

    def __init__(self, task: str = "copy", *, batch_size: int = 32, longest: int = 8) -> None:
        self.task, length = find_task(task), Length()
        self.lengths = [length]
        while (length := self.task.longer(length)).pattern <= longest:
            self.lengths.append(length)
        super().__init__(self.lengths, batch_size=batch_size)

    def count(self, *, training: bool = False) -> int:
        """One batch for each length."""
        return len(self.lengths)

    def batches(self, epoch: int, *, start: int = 0, training: bool = False) -> Iterator[Batch]:
        """The episodes, each as one window."""
        generator = torch.Generator().manual_seed((self.seed or 0) + 1 + _FRESH)
        for number, length in enumerate(self.lengths):
            (window,) = cut(self.task.make(length, self.batch_size, generator), None)
            if number >= start:
                yield named(window, None)

    def order(self, epoch: int, *, training: bool = False) -> None:
        """None: samples are drawn as they are needed."""


def named(window: Window, size: int | None) -> Batch:
    """A window as a batch of the trainer; see `Episodes`."""
    batch = {
        "inputs": window.inputs,
        "targets": window.targets,
        "asked": window.asked,
        "steps": float(size or window.asked.sum()),
        "done": window.is_last,
    }
    return batch if window.due is None else {**batch, "due": window.due}


def find_task(name: str) -> Task:
    """A task by its name.

    Raises:
        ConfigError: There is none.
    """
    if name not in TASKS:
        raise ConfigError(f"There is no task {name!r}.{did_you_mean(str(name), TASKS)}")
    return TASKS[name]
