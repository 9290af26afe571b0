"""The schedule that falls when a validated value stops getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, did_you_mean
from .registry import SCHEDULES
from .schedules import Schedule, number


@SCHEDULES.register("plateau")
class Plateau(Schedule):
    r"""Falls by a factor whenever a validated value has not got better for some validations.

    The same numbers as ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with ``eps=0``, after a
    warm-up in a straight line. A value is better if it is below
    :math:`(1 - t) \cdot \text{best}`; with ``mode: max`` above
    :math:`(1 + t) \cdot \text{best}`; where the threshold is absolute, further than :math:`t`
    from the best. It is told once in a validation that reports the value, in the block
    ``schedules`` of a config, and is part of the checkpoint.

    Args:
        start_value: Value after the warm-up.
        monitor: What it goes by, as it is reported: ``"validation/loss/<step>/<loss>"``.
        mode: ``"min"`` where less is better, ``"max"`` where more is.
        factor: What the value is multiplied by.
        patience: Validations without a better value that are borne.
        threshold: :math:`t`.
        threshold_mode: ``"rel"`` or ``"abs"``.
        cooldown: Validations after a fall that are not counted.
        end_value: Value below which it does not fall.
        warmup: Steps of the warm-up, which rises from ``start_value / (warmup + 1)``.

    Raises:
        ConfigError: A number is out of its range, or a mode is unknown; when a run begins,
            nothing is ever validated; at the first validation, it does not report the value.

    Example:
        >>> schedule = Plateau(1.0, "validation/loss/main/ce", factor=0.5, patience=0)
        >>> for loss in (3.0, 2.0, 2.5):
        ...     schedule.hear(loss)
        >>> schedule(100)
        0.5
    """

    monitor: str

    def __init__(
        self,
        start_value: float,
        monitor: str,
        *,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        end_value: float = 0.0,
        warmup: int = 0,
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise ConfigError(
                f"`monitor` is {monitor!r}; the name of a value that validation reports is "
                "needed, such as 'validation/loss/<step>/<loss>'."
            )
        for name, given, known in (
            ("mode", mode, ("min", "max")),
            ("threshold_mode", threshold_mode, ("rel", "abs")),
        ):
            if given not in known:
                near = did_you_mean(str(given), known)
                raise ConfigError(f"`{name}` is {given!r}; {' or '.join(known)} is needed.{near}")
        for name, count in {"patience": patience, "cooldown": cooldown, "warmup": warmup}.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ConfigError(f"`{name}` is {count!r}; a whole number from 0 is needed.")
        if not 0 < number("factor", factor) < 1:
            raise ConfigError(f"`factor` is {factor}; a number between 0 and 1 is needed.")
        if number("threshold", threshold) < 0:
            raise ConfigError(f"`threshold` is {threshold}; a number from 0 is needed.")
        if threshold >= 1 and (mode, threshold_mode) == ("min", "rel"):
            raise ConfigError(
                f"`threshold` is {threshold}, and as a share of the best value nothing would be "
                "better by that; a number below 1 is needed, or `threshold_mode: abs`."
            )
        self.start_value = number("start_value", start_value)
        self.end_value = number("end_value", end_value)
        if self.end_value > self.start_value:
            raise ConfigError(
                f"`end_value` is {end_value}, above the `start_value` {start_value} that it is to "
                "fall from."
            )
        self.monitor, self.mode, self.factor, self.patience = monitor, mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.warmup = cooldown, warmup
        self.best = math.inf if mode == "min" else -math.inf
        self.waited = self.resting = self.falls = 0
        self._value = self.start_value

    def __call__(self, step: int) -> float:
        """The value at a step, by what was heard so far."""
        return self._value * min((step + 1) / (self.warmup + 1), 1.0)

    def hear(self, value: float) -> None:
        """Compare with the best value so far; fall if it has been that for too long."""
        if self._is_better(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.resting:
            self.resting, self.waited = self.resting - 1, 0
        if self.waited > self.patience:
            self.waited, self.resting = 0, self.cooldown
            self._fall(1)

    def _is_better(self, value: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        if self.threshold_mode == "abs":
            return sign * value < sign * self.best - self.threshold
        return sign * value < sign * self.best * (1.0 - sign * self.threshold)

    def _fall(self, times: int) -> None:
        self.falls += times
        for _ in range(times):
            self._value = max(self._value * self.factor, self.end_value)

    def state_dict(self) -> dict[str, Any]:
        """The best value, how often it fell, and what was counted since."""
        names = ("best", "waited", "resting", "falls")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.best, self.waited = state["best"], state["waited"]
        self.resting, self.falls = state["resting"], 0
        self._value = self.start_value
        self._fall(state["falls"])
