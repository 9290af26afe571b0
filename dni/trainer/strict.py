"""Holds callbacks to what they declare: what they read and write of the batch and of ``shared``."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from functools import partial
from typing import Any

from ..errors import ConfigError
from .events import Callback, Handler


def held(callback: Callback, handler: Handler) -> Handler:
    """The same handler, which is given a trainer that watches what it touches.

    Args:
        callback: Whose handler it is.
        handler: The method that hears an event.
    """
    return partial(_call, callback, handler)


def _call(callback: Callback, handler: Handler, trainer: Any, phase: Any, **values: Any) -> None:
    handler(_Watching(trainer, callback), phase, **values)


class _Watching:
    """A trainer whose ``step`` and ``shared`` ask whether a callback declared what it touches.

    A callback that runs steps by itself puts a batch of its own there: with that it is free.
    """

    def __init__(self, trainer: Any, callback: Callback) -> None:
        self.__dict__.update(_trainer=trainer, _callback=callback, _watched={"step", "shared"})

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._trainer, name)
        return _Watched(value, name, self._callback) if name in self._watched else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._watched.discard(name)
        setattr(self._trainer, name, value)


class _Watched(MutableMapping[str, Any]):
    """Values that a callback may touch as far as it declared them."""

    def __init__(self, values: Any, name: str, callback: Callback) -> None:
        self.__dict__.update(_values=values, _name=name, _callback=callback)

    def _check(self, key: str, *, writes: bool) -> None:
        callback, path = self._callback, f"{self._name}/{key}"
        declared = callback.writes if writes else (*callback.writes, *callback.reads)
        if not any(f"{path}/".startswith(f"{known}/") for known in declared):
            does = "writes" if writes else "reads"
            raise ConfigError(
                f"The callback `{callback.name}` {does} {path!r}, which it does not declare; add "
                f"it to its `{does}`, or leave `strict_callbacks` off."
            )

    def __getitem__(self, key: str) -> Any:
        if key in self._values:
            self._check(key, writes=False)
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        """A value that the callback can do without, which it need not declare."""
        return self._values.get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self._check(key, writes=True)
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        self._check(key, writes=True)
        del self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        return self[name] if name in self._values else getattr(self._values, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value
