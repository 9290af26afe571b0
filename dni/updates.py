"""When the optimizers of a network and of its synthesizers step, and when gradients are cleared."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .boundary import Pass
from .interface import Interface
from .interfaces import Interfaces
from .meters import Meters
from .optimizers import (
    BackwardEnd,
    OptimizerSpec,
    add_parameters,
    current_backward,
    make_optimizer,
)
from .sites import SiteName


class Updates:
    """Listens for the end of backward passes and updates a network and its synthesizers.

    Args:
        network: The user's network.
        interfaces: Its interfaces; every new one has to be given to `adopt`.
        optimizer: Optimizer of the network.
        grad_optim: What makes the optimizer of the synthesizers.
        grad_lr: Its learning rate.
        is_automatic: Whether the end of a backward pass makes an update by itself.
        clip: Largest norm of the gradients of the network, and of all synthesizers.
        trains_synthesizers: Whether synthesizers are updated.
        grad_scaler: The scaler of the loss, if there is one.

    Attributes:
        count: Number of updates made so far.
        synthesizer_optimizer: One optimizer for all synthesizers; ``None`` before the first.
        current: The forward pass under way, or the last one.
    """

    def __init__(
        self,
        network: nn.Module,
        interfaces: Interfaces,
        optimizer: Optimizer,
        *,
        grad_optim: OptimizerSpec,
        grad_lr: float,
        is_automatic: bool,
        clip: float | None,
        trains_synthesizers: bool,
        grad_scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.network = network
        self.interfaces = interfaces
        self.optimizer = optimizer
        self.synthesizer_optimizer: Optimizer | None = None
        self.grad_optim, self.grad_lr = grad_optim, grad_lr
        self.is_automatic = is_automatic
        self.clip = clip
        self.trains_synthesizers = trains_synthesizers
        self.grad_scaler = grad_scaler
        self.count = 0
        self._gradients_are_used = False
        self._is_due = False
        self._connect()

    def _connect(self) -> None:
        self._backward_end = BackwardEnd(self._on_backward_end)
        self._passes: weakref.WeakSet[Pass] = weakref.WeakSet()
        self._finite: Tensor | None = None
        self._meters = Meters()
        self.current: Pass | None = None

    # -- forward passes --------------------------------------------------------------------

    def begin(self, is_training: bool) -> None:
        """Start a forward pass; it closes whatever an earlier one left open."""
        if current_backward() != -1:  # a checkpoint runs the network again within backward
            return
        self._backward_end.forget()
        self.flush()
        self.current = Pass() if is_training else None
        if self.current is not None:
            self._passes.add(self.current)

    def join(self) -> None:
        """Note that a site is reached, maybe within a backward pass (see `BackwardEnd`)."""
        self._backward_end.join()

    def clear_used(self) -> None:
        """Clear the network's gradients if an update has used them."""
        if self._gradients_are_used:
            self._gradients_are_used = False
            for parameter in self.network.parameters():
                parameter.grad = None

    def make_inert(self) -> None:
        """Turn the boundaries of every graph still alive into plain identities."""
        self.flush()
        for record in self._passes:
            record.is_inert = True

    # -- optimizers ------------------------------------------------------------------------

    def adopt(self, name: SiteName, interface: Interface) -> None:
        """Listen to an interface and optimize its synthesizer."""
        self._backward_end.listen(interface.meter)
        self._optimize(name, interface)

    def optimize_again(self) -> None:
        """Make the synthesizers' optimizer anew, after an interface was discarded."""
        self.synthesizer_optimizer = None
        for name, interface in self.interfaces.items():
            self._optimize(name, interface)

    def _optimize(self, name: SiteName, interface: Interface) -> None:
        parameters = [p for p in interface.synthesizer.parameters() if p.requires_grad]
        if not parameters or not self.trains_synthesizers:
            return
        if self.synthesizer_optimizer is None:
            self.synthesizer_optimizer = make_optimizer(
                self.grad_optim, parameters, lr=self.grad_lr, argument="grad_optim", fused=True
            )
        add_parameters(self.synthesizer_optimizer, name, parameters)

    def step(self, *, network: bool = True, synthesizers: bool = True) -> None:
        """Step the optimizers; the synthesizers' gradients are cleared, the network's stay."""
        if network:
            self._clip(self.optimizer)
            self.optimizer.step()
        if synthesizers and self.synthesizer_optimizer is not None:
            if self._was_finite():
                self._clip(self.synthesizer_optimizer)
                self.synthesizer_optimizer.step()
            self.synthesizer_optimizer.zero_grad()
            self._finite = None
        self.count += 1
        self.interfaces.mix(self.count)

    def flush(self) -> None:
        """Make the update that waits for another forward pass to come back."""
        if self._is_due:
            self._update()

    def loss_scale(self, device: torch.device) -> Tensor | None:
        """Factor that the gradient scaler puts on the loss. Shape ``[]``."""
        if self.grad_scaler is None or not self.grad_scaler.is_enabled():
            return None
        return self.grad_scaler.scale(torch.ones((), device=device))

    def _clip(self, optimizer: Optimizer) -> None:
        if self.clip is not None:
            groups: Iterable[dict[str, Any]] = optimizer.param_groups
            nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], self.clip)

    def _was_finite(self) -> bool:
        """Whether the synthesizers' gradients are numbers; asked only where it costs no waiting."""
        if self._finite is None:
            return True
        is_free = self._finite.device.type == "cpu" or self.grad_scaler is not None
        return bool(self._finite) if is_free else True

    # -- the end of backward ---------------------------------------------------------------

    def _on_backward_end(self) -> None:
        interfaces = self.interfaces.values()
        finite = self._meters.absorb(interfaces, self.loss_scale(interfaces[0].meter.device))
        self._finite = finite if self._finite is None else self._finite & finite
        if not self.is_automatic:
            return
        if any(not record.is_returned for record in self._passes):
            self._is_due = True  # an update now would spoil the graph of that pass
        else:
            self._update()

    def _update(self) -> None:
        self._is_due = False
        self.step()
        self._gradients_are_used = True

    # -- copies ----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_backward_end", "_passes", "_finite", "_meters", "current"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()
        for interface in self.interfaces.values():
            self._backward_end.listen(interface.meter)
