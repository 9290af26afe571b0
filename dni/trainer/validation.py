"""Validation: the phases that do not train, and the schedules that go by what they report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean
from .data import Source
from .events import VALIDATE_BEGIN, VALIDATE_END, CancelEpoch, CancelStep, announce
from .interruption import Interruption
from .iteration import Iteration
from .modes import evaluating
from .phases import Phase, source_of
from .randomness import random_state, set_random_state
from .schedules import Schedule

if TYPE_CHECKING:
    from .trainer import Trainer


class Validation:
    """Runs the phases that do not train.

    Args:
        trainer: The trainer.
        iteration: What runs a batch.
        interruption: What may end it.

    Attributes:
        at: Updates made when all of them ran last.
        outside: Random state before the phase that runs; ``None`` where none does.
    """

    def __init__(self, trainer: Trainer, iteration: Iteration, interruption: Interruption) -> None:
        self.trainer, self.iteration, self.interruption = trainer, iteration, interruption
        self.at = -1
        self.outside: dict[str, Any] | None = None

    def run_due(self) -> None:
        """Run all phases if there are as many updates as `validate_steps` asks for."""
        trainer, step = self.trainer, self.trainer.counters.step
        if trainer.validate_steps and step % trainer.validate_steps == 0 and self.at != step:
            self.run_all()

    def run_all(self) -> None:
        """Run all phases whose turn it is, and tell the schedules that go by what they report."""
        trainer = self.trainer
        found: dict[str, float] = {}
        for phase in trainer.phases:
            if not phase.training and phase.when.fires(trainer.counters.epoch):
                found |= self.run(phase)
        for path, schedule in trainer.schedules.items():
            if schedule.monitor is not None:
                self._tell(path, schedule, schedule.monitor, found)
        self.at = trainer.counters.step

    def run(self, phase: Phase) -> dict[str, float]:
        """Run a phase that does not train; networks' modes and random state are as before.

        Returns:
            The scalars that were reported.
        """
        trainer, iteration = self.trainer, self.iteration
        source = source_of(trainer, phase)
        outer = trainer.phase, trainer.batch, trainer.batches, trainer.step, trainer.batch_size
        is_complete, self.outside = iteration.is_complete, random_state()
        trainer.phase, trainer.batches, trainer.batch = phase, source.count(), 0
        try:
            with evaluating(trainer.networks):
                try:
                    trainer.handle(VALIDATE_BEGIN)
                    self._run_batches(phase, source)
                except CancelEpoch:
                    pass
                return announce(trainer, VALIDATE_END, phase)
        finally:
            set_random_state(self.outside)
            iteration.is_complete, self.outside = is_complete, None
            trainer.phase, trainer.batch, trainer.batches, trainer.step, trainer.batch_size = outer

    def _run_batches(self, phase: Phase, source: Source) -> None:
        for self.trainer.batch, batch in enumerate(source.batches(0)):
            with suppress(CancelStep):
                self.iteration.run(phase, batch)
            self.interruption.check(signals_only=True)

    def _tell(
        self, path: str, schedule: Schedule, monitor: str, found: Mapping[str, float]
    ) -> None:
        if monitor in found:
            schedule.hear(found[monitor])
        elif monitor not in self.trainer.record.latest and not is_awaited(self.trainer, monitor):
            near = did_you_mean(monitor, found) or f" It reported: {', '.join(found) or 'nothing'}."
            raise ConfigError(
                f"The schedule {path!r} goes by {monitor!r}, which the validation did not report."
                f"{near}"
            )


def check_monitor(trainer: Trainer, path: str, schedule: Schedule) -> None:
    """Check that a schedule which goes by what validation reports will hear anything.

    Raises:
        ConfigError: Nothing validates.
    """
    if schedule.monitor is None:
        return
    is_timed = trainer.validate_epochs is not None or trainer.validate_steps is not None
    if not is_timed or all(phase.training for phase in trainer.phases):
        missing = "`validate/every_epochs` or `validate/every_steps`"
        needed = "Add data `validation`." if is_timed else f"Set {missing}."
        raise ConfigError(
            f"The schedule {path!r} goes by {schedule.monitor!r}, and nothing is ever validated. "
            f"{needed}"
        )


def is_awaited(trainer: Trainer, monitor: str) -> bool:
    """Whether a value may be of an evaluator whose turn does not come with every validation."""
    evaluators = trainer.callbacks.find("Evaluators")
    return any(
        entry.every_epochs is not None and monitor.startswith(f"{entry.split}/{entry.name}/")
        for entry in (() if evaluators is None else evaluators.entries)
    )


def value_at_end(trainer: Trainer, phase: Phase, monitor: str) -> float | None:
    """A value, for who hears of the end of every phase that validates and is to hear it once.

    Returns:
        The value; ``None`` if it comes, came or will come with the end of another phase.

    Raises:
        ConfigError: It should have been reported by now; the nearest name is given.
    """
    waiting = trainer.record.waiting()
    if monitor in waiting:
        return float(waiting[monitor])
    validating = [p for p in trainer.phases if not p.training]
    owners = [p for p in validating if monitor.startswith((f"{p.name}/", f"{p.split}/"))]
    if phase is not (owners or validating or [phase])[-1]:
        return None
    if owners and (monitor in trainer.record.latest or is_awaited(trainer, monitor)):
        return None
    return trainer.record.value(monitor)
