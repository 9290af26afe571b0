"""The loop: epochs, batches, validations, and the events around them."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from .data import Batch, Source
from .events import (
    CHECKPOINT,
    EPOCH_BEGIN,
    EPOCH_END,
    EXCEPTION,
    FIT_BEGIN,
    FIT_END,
    LOG,
    STEP_BEGIN,
    STEP_CANCELLED,
    STEP_END,
    VALIDATE_BEGIN,
    VALIDATE_END,
    Cancel,
    CancelEpoch,
    CancelFit,
    CancelStep,
)
from .modes import evaluating, train_only
from .phases import Phase
from .randomness import random_state, seed_all, set_random_state
from .schedules import Schedule
from .signals import noted_signals
from .state import State
from .targets import Target, targets_of

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("dni.trainer")


class Loop:
    """Runs the phases of a trainer, and knows what it takes to go on from where it is.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._targets: list[tuple[Schedule, Target]] = []
        self._break: BaseException | None = None
        self._is_updated = True
        self._validated_at = -1
        self._resumed: Mapping[str, Any] | None = None
        # Random states: before the validation that runs, and when the epoch began.
        self._outside: dict[str, Any] | None = None
        self._epoch_random: dict[str, Any] | None = None

    # -- a fit -------------------------------------------------------------------------------

    def fit(self) -> str:
        """See `Trainer.fit`."""
        trainer = self.trainer
        self.begin()
        phase = self._training_phases()[0]
        trainer.phase, trainer.stop_reason, trainer.exception = phase, None, None
        with noted_signals(self._note):
            try:
                trainer.handle(FIT_BEGIN)
                while trainer.stop_reason is None:
                    trainer.stop_reason = self._finished() or self._epoch()
            except CancelFit as cancel:
                trainer.stop_reason = cancel.reason
                if trainer.raise_on_cancel:
                    raise
            except BaseException as error:
                trainer.stop_reason = f"{type(error).__name__}: {error}"
                self._tell(error)
                raise
            finally:
                trainer.current = None
                trainer.handle(FIT_END, phase)
        return trainer.stop_reason

    def begin(self) -> None:
        """Get networks, schedules and random generators ready."""
        trainer, counters = self.trainer, self.trainer.counters
        self._targets = [
            (trainer.schedules[path], target) for path, target in targets_of(trainer).items()
        ]
        self._break = None
        trained: set[str] = set()
        for step in trainer.steps.values():
            names: Iterable[str] = getattr(step, "training", trainer.networks)
            trained.update(names)
        train_only(trainer.networks, trained)
        is_new = counters.step == 0 and counters.batch == 0 and self._resumed is None
        if is_new and trainer.seed is not None:
            seed_all(trainer.seed)

    def cancel(self, reason: str) -> None:
        """See `Trainer.cancel`."""
        if self._break is None:
            self._break = CancelFit(reason)

    def _note(self, error: BaseException) -> bool:
        """Keep a signal for the end of the step; the second one does not wait."""
        if self._break is not None and not isinstance(self._break, CancelFit):
            return False
        self._break = error
        return True

    def _finished(self) -> str | None:
        trainer, counters = self.trainer, self.trainer.counters
        if trainer.max_steps is not None and counters.step >= trainer.max_steps:
            return "max_steps"
        if trainer.max_epochs is not None and counters.epoch >= trainer.max_epochs:
            return "max_epochs"
        return None

    # -- training ----------------------------------------------------------------------------

    def _epoch(self) -> str | None:
        """Run what is left of an epoch; tell why the fit ends, if it does."""
        counters = self.trainer.counters
        phases = self._training_phases(counters.epoch)
        before, is_new = counters.step, counters.batch == 0 and counters.phase == 0
        while counters.phase < len(phases):
            finished = self.train(phases[counters.phase])
            if finished:
                return finished
        counters.phase = 0
        counters.epoch += 1
        # What was resumed after its last batch has no step left, and yet it had some.
        if is_new and counters.step == before and self.trainer.max_epochs is None:
            return "an epoch without one complete step"
        return None

    def train(self, phase: Phase) -> str | None:
        """Run a training phase over its data, or what is left of it; tell why the fit ends."""
        trainer, counters = self.trainer, self.trainer.counters
        source = self._source(phase)
        trainer.phase, trainer.batches = phase, source.count(training=True)
        trainer.batch = counters.batch
        resumed, self._resumed = self._resumed, None
        finished = None
        try:
            trainer.handle(EPOCH_BEGIN)
            if counters.stage == "batches":
                finished = self._train_batches(phase, source, resumed)
        except CancelEpoch:
            pass
        if resumed is not None and counters.stage != "batches":
            set_random_state(resumed["random"])
        if finished is None and counters.stage == "batches":
            counters.stage = "validate"
        if counters.stage != "end":
            self._close_epoch(phase, finished)
        self._announce(EPOCH_END, phase)
        if finished is None:
            counters.phase, counters.batch, counters.stage = counters.phase + 1, 0, "batches"
        if self._break is not None:
            raise self._break
        return finished

    def _close_epoch(self, phase: Phase, finished: str | None) -> None:
        """Validate and save after the last batch, if it is time or the fit ends."""
        trainer, counters = self.trainer, self.trainer.counters
        is_last = counters.phase >= len(self._training_phases(counters.epoch)) - 1
        count = counters.epoch + 1
        is_due = _due(trainer.validate_epochs, count) or finished is not None
        if is_last and is_due and self._validated_at != counters.step:
            self._validate_all()
        if finished is None:
            counters.stage = "end"
        if is_last and (_due(trainer.checkpoint_epochs, count) or finished is not None):
            trainer.handle(CHECKPOINT, phase)

    def _train_batches(
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
        while trainer.max_steps is None or counters.step < trainer.max_steps:
            batch = next(batches, None)
            if batch is None:
                break
            self._train_batch(phase, batch)
            if self._is_updated:
                if _due(trainer.validate_steps, counters.step):
                    self._validate_all()
                if _due(trainer.checkpoint_steps, counters.step):
                    trainer.handle(CHECKPOINT, phase)
            if self._break is not None:
                raise self._break
        else:
            # Only where nothing of the epoch is left is it complete.
            return None if counters.batch == trainer.batches else "max_steps"
        if counters.batch == 0:
            raise ConfigError(
                f"The data {phase.split!r} has not one batch; check that it is not empty and not "
                "smaller than a batch with `drop_last`."
            )
        return None

    def _train_batch(self, phase: Phase, batch: Batch) -> None:
        """One step, what is logged of it, and the counting."""
        trainer, counters = self.trainer, self.trainer.counters
        index = counters.step
        trainer.batch = counters.batch
        for schedule, target in self._targets:
            target.set(schedule(index))
        is_passed = False
        try:
            try:
                self._do(phase, batch)
                is_passed = True
            except Cancel as cancel:
                is_passed = True
                if not isinstance(cancel, CancelStep):
                    raise
            if self._is_updated and trainer.log.fires(index):
                for handler in trainer.callbacks.handlers[LOG]:
                    handler(trainer, phase)
                trainer.record.flush(step=index, epoch=counters.epoch)
        finally:
            # Also when a callback fails after the update: what is saved then is consistent.
            if is_passed or self._is_updated:
                counters.batch += 1
            if self._is_updated:
                counters.step += 1
                counters.samples += trainer.batch_size

    def _do(self, phase: Phase, batch: Batch) -> None:
        """One step of a phase with its events; `_is_updated` tells whether it was completed."""
        trainer, handlers = self.trainer, self.trainer.callbacks.handlers
        if trainer.device.type != "cpu":
            batch = {key: _moved(value, trainer.device) for key, value in batch.items()}
        trainer.step = state = State(batch)
        trainer.batch_size = state.batch_size()
        self._is_updated = False
        try:
            for handler in handlers[STEP_BEGIN]:
                handler(trainer, phase)
            phase.step(trainer, state)
            self._is_updated = True
            for handler in handlers[STEP_END]:
                handler(trainer, phase)
        except Cancel:
            trainer.current = None
            if not self._is_updated:
                for handler in handlers[STEP_CANCELLED]:
                    handler(trainer, phase)
            raise

    # -- validation --------------------------------------------------------------------------

    def _validate_all(self) -> None:
        for phase in self.trainer.phases:
            if not phase.training and phase.when.fires(self.trainer.counters.epoch):
                self.validate(phase)
        self._validated_at = self.trainer.counters.step

    def validate(self, phase: Phase) -> None:
        """Run a phase that does not train; networks' modes and random state are as before."""
        trainer = self.trainer
        source = self._source(phase)
        outer = trainer.phase, trainer.batch, trainer.batches, trainer.step, trainer.batch_size
        is_updated, self._outside = self._is_updated, random_state()
        trainer.phase, trainer.batches, trainer.batch = phase, source.count(), 0
        try:
            with evaluating(trainer.networks):
                try:
                    trainer.handle(VALIDATE_BEGIN)
                    self._validate_batches(phase, source)
                except CancelEpoch:
                    pass
                self._announce(VALIDATE_END, phase)
        finally:
            set_random_state(self._outside)
            self._is_updated, self._outside = is_updated, None
            trainer.phase, trainer.batch, trainer.batches, trainer.step, trainer.batch_size = outer

    def _validate_batches(self, phase: Phase, source: Source) -> None:
        for self.trainer.batch, batch in enumerate(source.batches(0)):
            with suppress(CancelStep):
                self._do(phase, batch)
            if self._break is not None and not isinstance(self._break, CancelFit):
                raise self._break

    # -- both --------------------------------------------------------------------------------

    def _training_phases(self, epoch: int | None = None) -> list[Phase]:
        """The phases that train, at all or in an epoch."""
        training = [phase for phase in self.trainer.phases if phase.training]
        if not training:
            raise ConfigError(
                f"None of the phases {self.trainer.phases} trains; give one that does."
            )
        return [phase for phase in training if epoch is None or phase.when.fires(epoch)]

    def _source(self, phase: Phase) -> Source:
        source = self.trainer.data.get(phase.split)
        if source is None:
            raise ConfigError(
                f"The phase {phase.name!r} is for the data {phase.split!r}, which is not there."
                f"{did_you_mean(phase.split, self.trainer.data)}"
            )
        return source

    def _announce(self, event: str, phase: Phase) -> None:
        """Tell all callbacks of an end, whatever one of them cancels, and flush the record."""
        trainer, cancelled = self.trainer, None
        for handler in trainer.callbacks.handlers[event]:
            try:
                handler(trainer, phase)
            except Cancel as cancel:
                cancelled = cancelled or cancel
        trainer.record.flush(step=trainer.counters.step, epoch=trainer.counters.epoch)
        if cancelled is not None and not isinstance(cancelled, CancelEpoch):
            raise cancelled

    def _tell(self, error: BaseException) -> None:
        """Let callbacks hear of an error; one of their own is logged and hides nothing."""
        trainer = self.trainer
        trainer.exception = error
        for handler in trainer.callbacks.handlers[EXCEPTION]:
            try:
                handler(trainer, trainer.phase)
            except Exception:
                logger.exception("a callback failed while it heard of: %s", error)

    # -- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The random states to go on with, and where it last validated."""
        return {
            "random": self._outside or (self._resumed or {}).get("random") or random_state(),
            "epoch_random": (self._resumed or {}).get("epoch_random") or self._epoch_random,
            "validated_at": self._validated_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, when the next phase begins."""
        self._validated_at = state["validated_at"]
        self._resumed = state


def _due(every: int | None, count: int) -> bool:
    return every is not None and count % every == 0


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
