"""Synthesizers that are not trained here: which of them never were."""

from __future__ import annotations

import warnings

from torch import nn

from .boundary import TRUE
from .errors import DNIWarning, named
from .interfaces import Interfaces
from .sites import SiteName


class Frozen:
    """Knows what frozen synthesizers were like when they were made."""

    def __init__(self) -> None:
        self._made_as: dict[SiteName, int] = {}

    def note(self, name: SiteName, synthesizer: nn.Module) -> None:
        """Note how the synthesizer of an interface is, right after it was made."""
        self._made_as[name] = version_of(synthesizer)

    def forget(self, name: SiteName) -> None:
        """Forget an interface; an unknown one changes nothing."""
        self._made_as.pop(name, None)

    def untrained(self, interfaces: Interfaces) -> list[SiteName]:
        """The interfaces whose synthesizers are still as they were made: nobody wrote to them."""
        return [
            name
            for name, made_as in self._made_as.items()
            if made_as > 0 and version_of(interfaces[name].synthesizer) == made_as
        ]

    def warn(self, interfaces: Interfaces) -> None:
        """Warn of those that have a share in gradients and will never be trained."""
        is_mixed = callable(interfaces.share)  # sooner or later
        raw = [
            interfaces[name].site
            for name in self.untrained(interfaces)
            if is_mixed or interfaces[name].mode != TRUE
        ]
        if raw:
            warnings.warn(
                f"The synthesizers at {', '.join(map(named, raw))} are frozen "
                "(`train_synthesizers=False`) but have never been trained: what they say is not "
                "the gradient, and λ below 1 gives them a share of it. Load a trained state first "
                "(`load_state_dict`), train with `train_synthesizers=True`, or pass `λ=1`.",
                DNIWarning,
                stacklevel=6,  # as in `Calls.warn`
            )


def version_of(module: nn.Module) -> int:
    """How often the trainable parameters of a module have been written to."""
    return sum(p._version for p in module.parameters() if p.requires_grad)
