"""The sites that a network calls in its first training pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch

from .errors import ConfigError, DNIWarning, named
from .sites import SiteName


class Calls:
    """Remembers which sites were called, and in which order."""

    def __init__(self) -> None:
        self._called: dict[SiteName, None] = {}
        self._is_compiled = False  # compiled code notes no calls

    def note(self, site: SiteName) -> None:
        """Remember that a pass came to a site, even within the network's own no_grad."""
        if torch.compiler.is_compiling():
            self._is_compiled = True
        else:
            self._called.pop(site, None)
            self._called[site] = None

    def last(self) -> SiteName:
        """The site that was called last.

        Raises:
            ConfigError: No call was noted.
        """
        if self._is_compiled or not self._called:
            raise ConfigError(
                "With `skip_last_layer=True` the first training pass must be an eager one "
                "through at least one site: it shows which site comes last. Run one pass before "
                "`torch.compile`."
            )
        return next(reversed(self._called))

    def warn(self, sites: Iterable[SiteName]) -> None:
        """Warn of the sites that were not called; for `Crossing.run`, whose depth it counts on."""
        silent = [site for site in sites if site not in self._called]
        if silent and not self._is_compiled:
            warnings.warn(
                f"No interface at {', '.join(map(named, silent))}: the network did not call "
                "these modules on its first training pass (a functional call of their weights "
                "does not count), so they learn from the gradient that reaches them.",
                DNIWarning,
                stacklevel=6,  # the line that called the wrapper, beyond torch's own two frames
            )

    def clear(self) -> None:
        """Forget what was called."""
        self._called.clear()
