"""Makes one object that a config names: its arguments checked, and its place in every error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigError, DNIError, did_you_mean
from .places import Places
from .registry import Registry
from .schema import Typed


class PlacedError(ConfigError):
    """An error that names its place already."""


@contextmanager
def at(places: Places, *path: str) -> Iterator[None]:
    """Put the place in front of what goes wrong while something of the config is made.

    Args:
        places: Where keys were written.
        *path: The key.

    Raises:
        ConfigError: In the place of whatever was raised within.
    """
    try:
        yield
    except PlacedError:
        raise
    except DNIError as err:
        raise PlacedError(places.say(path, str(err))) from err
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as err:
        raise PlacedError(places.say(path, f"it could not be made: {in_short(err)}.")) from err


def in_short(error: BaseException) -> str:
    r"""What an error says; of one that a worker process reports with its trace, what it was.

    Example:
        >>> in_short(ValueError("Caught it. Original Traceback: ...\nValueError: no image"))
        'ValueError: no image'
    """
    said = str(error).strip()
    return said.splitlines()[-1] if "Original Traceback" in said else said


def parameters_of(entry: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a class or function; ``None`` where it does not tell, as some of C."""
    try:
        return inspect.signature(entry).parameters
    except (TypeError, ValueError):
        return None


def check_arguments(
    entry: Callable[..., Any],
    given: Mapping[str, Any],
    places: Places,
    path: tuple[str, ...],
    *,
    known: Iterable[str] = (),
    ours: Iterable[str] = (),
) -> None:
    """Refuse arguments that a class or function does not take, and ask for those it needs.

    Args:
        entry: The class or function.
        given: Its arguments.
        places: Where they were written.
        path: The block they are in.
        known: Keys of the block that are ours, for the nearest name.
        ours: Arguments of `entry` that we give.

    Raises:
        ConfigError: An argument too many, or one too few.
    """
    parameters = parameters_of(entry)
    if parameters is None:
        return
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in ours
    }
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in named and not takes_all:
            kind = getattr(entry, "__name__", str(entry))
            hint = did_you_mean(key, [*named, *known])
            message = f"`{kind}` has no such argument.{hint}"
            raise PlacedError(places.say((*path, key), message))
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in given:
            message = f"the argument `{key}` is missing."
            raise PlacedError(places.say(path, message))


def make(registry: Registry, spec: Typed, places: Places, *path: str) -> Any:
    """An object by its registered name or import path, with its arguments.

    Args:
        registry: Where its name is looked up.
        spec: What the config says.
        places: Where that was written.
        *path: The key.

    Raises:
        ConfigError: It cannot be made.
    """
    with at(places, *path):
        entry = registry.find(spec.type)
        check_arguments(entry, spec.arguments, places, path)
        return entry(**spec.arguments)
