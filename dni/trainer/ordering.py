"""Several callbacks together: in which order they run, and which of them hears what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigError, did_you_mean
from .events import Callback, Handler, Throttled, warn_of_unknown
from .strict import held

PROVIDED = ("step", "networks", "steps", "data", "counters", "record", "phase")
"""What callbacks may read without one of them writing it: ``step/logits`` is under ``step``."""


class Callbacks:
    """The callbacks of a trainer, in the order in which they run.

    Args:
        callbacks: In any order.
        strict: Whether one that touches what it does not declare is an error when it does so.

    Raises:
        ConfigError: Two write the same, one reads what nothing writes, or they wait for one
            another in a circle.

    Warns:
        DNIWarning: A callback has a method for an event that does not exist.
    """

    def __init__(self, callbacks: Iterable[Callback] = (), *, strict: bool = False) -> None:
        self._all: list[Callback] = []
        self.handlers = _Handlers(self._all, strict)
        self.replace(callbacks)

    def replace(self, callbacks: Iterable[Callback]) -> None:
        """Take these callbacks instead."""
        ordered = order(list(callbacks))
        for callback in ordered:
            if not any(callback is known for known in self._all):
                warn_of_unknown(callback)
        self._all[:] = ordered
        self.handlers.clear()

    def add(self, callback: Callback) -> None:
        """Take one more callback."""
        self.replace([*self._all, callback])

    def remove(self, callback: Callback) -> None:
        """Take a callback out."""
        self.replace([other for other in self._all if other is not callback])

    def find(self, kind: type[Any] | str) -> Any:
        """The first callback of a class, or of a class of that name; ``None`` if there is none."""
        return next((c for c in self._all if _is_a(_inner(c), kind)), None)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def state_dict(self) -> dict[str, Any]:
        """The state of every callback that has one, by name."""
        return {name: state for name, c in self._named() if (state := c.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; callbacks that it does not know begin anew."""
        for name, callback in self._named():
            if name in state:
                callback.load_state_dict(state[name])

    def _named(self) -> Iterator[tuple[str, Callback]]:
        seen: dict[str, int] = {}
        for callback in self._all:
            count = seen[callback.name] = seen.get(callback.name, 0) + 1
            yield (callback.name if count == 1 else f"{callback.name}-{count}"), callback


class _Handlers(dict[str, tuple[Handler, ...]]):
    """The methods that hear an event, found once and kept."""

    def __init__(self, callbacks: list[Callback], strict: bool) -> None:
        super().__init__()
        self._callbacks, self._strict = callbacks, strict

    def __missing__(self, event: str) -> tuple[Handler, ...]:
        found = ((c, getattr(c, f"on_{event}", None)) for c in self._callbacks)
        heard = [(callback, handler) for callback, handler in found if handler is not None]
        self[event] = handlers = tuple(held(c, h) if self._strict else h for c, h in heard)
        return handlers


def order(callbacks: list[Callback]) -> list[Callback]:
    """Callbacks in an order in which writers come before readers; ties as they were given.

    Raises:
        ConfigError: See `Callbacks`.
    """
    _check_reads(callbacks)
    count = len(callbacks)
    waits: list[set[int]] = [set() for _ in range(count)]
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    for a, b in pairs:
        if any(_is_a(_inner(callbacks[b]), kind) for kind in callbacks[a].run_after):
            waits[a].add(b)
    for a, b in pairs:
        if a > b or a in waits[b] or b in waits[a]:
            continue
        if clash := _shared(callbacks[a].writes, callbacks[b].writes):
            raise ConfigError(
                f"The callbacks `{callbacks[a].name}` and `{callbacks[b].name}` both write "
                f"{clash!r}. Remove one, or name the first in the `run_after` of the second."
            )
    said = [set(others) for others in waits]
    for a, b in pairs:
        # What one says of itself, that it runs after another, goes before what follows from reads.
        if b not in said[a] and _shared(callbacks[b].reads, callbacks[a].writes):
            waits[b].add(a)
    done: list[int] = []
    while len(done) < count:
        free = next((i for i in range(count) if i not in done and waits[i] <= set(done)), None)
        if free is None:
            names = " → ".join(callbacks[i].name for i in _circle(waits, set(done)))
            raise ConfigError(
                f"The callbacks wait for one another: {names}. Change what one of them reads, "
                "writes or runs after."
            )
        done.append(free)
    return [callbacks[i] for i in done]


def _check_reads(callbacks: list[Callback]) -> None:
    written = [path for callback in callbacks for path in callback.writes]
    for callback in callbacks:
        for path in callback.reads:
            if path.partition("/")[0] in PROVIDED or _shared((path,), written):
                continue
            near = did_you_mean(path, written)
            raise ConfigError(
                f"The callback `{callback.name}` reads {path!r}, which no callback writes."
                f"{near} A value of the current batch is 'step/{path}'."
            )


def _shared(paths: Iterable[str], others: Iterable[str]) -> str:
    """The first path that is in both, or the beginning of one in the other; else empty."""
    others = [f"{other}/" for other in others]
    for path in paths:
        if any(f"{path}/".startswith(other) or other.startswith(f"{path}/") for other in others):
            return path
    return ""


def _circle(waits: list[set[int]], done: set[int]) -> list[int]:
    """Indices that wait each for the next, the first named again at the end."""
    path = [next(i for i in range(len(waits)) if i not in done)]
    while path[-1] not in path[:-1]:
        path.append(min(waits[path[-1]] - done))
    return path[path.index(path[-1]) :]


def _inner(callback: Callback) -> Callback:
    return _inner(callback.callback) if isinstance(callback, Throttled) else callback


def _is_a(callback: Callback, kind: type | str) -> bool:
    if isinstance(kind, str):
        return any(base.__name__ == kind for base in type(callback).__mro__)
    return isinstance(callback, kind)
