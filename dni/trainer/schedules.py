"""Schedules: numbers that change with the step, and where in a trainer they are put."""

from __future__ import annotations

import bisect
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean
from .registry import SCHEDULES

if TYPE_CHECKING:
    from .trainer import Trainer


class Schedule:
    """A number for every step: a function of the step (from 0) alone, so it needs no state."""

    def __call__(self, step: int) -> float:
        """The value at a step, the first of which is 0."""
        raise NotImplementedError


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The same number at every step.

    Args:
        value: The number.
    """

    def __init__(self, value: float) -> None:
        self.value = _number("value", value)

    def __call__(self, step: int) -> float:
        """That number."""
        return self.value


class FunctionSchedule(Schedule):
    """A plain function of the step.

    Args:
        function: Called with the step, from 0.
    """

    def __init__(self, function: Callable[[int], float]) -> None:
        self.function = function

    def __call__(self, step: int) -> float:
        """What the function returns."""
        return float(self.function(step))


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
        self.start_value = _number("start_value", start_value)
        self.end_value = _number("end_value", end_value)

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
        self.start_value = _number("start_value", start_value)
        self.end_value = _number("end_value", end_value)

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
        self.max = _number("max", max)
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
        self.steps, self.values = steps, [_number("points", value) for _, value in points]
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


def make_schedule(spec: Any) -> Schedule:
    """A schedule from a config.

    Args:
        spec: A number; a function of the step; ``{type: cosine, ...}``; or the short form with
            the name as key, ``{ramp: [0, 0.0, 100, 1.0]}``.

    Raises:
        ConfigError: It is none of these, or has arguments that do not fit.

    Example:
        >>> make_schedule({"ramp": [0, 0.0, 100, 1.0]})(25)
        0.25
        >>> make_schedule(0.5)(25)
        0.5
    """
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, int | float) and not isinstance(spec, bool):
        return Constant(spec)
    if callable(spec):
        return FunctionSchedule(spec)
    if not isinstance(spec, Mapping) or not spec:
        raise ConfigError(
            f"{spec!r} is no schedule; give a number, {{ramp: [0, 0.0, 100, 1.0]}} or "
            f"{{type: NAME, ...}} with one of: {', '.join(sorted(SCHEDULES))}."
        )
    options = dict(spec)
    if "type" in options:
        name = options.pop("type")
    elif len(options) == 1:
        name, options = next(iter(options.items()))
    else:
        raise ConfigError(
            f"The schedule {dict(spec)!r} has no `type`; one of: {', '.join(sorted(SCHEDULES))}."
        )
    args: list[Any] = []
    if not isinstance(options, Mapping):
        args = list(options) if _is_list(options) else [options]
    keywords = dict(options) if isinstance(options, Mapping) else {}
    make = SCHEDULES.find(name)
    known = list(inspect.signature(make).parameters)
    for key in keywords:
        if key not in known:
            raise ConfigError(
                f"The schedule {name!r} has no argument {key!r}.{did_you_mean(key, known)}"
            )
    try:
        made = make(*args, **keywords)
    except TypeError as err:
        raise ConfigError(f"The schedule {name!r} takes {', '.join(known)}: {err}.") from err
    if not callable(made):
        raise ConfigError(f"{name!r} made a {type(made).__name__}, which is no function of steps.")
    return made if isinstance(made, Schedule) else FunctionSchedule(made)


class Target:
    """A place in a trainer that a schedule sets, by path.

    ``optimizer/<step>/lr`` and ``dni/<step>/lambda`` are settings of that step's strategy,
    ``losses/<step>/<loss>/weight`` is the weight of a loss. Any other path goes from the trainer
    through attributes and dictionaries: ``steps/<step>/clip``, ``shared/temperature``.

    Args:
        trainer: The trainer.
        path: The path.

    Raises:
        ConfigError: Something on the path does not exist; the nearest name is given.
    """

    def __init__(self, trainer: Trainer, path: str) -> None:
        self.path = path
        parts = path.split("/")
        if parts[0] in ("optimizer", "dni") and len(parts) > 2:
            parts = ["steps", parts[1], "strategy", *parts[2:]]
        elif parts[0] == "losses" and len(parts) > 2:
            parts = ["steps", parts[1], "losses", *parts[2:]]
        owner: Any = trainer
        for depth, part in enumerate(parts[:-1]):
            owner = self._below(owner, part, "/".join(parts[:depth]) or "the trainer")
        self._set = self._setter(owner, parts[-1], "/".join(parts[:-1]))

    def set(self, value: float) -> None:
        """Put a value there."""
        self._set(value)

    def _below(self, owner: Any, part: str, where: str) -> Any:
        if isinstance(owner, Mapping):
            if part in owner:
                return owner[part]
            known = list(map(str, owner))
        else:
            if hasattr(owner, part):
                return getattr(owner, part)
            known = [name for name in dir(owner) if not name.startswith("_")]
        raise ConfigError(
            f"The schedule {self.path!r} leads nowhere: {where} has no {part!r}."
            f"{did_you_mean(part, known)}"
        )

    def _setter(self, owner: Any, name: str, where: str) -> Callable[[float], None]:
        if isinstance(owner, dict):
            return lambda value: owner.__setitem__(name, value)
        if callable(getattr(owner, "set", None)):
            return lambda value: owner.set(name, value)
        if callable(self._below(owner, name, where)):
            # A place that holds a schedule itself, such as the weight of a loss.
            return lambda value: setattr(owner, name, Constant(value))
        return lambda value: setattr(owner, name, value)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"`{name}` is {value!r}; a number is needed.")
    return float(value)
