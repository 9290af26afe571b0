"""The learning rate over time, and when to stop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

NAMES = ("plateau", "cosine", "constant")
_FALL = 4.0  # what pytorch's own example divides by


@dataclass(kw_only=True)
class Schedule:
    """A factor on the learning rates that follows the updates or the validation.

    Attributes:
        name: ``"plateau"``: divided by four whenever the validation does not improve;
            ``"cosine"``: from 1 to 0 along half a wave over ``updates``; ``"constant"``: 1.
        updates: Length of the run, for ``"cosine"``.
        warmup: Updates over which the factor rises from next to nothing at the start.
        patience: Evaluations without a better one after which to stop; ``None`` for never.
        best: Lowest validation loss so far.
        worse: Evaluations since then.
        falls: How often the rate was divided.

    Example:
        >>> schedule = Schedule(name="plateau", updates=10, patience=2)
        >>> [schedule.hear(loss) for loss in (5.0, 4.0, 4.5)], schedule.factor(3)
        ([True, True, False], 0.25)
        >>> schedule.hear(4.1), schedule.is_over
        (False, True)
    """

    name: str
    updates: int
    warmup: int = 0
    patience: int | None = None
    best: float = math.inf
    worse: int = 0
    falls: int = 0

    def factor(self, update: int) -> float:
        """The factor for an update, counted from 0."""
        rise = min((update + 1) / (self.warmup + 1), 1)
        if self.name == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(update / self.updates, 1)))
        return rise * _FALL**-self.falls

    def hear(self, loss: float) -> bool:
        """Take note of a validation loss; whether it is the best so far."""
        if loss < self.best:
            self.best, self.worse = loss, 0
            return True
        self.worse += 1
        self.falls += self.name == "plateau"
        return False

    @property
    def is_over(self) -> bool:
        """Whether the validation has not improved for too long."""
        return self.patience is not None and self.worse >= self.patience

    def saved(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)
