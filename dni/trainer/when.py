"""When something happens: every so many steps, within a window, at most so often in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import ConfigError, did_you_mean


@dataclass(slots=True)
class When:
    r"""A rule that says at which steps something happens.

    Fires at step :math:`k` if :math:`\text{after} \le k \le \text{before}` and
    :math:`(k - \text{after}) \bmod \text{every} = 0`. Steps count from 0 and both ends are
    included (pytorch-ignite counts from 1 and leaves both out).

    Args:
        every: Steps from one firing to the next.
        after: First step at which it may fire.
        before: Last step at which it may fire; ``None``: no last one.
        seconds: It also waits until so many seconds went by since it last fired.
        growth: It also fires at ``after`` + s, s · g, s · g², … until ``every`` is reached: often
            while a run is young. 2 gives 0, 1, 2, 4, 8, …, every, 2 · every, …
        start: The s of ``growth``: 2 leaves step 1 out.
        at_zero: Whether it may fire at step 0.
        clock: What tells the seconds.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        >>> [step for step in range(20) if When(every=10, growth=2).fires(step)]
        [0, 1, 2, 4, 8, 10]
        >>> [step for step in range(20) if When(every=10, growth=2, start=2).fires(step)]
        [0, 2, 4, 8, 10]
        >>> [step for step in range(20) if When(every=3, after=2, before=8).fires(step)]
        [2, 5, 8]
    """

    every: int = 1
    after: int = 0
    before: int | None = None
    seconds: float | None = None
    growth: float | None = None
    start: int = 1
    at_zero: bool = True
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)
    _early: frozenset[int] = field(default=frozenset(), init=False, repr=False, compare=False)
    _fired_at: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        faults = [
            f"`{name}` is {value!r}; {needed} is needed"
            for name, value, is_right, needed in (
                ("every", self.every, _is_whole(self.every, 1), "a whole number from 1"),
                ("after", self.after, _is_whole(self.after, 0), "a whole number from 0"),
                (
                    "before",
                    self.before,
                    self.before is None or _is_whole(self.before, 0),
                    "a whole number from 0, or none",
                ),
                (
                    "seconds",
                    self.seconds,
                    self.seconds is None or self.seconds >= 0,
                    "a number from 0",
                ),
                ("start", self.start, _is_whole(self.start, 1), "a whole number from 1"),
                ("growth", self.growth, self.growth is None or self.growth > 1, "more than 1"),
            )
            if not is_right
        ]
        if faults:
            raise ConfigError("; ".join(faults) + ".")
        if self.growth is not None:
            early, reach = {0}, float(self.start)
            while reach < self.every:
                early.add(int(reach))
                reach *= self.growth
            self._early = frozenset(early)

    @classmethod
    def of(cls, spec: int | Mapping[str, Any] | When) -> When:
        """A rule from a config: a number stands for ``every``, ``until`` for ``before``.

        Raises:
            ConfigError: An unknown key, or a number out of its range.

        Example:
            >>> When.of(5) == When(every=5) == When.of({"every": 5})
            True
        """
        if isinstance(spec, When):
            return spec
        if isinstance(spec, int):
            return cls(every=spec)
        if not isinstance(spec, Mapping):
            raise ConfigError(
                f"{spec!r} says no times; give a number of steps, or a mapping such as "
                "{every: 10, after: 100}."
            )
        known = [f.name for f in fields(cls) if f.init]
        options = {("before" if key == "until" else key): value for key, value in spec.items()}
        for key in options:
            if key not in known:
                raise ConfigError(f"{key!r} says no times.{did_you_mean(key, known[:-1])}")
        return cls(**options)

    def covers(self, step: int) -> bool:
        """Whether a step is from ``after`` to ``before``, both included."""
        return self.after <= step and (self.before is None or step <= self.before)

    def fires(self, step: int) -> bool:
        """Whether it fires at a step; with ``seconds`` this notes that it did."""
        since = step - self.after
        if not self.covers(step):
            return False
        if since % self.every and since not in self._early:
            return False
        if step == 0 and not self.at_zero:
            return False
        if self.seconds is None:
            return True
        now = self.clock()
        if self._fired_at is not None and now - self._fired_at < self.seconds:
            return False
        self._fired_at = now
        return True


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
