"""The loop over epochs, how a fit ends, and what it takes to go on amid it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .events import EXCEPTION, FIT_BEGIN, FIT_END, CancelFit
from .interruption import Interruption
from .iteration import Iteration
from .modes import train_only
from .phases import Phase
from .randomness import seed_all
from .signals import noted_signals
from .training import Training
from .validation import Validation, check_monitor

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("dni.trainer")


class Loop:
    """Runs the phases of a trainer, and knows what it takes to go on from where it is.

    Args:
        trainer: The trainer.

    Attributes:
        interruption: What is to end the fit.
        validation: The phases that do not train.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.interruption, iteration = Interruption(), Iteration(trainer)
        self.validation = Validation(trainer, iteration, self.interruption)
        self._training = Training(trainer, iteration, self.interruption, self.validation)

    # -- a fit -------------------------------------------------------------------------------

    def fit(self) -> str:
        """See `Trainer.fit`."""
        trainer = self.trainer
        self.begin()
        for path, schedule in trainer.schedules.items():
            check_monitor(trainer, path, schedule)
        phase = self._training_phases()[0]
        trainer.phase, trainer.stop_reason, trainer.exception = phase, None, None
        with noted_signals(self.interruption.note):
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
        self._training.begin()
        self.interruption.clear()
        trained: set[str] = set()
        for step in trainer.steps.values():
            names: Iterable[str] = getattr(step, "training", trainer.networks)
            trained.update(names)
        train_only(trainer.networks, trained)
        is_new = counters.step == 0 and counters.batch == 0 and self._training.resumed is None
        if is_new and trainer.seed is not None:
            seed_all(trainer.seed)

    def _finished(self) -> str | None:
        trainer, counters = self.trainer, self.trainer.counters
        if trainer.max_steps is not None and counters.step >= trainer.max_steps:
            return "max_steps"
        if trainer.max_epochs is not None and counters.epoch >= trainer.max_epochs:
            return "max_epochs"
        return None

    def _tell(self, error: BaseException) -> None:
        """Let callbacks hear of an error; one of their own is logged and hides nothing."""
        trainer = self.trainer
        trainer.exception = error
        for handler in trainer.callbacks.handlers[EXCEPTION]:
            try:
                handler(trainer, trainer.phase)
            except Exception:
                logger.exception("a callback failed while it heard of: %s", error)

    # -- an epoch ----------------------------------------------------------------------------

    def _epoch(self) -> str | None:
        """Run what is left of an epoch; tell why the fit ends, if it does."""
        counters = self.trainer.counters
        phases = self._training_phases(counters.epoch)
        before = counters.step, counters.part
        is_new = counters.batch == 0 and counters.phase == 0
        while counters.phase < len(phases):
            finished = self.train(phases[counters.phase])
            if finished:
                return finished
        counters.phase = 0
        counters.epoch += 1
        # What was resumed after its last batch has no step left, and yet it had some.
        is_idle = is_new and before == (counters.step, counters.part)
        if is_idle and self.trainer.max_epochs is None:
            return "an epoch without one complete step"
        return None

    def train(self, phase: Phase) -> str | None:
        """Run a training phase over its data, or what is left of it; tell why the fit ends."""
        counters = self.trainer.counters
        is_last = counters.phase >= len(self._training_phases(counters.epoch)) - 1
        return self._training.run(phase, ends_epoch=is_last)

    def _training_phases(self, epoch: int | None = None) -> list[Phase]:
        """The phases that train, at all or in an epoch."""
        training = [phase for phase in self.trainer.phases if phase.training]
        if not training:
            raise ConfigError(
                f"None of the phases {self.trainer.phases} trains; give one that does."
            )
        return [phase for phase in training if epoch is None or phase.when.fires(epoch)]

    # -- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The random states to go on with, where it last validated, and what schedules heard."""
        heard = {path: s for path, s in self.trainer.schedules.items() if s.monitor is not None}
        return {
            **self._training.random_states(),
            "validated_at": self.validation.at,
            "schedules": {path: schedule.state_dict() for path, schedule in heard.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, when the next phase begins."""
        self.validation.at = state["validated_at"]
        for path, saved in state.get("schedules", {}).items():
            if path in self.trainer.schedules:
                self.trainer.schedules[path].load_state_dict(saved)
        self._training.resumed = state
