"""The curves that a schedule may follow: ramp, cosine, one cycle, piecewise."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from ..errors import ConfigError, did_you_mean
from .registry import SCHEDULES
from .schedules import Schedule, number


@SCHEDULES.register("ramp")
class Ramp(Schedule):
    r"""Goes in a straight line from one value to another, and stays there.

    :math:`v_0 + (v_1 - v_0) \frac{k - k_0}{k_1 - k_0}` between the steps :math:`k_0` and
    :math:`k_1`, both included.

    Args:
        start: Step at which it begins to move.
        start_value: Value up to there.
        end: Step at which it arrives.
        end_value: Value from there on.

    Raises:
        ConfigError: It would end before it starts.

    Example:
        >>> ramp = Ramp(2, 0.0, 4, 1.0)
        >>> [ramp(step) for step in range(6)]
        [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, start: int, start_value: float, end: int, end_value: float) -> None:
        if end < start:
            raise ConfigError(f"The ramp starts at step {start} and ends at {end}, before it.")
        self.start, self.end = start, end
        self.start_value = number("start_value", start_value)
        self.end_value = number("end_value", end_value)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        if step <= self.start:
            return self.start_value if self.start < self.end else self.end_value
        if step >= self.end:
            return self.end_value
        share = (step - self.start) / (self.end - self.start)
        return self.start_value + (self.end_value - self.start_value) * share


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    r"""Falls (or rises) along half a cosine, after a warm-up in a straight line.

    :math:`v_1 + (v_0 - v_1) \frac{1 + \cos(\pi x)}{2}`, where :math:`x` goes from 0 at the end of
    the warm-up to 1 at ``steps``.

    Args:
        start_value: Value after the warm-up.
        end_value: Value from ``steps`` on.
        steps: Step at which it arrives.
        warmup: Steps of the warm-up, which rises from ``start_value / (warmup + 1)``.

    Raises:
        ConfigError: The warm-up is longer than the whole.

    Example:
        >>> [round(Cosine(1.0, 0.0, steps=4)(step), 4) for step in range(6)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """

    def __init__(
        self, start_value: float, end_value: float = 0.0, *, steps: int, warmup: int = 0
    ) -> None:
        if not 0 <= warmup < steps:
            raise ConfigError(f"`warmup` is {warmup}; 0 up to `steps` - 1 = {steps - 1} is needed.")
        self.steps, self.warmup = steps, warmup
        self.start_value = number("start_value", start_value)
        self.end_value = number("end_value", end_value)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        if step < self.warmup:
            return self.start_value * (step + 1) / (self.warmup + 1)
        share = min((step - self.warmup) / (self.steps - self.warmup), 1.0)
        return _cosine(self.start_value, self.end_value, share)


@SCHEDULES.register("onecycle")
class OneCycle(Schedule):
    r"""Up to a maximum and down to almost nothing, along two half cosines.

    The same numbers as ``torch.optim.lr_scheduler.OneCycleLR`` with two phases: from
    ``max / div`` at step 0 to ``max`` at :math:`p \cdot \text{steps} - 1`, then down to
    ``max / (div * final_div)`` at ``steps - 1``, and there it stays.

    Args:
        max: Largest value.
        steps: Number of steps of the cycle.
        rise: :math:`p`, the share of steps on the way up.
        div: Maximum over first value.
        final_div: First value over last.

    Raises:
        ConfigError: A number is out of its range.

    Source:
        Smith and Topin 2018, *Super-Convergence*, arXiv:1708.07120; torch's documentation of
        ``OneCycleLR``. (FluxTraining's ``onecycle`` is ``rise=0.25, final_div=4000``.)

    Example:
        >>> cycle = OneCycle(max=1.0, steps=10)
        >>> [round(cycle(step), 3) for step in (0, 1, 2, 9)]
        [0.04, 0.52, 1.0, 0.0]
    """

    def __init__(
        self,
        max: float,
        steps: int,
        *,
        rise: float = 0.3,
        div: float = 25.0,
        final_div: float = 1e4,
    ) -> None:
        if steps < 1 or not 0 <= rise <= 1 or div <= 0 or final_div <= 0:
            raise ConfigError(
                f"onecycle was given steps={steps}, rise={rise}, div={div}, "
                f"final_div={final_div}; `steps` from 1, `rise` from 0 to 1 and positive "
                "divisors are needed."
            )
        self.max = number("max", max)
        self.first = self.max / div
        self.last = self.first / final_div
        self.peak = rise * steps - 1
        self.end = steps - 1

    def __call__(self, step: int) -> float:
        """The value at a step."""
        if step <= self.peak:
            return _cosine(self.first, self.max, step / self.peak if self.peak else 1.0)
        if step >= self.end:
            return self.last
        return _cosine(self.max, self.last, (step - self.peak) / (self.end - self.peak))


@SCHEDULES.register("piecewise")
class Piecewise(Schedule):
    """Values at given steps; between them a straight line, or the value before.

    Args:
        points: Pairs of step and value, steps increasing.
        between: ``"line"`` or ``"hold"``.

    Raises:
        ConfigError: No point, steps that do not increase, or an unknown ``between``.

    Example:
        >>> [Piecewise([[0, 1.0], [4, 0.0]])(step) for step in (0, 1, 4, 9)]
        [1.0, 0.75, 0.0, 0.0]
        >>> [Piecewise([[0, 1.0], [4, 0.1]], between="hold")(step) for step in (0, 3, 4)]
        [1.0, 1.0, 0.1]
    """

    def __init__(self, points: Sequence[Sequence[float]], between: str = "line") -> None:
        steps = [int(step) for step, _ in points]
        if not steps or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            raise ConfigError(f"`points` has the steps {steps}; increasing ones are needed.")
        if between not in ("line", "hold"):
            near = did_you_mean(between, ["line", "hold"])
            raise ConfigError(f"`between` is {between!r}.{near}")
        self.steps, self.values = steps, [number("points", value) for _, value in points]
        self.holds = between == "hold"

    def __call__(self, step: int) -> float:
        """The value at a step."""
        after = bisect.bisect_right(self.steps, step)
        if after == 0:
            return self.values[0]
        if after == len(self.steps) or self.holds:
            return self.values[after - 1]
        left, right = self.steps[after - 1], self.steps[after]
        low, high = self.values[after - 1], self.values[after]
        return low + (high - low) * (step - left) / (right - left)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
