"""Ends a run early: nothing gets better, or a loss is no longer a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ConfigError
from ..events import Callback, CancelFit
from ..registry import CALLBACKS
from ..validation import value_at_end
from .metrics import LOSS

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer

MODES = ("min", "max")


def check_mode(mode: str) -> str:
    """The mode, if it is ``"min"`` or ``"max"``.

    Raises:
        ConfigError: It is neither.
    """
    if mode not in MODES:
        raise ConfigError(f"`mode` is {mode!r}; it must be 'min' (less is better) or 'max'.")
    return mode


@CALLBACKS.register("early_stopping")
class EarlyStopping(Callback):
    """Ends the run when a validated value has not got better for some validations.

    Args:
        monitor: Name of the value, as it is reported: ``"validation/accuracy"``.
        mode: ``"min"`` where less is better, ``"max"`` where more is.
        patience: Validations without a better value that are borne.
        min_delta: By how much a value must be better to count.

    Raises:
        ConfigError: An argument has no meaning; or, at the first validation, nothing of the name
            ``monitor`` is reported.
    """

    reads = ("record",)

    def __init__(
        self, monitor: str, *, mode: str = "min", patience: int = 5, min_delta: float = 0.0
    ) -> None:
        if patience < 1 or min_delta < 0:
            raise ConfigError(
                f"`patience` is {patience} and must be at least 1; `min_delta` is {min_delta} and "
                "must not be negative."
            )
        self.monitor, self.mode = monitor, check_mode(mode)
        self.patience, self.min_delta = patience, min_delta
        self.best = math.inf if mode == "min" else -math.inf
        self.waited = 0

    def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
        """Compare with the best value so far, if it is this phase that reports it."""
        value = value_at_end(trainer, phase, self.monitor)
        if value is None:
            return
        gain = self.best - value if self.mode == "min" else value - self.best
        if gain > self.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            # Not at once: what was validated is still to be saved.
            trainer.cancel(
                f"{self.monitor} has not got better than {self.best:.6g} in {self.waited} "
                "validations"
            )

    def state_dict(self) -> dict[str, Any]:
        """The best value and for how long there was no better one."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.best, self.waited = state["best"], state["waited"]


@CALLBACKS.register("stop_on_nan")
class StopOnNaN(Callback):
    """Ends the run when a loss is infinite or not a number.

    On the CPU that is before the step makes its update: the parameters are still good. Reading
    a loss from another device would wait for it at every step: there the losses are gathered and
    looked at every so many steps, and before every checkpoint, so that none holds such numbers.

    Args:
        every: Steps between two looks at losses on a device other than the CPU.

    Attributes:
        has_stopped: Whether it ended the run: what the networks hold now may be of no use.
    """

    reads = ("step",)

    def __init__(self, every: int = 50) -> None:
        if every < 1:
            raise ConfigError(f"`every` is {every} and must be at least 1.")
        self.every = every
        self.has_stopped = False
        self._waiting: dict[str, Tensor] = {}

    def on_optimizer_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Look at the losses, or put them by."""
        found = []
        for key, value in trainer.step.items():
            if not key.startswith(LOSS):
                continue
            if value.device.type == "cpu":
                if not math.isfinite(value.item() if value.dim() == 0 else value.sum().item()):
                    found.append(key)
            else:
                bad = (~torch.isfinite(value.detach())).any()
                known = self._waiting.get(key)
                self._waiting[key] = bad if known is None else known | bad
        if found:
            self._stop(found, trainer.counters.step)
        if self._waiting and (trainer.counters.step + 1) % self.every == 0:
            self._look(trainer)

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Look at the losses of a batch whose gradients wait for others."""
        if phase.training and not trainer.ends_step:
            self.on_optimizer_begin(trainer, phase)

    def on_checkpoint(self, trainer: Trainer, phase: Phase | None) -> None:
        """Look before something is saved."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        waiting, self._waiting = self._waiting, {}
        if found := [key for key, bad in waiting.items() if bad.item()]:
            self._stop(found, trainer.counters.step)

    def _stop(self, keys: list[str], step: int) -> None:
        self.has_stopped = True
        # A sum says less than its terms.
        key = min(keys, key=lambda key: key.endswith("/total"))
        raise CancelFit(
            f"the loss {key.removeprefix(LOSS)!r} is not finite at step {step}. Lower the learning "
            "rate, clip gradients (`clip` of the step), or look for such values in the data; the "
            "newest checkpoint, if there is one yet, is from before"
        )
