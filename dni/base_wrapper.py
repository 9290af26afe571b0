"""What every wrapper of a network offers: its optimizers and updates, statistics, and saving."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from . import checkpoint
from .errors import CheckpointError
from .interfaces import Interfaces
from .metered import Statistics
from .sites import SiteName
from .synthesizer_optimizer import ordered_like
from .updates import Updates


class BaseWrapper(nn.Module):
    """A network, the interfaces made for it so far, and the updates of both.

    A subclass sets ``network``, ``interfaces`` and ``_updates``, and defines `_make_saved`.
    """

    network: nn.Module
    interfaces: Interfaces
    _updates: Updates

    # -- updates ---------------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Number of updates made so far, at the end of backward passes or by `step`."""
        return self._updates.count

    @property
    def synthesizer_optimizer(self) -> Optimizer | None:
        """Optimizer of all synthesizers, in one parameter group; ``None`` before the first."""
        return self._updates.synthesizer_optimizer.optimizer

    def step(self, *, network: bool = True, synthesizers: bool = True) -> None:
        """Step the optimizers; with ``update="auto"`` the end of a backward pass does it.

        The synthesizers' gradients are cleared, the network's stay. After a pass whose gradients
        were not finite (an overflow under a gradient scaler) synthesizers are left as they are.

        Args:
            network: Whether to step the network; ``False`` where something else does.
            synthesizers: Whether to step the synthesizers.
        """
        self._updates.step(network=network, synthesizers=synthesizers)

    def statistics(self) -> dict[SiteName, Statistics]:
        """How well each synthesizer predicts; reading it waits for the device.

        Returns:
            Per interface: ``cosine``, ``relative_error``, ``true_norm``, ``synthetic_norm`` and
            ``scale``, running over about fifty updates (see `Statistics`).
        """
        return {name: interface.statistics() for name, interface in self.interfaces.items()}

    # -- saving ----------------------------------------------------------------------------

    def _make_saved(self, state: Mapping[str, Any], prefix: str) -> None:
        """Make what a state has and this wrapper has not yet."""
        raise NotImplementedError

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` holds besides tensors."""
        self._updates.flush()
        return {"version": checkpoint.VERSION, "updates": self.updates}

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        self._updates.count_on_from(state["updates"])

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load network and synthesizers; also before any forward pass.

        Args:
            state_dict: What `state_dict` gave; it is not changed.
            strict: Whether every key must fit.
            assign: See ``torch.nn.Module.load_state_dict``.

        Raises:
            CheckpointError: The state belongs to another network or to other arguments of the
                wrapper; nothing is loaded then.
        """
        before = set(self.interfaces)
        try:
            self._make_saved(state_dict, "")
            if strict:
                checkpoint.check(self.state_dict(), state_dict)
        except CheckpointError:
            self._updates.discard(set(self.interfaces) - before)
            raise
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A wrapper inside a larger module is loaded through here alone.
        self._make_saved(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def training_state(self) -> dict[str, Any]:
        """Everything needed to go on training bit for bit, optimizers included.

        Returns:
            A dictionary of tensors and plain values, which ``torch.load(weights_only=True)``
            reads back.
        """
        model = self.state_dict()
        network = self._updates.network_optimizer.optimizer
        synthesizers = self.synthesizer_optimizer
        return {
            "version": checkpoint.VERSION,
            "model": model,
            "optimizer": None if network is None else network.state_dict(),
            "synthesizer_optimizer": None if synthesizers is None else synthesizers.state_dict(),
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `training_state` gave.

        Raises:
            CheckpointError: A part is missing or does not fit; nothing is loaded then.
        """
        network = self._updates.network_optimizer.optimizer
        checkpoint.check_training_state(
            state, network, trains_synthesizers=self._updates.trains_synthesizers
        )
        saved, live = state["synthesizer_optimizer"], self.synthesizer_optimizer
        if saved is not None and live is not None:
            checkpoint.check_settings("synthesizer_optimizer", saved, live)
        self.load_state_dict(state["model"])
        # Copied: torch's optimizers keep the very tensors they are given.
        if network is not None:
            network.load_state_dict(copy.deepcopy(state["optimizer"]))
        if saved is not None and self.synthesizer_optimizer is not None:
            saved = ordered_like(copy.deepcopy(saved), self.synthesizer_optimizer)
            self.synthesizer_optimizer.load_state_dict(saved)
