"""λ: how much of the true gradient each site propagates, and when that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TypeAlias

from .errors import ConfigError, did_you_mean
from .sites import SiteName

Lambda: TypeAlias = (
    float | Mapping[SiteName, float] | Callable[[int], "float | Mapping[SiteName, float]"]
)
"""A number from 0 to 1, one per site, or a function of the number of updates made so far."""

DEFAULT_LAMBDA = 0.5
"""λ of a site that a mapping leaves out."""


def lambda_at(value: Lambda, updates: int, sites: Iterable[SiteName]) -> dict[SiteName, float]:
    """λ of every site.

    Args:
        value: What the user set.
        updates: Number of updates made so far, for a function.
        sites: Names of all sites.

    Returns:
        λ by site, each from 0 (synthetic gradient only) to 1 (true gradient only).

    Raises:
        ConfigError: A number outside [0, 1], no number, or an unknown site.

    Example:
        >>> lambda_at({"fc1": 0}, 0, ["fc1", "fc2"])
        {'fc1': 0.0, 'fc2': 0.5}
        >>> lambda_at(lambda updates: max(0, 1 - updates / 100), 25, ["fc1"])
        {'fc1': 0.75}
    """
    names = list(sites)
    if callable(value):
        value = value(updates)
    if isinstance(value, Mapping):
        for site in value:
            if site not in names:
                raise ConfigError(f"`λ` names site {site!r}.{did_you_mean(str(site), names)}")
        return {site: checked(value.get(site, DEFAULT_LAMBDA), site) for site in names}
    share = checked(value)
    return dict.fromkeys(names, share)


def checked(value: object, site: SiteName | None = None) -> float:
    """A single λ as a float, or a `ConfigError` that says where it comes from."""
    where = "" if site is None else f" at site {site!r}"
    share = float(value) if isinstance(value, Real) else float("nan")
    if not 0.0 <= share <= 1.0:
        raise ConfigError(
            f"`λ`{where} is {value!r}; a number from 0 (synthetic gradients only) to 1 "
            "(backpropagation only) is needed, a mapping from sites to such numbers, or a "
            "function of the number of updates."
        )
    return share
