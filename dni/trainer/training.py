"""Training: a phase over its data, batch by batch, or over what is left of it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .data import Batch, Source
from .events import (
    CHECKPOINT,
    EPOCH_BEGIN,
    EPOCH_END,
    LOG,
    Cancel,
    CancelEpoch,
    CancelStep,
    announce,
)
from .interruption import Interruption
from .iteration import Iteration
from .phases import Phase, source_of
from .randomness import random_state, set_random_state
from .schedules import Schedule
from .targets import Target, targets_of
from .validation import Validation

if TYPE_CHECKING:
    from .trainer import Trainer


class Training:
    """Runs the phases that train.

    Args:
        trainer: The trainer.
        iteration: What runs a batch.
        interruption: What may end it.
        validation: What is run now and then.

    Attributes:
        resumed: Random states to go on with; ``None`` where nothing is gone on with.
    """

    def __init__(
        self,
        trainer: Trainer,
        iteration: Iteration,
        interruption: Interruption,
        validation: Validation,
    ) -> None:
        self.trainer, self.iteration = trainer, iteration
        self.interruption, self.validation = interruption, validation
        self.resumed: Mapping[str, Any] | None = None
        self._targets: list[tuple[Schedule, Target]] = []
        self._epoch_random: dict[str, Any] | None = None  # when the epoch began

    def begin(self) -> None:
        """Find what the schedules set."""
        trainer = self.trainer
        self._targets = [
            (trainer.schedules[path], target) for path, target in targets_of(trainer).items()
        ]

    def run(self, phase: Phase, *, ends_epoch: bool) -> str | None:
        """Run a phase over its data, or what is left of it.

        Args:
            phase: The phase.
            ends_epoch: Whether the epoch ends with it.

        Returns:
            Why the fit ends, if it does.
        """
        trainer, counters = self.trainer, self.trainer.counters
        source = source_of(trainer, phase)
        trainer.phase, trainer.batches = phase, source.count(training=True)
        trainer.batch = counters.batch
        resumed, self.resumed = self.resumed, None
        finished = None
        try:
            trainer.handle(EPOCH_BEGIN)
            if counters.stage == "batches":
                finished = self._run_batches(phase, source, resumed)
        except CancelEpoch:
            pass
        if resumed is not None and counters.stage != "batches":
            set_random_state(resumed["random"])
        if finished is None and counters.stage == "batches":
            counters.stage = "validate"
        if counters.stage != "end":
            self._close_epoch(phase, finished, ends_epoch=ends_epoch)
        announce(trainer, EPOCH_END, phase)
        if finished is None:
            counters.phase, counters.batch, counters.stage = counters.phase + 1, 0, "batches"
        self.interruption.check()
        return finished

    def _close_epoch(self, phase: Phase, finished: str | None, *, ends_epoch: bool) -> None:
        """Validate and save after the last batch, if it is time or the fit ends."""
        trainer, counters = self.trainer, self.trainer.counters
        count = counters.epoch + 1
        is_due = _due(trainer.validate_epochs, count) or finished is not None
        if ends_epoch and is_due and self.validation.at != counters.step:
            self.validation.run_all()
        if finished is None:
            counters.stage = "end"
        if ends_epoch and (_due(trainer.checkpoint_epochs, count) or finished is not None):
            trainer.handle(CHECKPOINT, phase)

    def _run_batches(
        self, phase: Phase, source: Source, resumed: Mapping[str, Any] | None
    ) -> str | None:
        trainer, counters = self.trainer, self.trainer.counters
        is_replayed = counters.batch > 0 and not source.is_map
        if is_replayed and resumed is not None:
            set_random_state(resumed["epoch_random"])
        self._epoch_random = None if source.is_map else random_state()
        start = 0 if is_replayed else counters.batch
        batches = source.batches(counters.epoch, start=start, training=True)
        if is_replayed:
            # Whatever makes them drew their order when the epoch began: it is drawn again.
            deque(itertools.islice(batches, counters.batch), maxlen=0)
        if resumed is not None:
            set_random_state(resumed["random"])
            if counters.batch > 0 and counters.part == 0:
                self.validation.run_due()  # it may have been cut short
        while trainer.max_steps is None or counters.step < trainer.max_steps:
            batch = next(batches, None)
            if batch is None:
                break
            self._run_batch(phase, batch)
            if self.iteration.is_complete and counters.part == 0:
                self.validation.run_due()
                if _due(trainer.checkpoint_steps, counters.step):
                    trainer.handle(CHECKPOINT, phase)
            self.interruption.check()
        else:
            # Only where nothing of the epoch is left is it complete.
            return None if counters.batch == trainer.batches else "max_steps"
        if counters.batch == 0:
            raise ConfigError(
                f"The data {phase.split!r} has not one batch; check that it is not empty and not "
                "smaller than a batch with `drop_last`."
            )
        return None

    def _run_batch(self, phase: Phase, batch: Batch) -> None:
        """One batch, what is logged of the update that it ends, and the counting."""
        trainer, counters, iteration = self.trainer, self.trainer.counters, self.iteration
        index = counters.step
        trainer.batch = counters.batch
        for schedule, target in self._targets:
            target.set(schedule(index))
        is_passed = False
        try:
            try:
                iteration.run(phase, batch)
                is_passed = True
            except Cancel as cancel:
                is_passed = True
                if not isinstance(cancel, CancelStep):
                    raise
            if iteration.is_complete and trainer.ends_step and trainer.log.fires(index):
                for handler in trainer.callbacks.handlers[LOG]:
                    handler(trainer, phase)
                trainer.record.flush(step=index, epoch=counters.epoch)
        finally:
            # Also when a callback fails after the update: what is saved then is consistent.
            if is_passed or iteration.is_complete:
                counters.batch += 1
            if iteration.is_complete:
                counters.samples += trainer.batch_size
                is_updated = trainer.ends_step
                counters.part = 0 if is_updated else counters.part + 1
                counters.step += is_updated

    # -- saving ------------------------------------------------------------------------------

    def random_states(self) -> dict[str, Any]:
        """Random states to go on with: now, and when the epoch began."""
        resumed = self.resumed or {}
        return {
            "random": self.validation.outside or resumed.get("random") or random_state(),
            "epoch_random": resumed.get("epoch_random") or self._epoch_random,
        }


def _due(every: int | None, count: int) -> bool:
    return every is not None and count % every == 0
