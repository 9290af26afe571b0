"""Schedules: numbers that change with the step, made from what a config says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError, did_you_mean
from .registry import SCHEDULES


class Schedule:
    """A number for every step: a function of the step (from 0), and of nothing else unless it says.

    Attributes:
        monitor: Name of a value that it goes by, as validation reports it; ``None``: it goes by
            the step alone, and needs no state.
    """

    monitor: str | None = None

    def __call__(self, step: int) -> float:
        """The value at a step, the first of which is 0."""
        raise NotImplementedError

    def hear(self, value: float) -> None:  # noqa: B027
        """Take note of the value that it goes by, as a validation found it."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The same number at every step.

    Args:
        value: The number.
    """

    def __init__(self, value: float) -> None:
        self.value = number("value", value)

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


def make_schedule(spec: Any, *, hears: bool = False) -> Schedule:
    """A schedule from a config.

    Args:
        spec: A number; a function of the step; ``{type: cosine, ...}``; or the short form with
            the name as key, ``{ramp: [0, 0.0, 100, 1.0]}``.
        hears: Whether it will be told what validation finds; only those of the block
            ``schedules`` are.

    Raises:
        ConfigError: It is none of these, has arguments that do not fit, or goes by a validation
            of which it will not hear.

    Example:
        >>> make_schedule({"ramp": [0, 0.0, 100, 1.0]})(25)
        0.25
        >>> make_schedule(0.5)(25)
        0.5
    """
    schedule = _made(spec)
    if schedule.monitor is not None and not hears:
        raise ConfigError(
            f"A schedule that goes by {schedule.monitor!r} hears of it only in the block "
            "`schedules`; put it there, by the path of what it sets: "
            "`losses/<step>/<loss>/weight`, `optimizer/<step>/lr`."
        )
    return schedule


def _made(spec: Any) -> Schedule:
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


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def number(name: str, value: Any) -> float:
    """A number as a float.

    Raises:
        ConfigError: The argument of that name is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"`{name}` is {value!r}; a number is needed.")
    return float(value)
