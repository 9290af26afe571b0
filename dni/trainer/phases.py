"""Phases: what is done with the batches of a split, and whether networks learn from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError, did_you_mean
from .data import Source
from .registry import PHASES
from .state import State
from .when import When

if TYPE_CHECKING:
    from .trainer import Trainer


class Phase:
    """What is done with each batch of a split.

    A phase of your own is a subclass with a `step`. The trainer sees to everything around it:
    the events ``step_begin`` and ``step_end``, counters, cancelling, and which mode networks
    are in. Events inside it are yours to announce (``trainer.handle("loss_begin", self)``).

    Attributes:
        name: What records and bars call it.
        training: Whether networks learn. Otherwise there is no grad, and nothing counts.
        split: Which of the trainer's data it is for.
        when: At which epochs it runs, counted from 0; one that does not train runs whenever
            validation does in such an epoch.

    Example:
        >>> class Count(Phase):
        ...     name, split = "count", "validation"
        ...
        ...     def step(self, trainer, batch):
        ...         trainer.shared["seen"] = trainer.shared.get("seen", 0) + len(batch.image)
    """

    name: str = "phase"
    training: bool = False
    split: str = "validation"
    when: When = When()

    def step(self, trainer: Trainer, batch: State) -> None:
        """What is done with one batch; the trainer's steps, one after the other.

        Args:
            trainer: The trainer.
            batch: Values of the batch; what is written to it, callbacks can read.
        """
        for step in trainer.steps.values():
            trainer.current = step
            step(trainer, batch, self)
        trainer.current = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, split={self.split!r})"


@PHASES.register("training")
class TrainingPhase(Phase):
    """Every step of the trainer on every batch of the training data."""

    name, training, split = "train", True, "train"


@PHASES.register("validation")
class ValidationPhase(Phase):
    """Every step of the trainer on every batch of a split, without grad and without updates.

    Args:
        split: The split; also the phase's name.
    """

    name, training, split = "validation", False, "validation"

    def __init__(self, split: str = "validation") -> None:
        self.name = self.split = split


def source_of(trainer: Trainer, phase: Phase) -> Source:
    """The data that a phase is for.

    Raises:
        ConfigError: It is not there.
    """
    source = trainer.data.get(phase.split)
    if source is None:
        raise ConfigError(
            f"The phase {phase.name!r} is for the data {phase.split!r}, which is not there."
            f"{did_you_mean(phase.split, trainer.data)}"
        )
    return source
