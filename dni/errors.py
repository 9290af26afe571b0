"""The errors and the warning of the package, each also the builtin a caller would expect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DNIError(Exception):
    """Base class of every error raised on purpose by `dni`."""


class ConfigError(DNIError, ValueError):
    """An argument of a constructor or a setter has a value that cannot work."""


class SiteError(DNIError, ValueError):
    """A site does not exist, or the module there cannot carry an interface."""


class ShapeError(DNIError, ValueError):
    """A tensor at a site has a shape that does not fit."""


class ContextError(DNIError, ValueError):
    """The context of a forward pass is missing or does not fit the batch."""


class AttachmentError(DNIError, RuntimeError):
    """The network is wrapped twice, or used in a way that its hooks do not allow."""


class CheckpointError(DNIError, RuntimeError):
    """A saved state does not fit the wrapper it is loaded into."""


class DNIWarning(UserWarning):
    """Something will not happen that the caller probably expects to happen."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message that names the nearest valid name.

    Args:
        name: What was given.
        known: Every valid name.

    Returns:
        ``" Did you mean 'x'?"``, or a list of the valid names when none is near.

    Example:
        >>> did_you_mean("adm", ["adam", "sgd"])
        " Did you mean 'adam'?"
        >>> did_you_mean("zebra", ["adam", "sgd"])
        " Valid: 'adam', 'sgd'."
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {near[0]!r}?"
    shown = ", ".join(repr(n) for n in names[:12]) + (", …" if len(names) > 12 else "")
    return f" Valid: {shown}." if names else ""


def named(site: str) -> str:
    """A site as messages show it.

    Example:
        >>> named("fc1"), named("")
        ("site 'fc1'", 'the network itself')
    """
    return f"site {site!r}" if site else "the network itself"
