"""Evaluators: classes of a config that measure networks beside, or instead of, validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean
from .evaluation import ends_epochs
from .events import Callback, CancelEpoch, CancelStep
from .findings import Findings
from .phases import Phase, ValidationPhase
from .state import State

if TYPE_CHECKING:
    from .trainer import Trainer


class Evaluator(ABC):
    """Measures networks on a split: `begin`, `update` for each batch, `result`.

    Its own arguments are those of its constructor, under ``evaluators/<name>`` in a config.

    Attributes:
        reads: Keys of the state it needs.
        calls: Networks it needs.
        needs_data: Whether it is to be given batches; an evaluator that draws its own samples
            needs none, and does everything in `result`.

    Example:
        >>> class Confidence(Evaluator):
        ...     reads = ("logits",)
        ...
        ...     def begin(self, trainer):
        ...         self.top = []
        ...
        ...     def update(self, trainer, state):
        ...         self.top.append(state["logits"].softmax(1).amax(1))
        ...
        ...     def result(self, trainer):
        ...         return {"mean": torch.cat(self.top).mean()}
    """

    reads: str | tuple[str, ...] = ()
    calls: str | tuple[str, ...] = ()
    needs_data: bool = True

    def begin(self, trainer: Trainer) -> None:  # noqa: B027
        """Get ready for an evaluation; an average of the weights is in its place by now."""

    def update(self, trainer: Trainer, state: State) -> None:  # noqa: B027
        """Take in a batch.

        Args:
            trainer: The trainer; networks are in evaluation mode and there is no grad.
            state: The batch, and what the steps wrote unless the evaluator is alone.
        """

    @abstractmethod
    def result(self, trainer: Trainer) -> Mapping[str, Any]:
        """What was found.

        Returns:
            Numbers, and images of bytes ``[H, W]`` or ``[C, H, W]``; mappings of them too.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""


class EvaluatorPhase(Phase):
    """An evaluator instead of validation: batches go to it as the data brings them.

    Args:
        name: The evaluator's name.
        split: The data.
        entry: The evaluator.
    """

    def __init__(self, name: str, split: str, entry: Entry) -> None:
        self.name, self.split, self.training = f"evaluators/{name}", split, False
        self.entry = entry

    def step(self, trainer: Trainer, batch: State) -> None:
        """Hand on a batch; no step is run."""
        if not (self.entry.is_running and self.entry.evaluator.needs_data):
            raise CancelEpoch
        self.entry.update(trainer, batch)
        # Whoever listens to the end of a step reads what steps write, which is not there.
        raise CancelStep


@dataclass
class Entry:
    """An evaluator, and when it is to run.

    Args:
        name: Its name.
        evaluator: The evaluator.
        split: The data.
        every_epochs: At the validations at the end of every so many epochs, and when the run
            ends; ``None``: at all validations.
        alone: Whether it runs instead of the steps.
    """

    name: str
    evaluator: Evaluator
    split: str = "validation"
    every_epochs: int | None = None
    alone: bool = False
    is_running: bool = False
    has_begun: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of the state that it needs."""
        return _listed(self.evaluator.reads)

    @property
    def calls(self) -> tuple[str, ...]:
        """Networks that it needs."""
        return _listed(self.evaluator.calls)

    def is_due(self, trainer: Trainer) -> bool:
        """Whether it runs at a validation that begins now, within a fit."""
        return self.every_epochs is None or ends_epochs(trainer, self.every_epochs)

    def begin(self, trainer: Trainer) -> None:
        """Begin, if that was not done."""
        if not self.has_begun:
            self.evaluator.begin(trainer)
            self.has_begun = True

    def update(self, trainer: Trainer, state: State) -> None:
        """Take in a batch.

        Raises:
            ConfigError: A key it reads is not there.
        """
        self.begin(trainer)
        for key in self.reads:
            state.read(key, by=f"evaluator {self.name!r}")
        self.evaluator.update(trainer, state)


class Evaluators(Callback):
    """Runs the evaluators of a config, and reports ``<split>/<name>/<key>``.

    Args:
        entries: The evaluators.
    """

    reads = ("step",)
    writes = ("record/evaluators",)

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._is_fitting = False

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Note that evaluators run when it is their turn, not whenever they are asked for."""
        self._is_fitting = True

    def on_fit_end(self, trainer: Trainer, phase: Phase) -> None:
        """Note that it is over."""
        self._is_fitting = False

    def on_validate_begin(self, trainer: Trainer, phase: Phase) -> None:
        """See whose turn it is."""
        for entry in self._of(phase):
            entry.is_running = not self._is_fitting or entry.is_due(trainer)
            entry.has_begun = False

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Hand on what the steps made of a batch."""
        if not phase.training:
            for entry in self._of(phase):
                if entry.is_running and entry.evaluator.needs_data:
                    entry.update(trainer, trainer.step)

    def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
        """Report what they found."""
        for entry in self._of(phase):
            if entry.is_running:
                entry.is_running = False
                entry.begin(trainer)
                result = entry.evaluator.result(trainer)
                found = Findings.of(result, by=f"evaluator {entry.name!r}")
                found.report(trainer, f"{entry.split}/{entry.name}")

    def _of(self, phase: Phase) -> list[Entry]:
        if isinstance(phase, EvaluatorPhase):
            return [phase.entry]
        return [e for e in self.entries if _validates(phase, e.split) and not e.alone]

    def state_dict(self) -> dict[str, Any]:
        """The state of every evaluator that has one, by name."""
        return {e.name: state for e in self.entries if (state := e.evaluator.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for entry in self.entries:
            if entry.name in state:
                entry.evaluator.load_state_dict(state[entry.name])


def attach_evaluators(trainer: Trainer, entries: list[Entry]) -> None:
    """Let a trainer run evaluators: beside its validation, or in phases of their own.

    Raises:
        ConfigError: There is no such split or network, or nothing ever validates.
    """
    if not entries:
        return
    for entry in entries:
        if entry.split not in trainer.data:
            raise ConfigError(
                f"The evaluator {entry.name!r} is for the data {entry.split!r}, which is not "
                f"there.{did_you_mean(entry.split, trainer.data)}"
            )
        for name in entry.calls:
            if name not in trainer.networks:
                raise ConfigError(
                    f"The evaluator {entry.name!r} calls the network {name!r}, which is not "
                    f"there.{did_you_mean(name, trainer.networks)}"
                )
    if trainer.validate_epochs is None and trainer.validate_steps is None:
        raise ConfigError(
            f"The evaluator {entries[0].name!r} would never run: nothing is validated. Set "
            "`validate/every_epochs` or `validate/every_steps`."
        )
    # First: results are asked for while an average is still in the place of the weights.
    trainer.callbacks.replace([Evaluators(entries), *trainer.callbacks])
    alone = {entry.split for entry in entries if entry.alone}
    beside = {entry.split for entry in entries if not entry.alone}
    trainer.phases = [
        phase
        for phase in trainer.phases
        if not any(_validates(phase, split) for split in alone - beside)
    ]
    for split in sorted(beside):
        if not any(_validates(phase, split) for phase in trainer.phases):
            trainer.phases.append(ValidationPhase(split))
    trainer.phases += [EvaluatorPhase(e.name, e.split, e) for e in entries if e.alone]


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _validates(phase: Phase, split: str) -> bool:
    """Whether a phase is the validation of a split, whatever its class."""
    return not phase.training and phase.name == phase.split == split
