"""When a network and its synthesizers are updated, and when gradients are cleared."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .activations import Activations
from .arguments import check_single
from .attachment import remove_all
from .backward_end import BackwardEnd
from .draw import Draw
from .forward import ForwardUnlock
from .frozen import Frozen
from .interface import Interface
from .interfaces import Interfaces
from .listeners import give, heralds
from .meters import Meters
from .network_optimizer import NetworkOptimizer
from .passes import Passes
from .sites import SiteName
from .synthesizer_optimizer import SynthesizerOptimizer
from .unlock import Unlock

ACTIVATION = " (activation)"
"""Behind the name of an interface: its other network in the optimizer of the synthesizers."""


class Updates:
    """Listens for the end of backward passes and updates a network and its synthesizers.

    Args:
        network_optimizer: Steps the network.
        synthesizer_optimizer: Steps its synthesizers.
        interfaces: The interfaces; every new one has to be given to `adopt`.
        is_automatic: Whether the end of a backward pass makes an update by itself.
        trains_synthesizers: Whether synthesizers are updated.
        train_every: In which updates: the first two, and every so many after the second.
        grad_scaler: The scaler of the loss, if there is one.
        is_unlocked: Whether sites at λ = 0 are crossed with update unlocking.
        activations: The networks that predict activations, if it is forward unlocking.
        draw: Draws the sites that learn in a step.

    Attributes:
        count: Number of updates made so far.
        learns: Whether synthesizers learn in the update under way.
        frozen: The synthesizers that are not trained.
        passes: The passes forward.
    """

    def __init__(
        self,
        network_optimizer: NetworkOptimizer,
        synthesizer_optimizer: SynthesizerOptimizer,
        interfaces: Interfaces,
        *,
        is_automatic: bool,
        trains_synthesizers: bool,
        grad_scaler: torch.amp.GradScaler | None,
        is_unlocked: bool,
        activations: Activations | None,
        draw: Draw,
        train_every: int,
    ) -> None:
        self.network_optimizer = network_optimizer
        self.synthesizer_optimizer = synthesizer_optimizer
        self.interfaces = interfaces
        self.is_automatic = is_automatic
        self.trains_synthesizers = trains_synthesizers
        self.grad_scaler = grad_scaler
        self.is_unlocked = is_unlocked
        self.activations = activations
        self.draw = draw
        self.train_every = train_every
        self.count_on_from(0)
        self.frozen = Frozen()
        self._is_due = False
        self._has_taken = False  # gradients of a compiled pass whose backward has not come
        self._passes_back = 0  # since the synthesizers' last step
        self._connect()

    # -- life ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Make what cannot be copied, and listen."""
        self.passes = Passes()
        self._backward_end = BackwardEnd(self._on_backward_end, self.passes.is_waiting)
        self._meters = Meters()
        self.unlock: Unlock | None = None
        if self.activations is not None:
            self.unlock = ForwardUnlock(self._backward_end, self.activations)
        elif self.is_unlocked:
            self.unlock = Unlock(self._backward_end)
        self._heralds: set[int] = set()  # identities of what we listen to in the network
        self._handles: list[RemovableHandle] = [
            self._backward_end.listen(interface.meter) for interface in self.interfaces.values()
        ]
        weakref.finalize(self, remove_all, self._handles)

    def attach(self) -> None:
        """Listen to the network: a loss may go by every interface, by h_n of an LSTM say."""
        self.network_optimizer.attach()
        if self.is_automatic:
            found = heralds(self.network_optimizer.network)
            self._handles += [self._backward_end.listen_if_expected(p) for p in found]
            self._heralds = {id(p) for p in found}

    def detach(self) -> None:
        """Stop listening; the boundaries of graphs still alive become plain identities."""
        self.flush()
        remove_all(self._handles)
        self.passes.make_inert()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_backward_end", "_meters", "passes", "_handles", "_heralds", "unlock")
        return {k: v for k, v in self.__dict__.items() if k not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def count_on_from(self, count: int) -> None:
        """Set the number of updates made so far."""
        self.count = count
        # The first update shows ρ, without which there is nothing to learn: the second one counts.
        is_due = count == 0 or (count - 1) % self.train_every == 0
        self.learns = self.trains_synthesizers and is_due

    @property
    def is_awaited(self) -> bool:
        """Whether a hook that is not ours waits for the gradient of a network's parameter."""
        ours = self._heralds
        return any(
            p._backward_hooks or len(p._post_accumulate_grad_hooks or ()) > (id(p) in ours)
            for p in self.network_optimizer.parameters
        )

    @property
    def hears(self) -> bool:
        """Whether statistics are taken from the update under way."""
        return self.learns or not self.trains_synthesizers

    # -- forward passes --------------------------------------------------------------------

    @contextmanager
    def passing(self, is_training: bool, context: Tensor | None) -> Iterator[bool]:
        """Surround a pass forward; it closes whatever an earlier one left open.

        Args:
            is_training: Whether the pass goes through the interfaces.
            context: Features of the context it runs with.

        Yields:
            Whether this is a training pass of its own: not within another one, and not what a
            checkpoint runs again during backward.
        """
        passes = self.passes
        if passes.is_within:
            yield False
            return
        self.close()
        passes.current = None
        if is_training:
            passes.begin(context)
            self.network_optimizer.clear_used()
            check_single(self.train_every)
            self.draw.renew()
        passes.is_under_way = True
        try:
            yield is_training
        except BaseException:
            if passes.current is not None:  # nothing will come back from it
                passes.current.is_returned = passes.current.is_counted = True
            self._forget_unlocked()
            raise
        finally:
            passes.is_under_way = False

    def close(self) -> None:
        """Close what an earlier pass forward left open; what had no backward is forgotten."""
        if self._backward_end.forget():
            self._drop_gradients()
        self.flush()
        # A backward that never came.
        if self.unlock is not None and (self._has_taken or self.passes.is_waiting()):
            self._forget_unlocked()
        if self._passes_back and not self.is_automatic and self.synthesizer_optimizer.is_cleared:
            self._absorb()  # an optimizer of the user's over all parameters has stepped

    def _forget_unlocked(self) -> None:
        """Start clean after an unlocked pass forward whose backward will not come."""
        if self.unlock is not None:
            self._has_taken = False
            self._drop_gradients()
            self.unlock.clear()

    def take(self, leaves: list[Tensor], gradients: list[Tensor]) -> None:
        """Take the gradients of parameters and meters that a compiled pass forward has computed."""
        self.network_optimizer.clear_used()
        self._has_taken = True
        for leaf, gradient in zip(leaves, gradients, strict=True):
            give(leaf, gradient)

    def join(self) -> None:
        """Note that a site is reached, maybe within a backward pass (see `BackwardEnd`)."""
        self._backward_end.join()

    def _drop_gradients(self) -> None:
        """Forget what a backward pass left behind that raised half way."""
        if self.is_automatic:
            self.network_optimizer.use()
            self.network_optimizer.clear_used()
        self.synthesizer_optimizer.clear()
        for interface in self.interfaces.values():
            interface.heard()
        self.passes.give_up()

    # -- interfaces ------------------------------------------------------------------------

    def adopt(self, name: SiteName, interface: Interface) -> None:
        """Listen to an interface and optimize its synthesizer."""
        self._handles.append(self._backward_end.listen(interface.meter))
        if not self.trains_synthesizers:
            self.frozen.note(name, interface.synthesizer)
        self.optimize(name, interface.synthesizer)

    def adopt_activation(self, name: SiteName) -> None:
        """Optimize the network that predicts an activation, with the synthesizers."""
        assert self.activations is not None
        self.optimize(name + ACTIVATION, self.activations[name])

    def optimize(self, name: str, module: nn.Module) -> None:
        """Train a module with the synthesizers, by their optimizer."""
        if self.trains_synthesizers:
            self.synthesizer_optimizer.add(name, module)

    def discard(self, names: Iterable[SiteName]) -> None:
        """Forget interfaces, and what was remembered to optimize them."""
        for name in list(names):
            self.interfaces.discard(name)
            self.frozen.forget(name)
            self.synthesizer_optimizer.remove(name)

    def discard_activations(self, names: Iterable[SiteName]) -> None:
        """Forget networks that predict activations, likewise."""
        for name in list(names):
            assert self.activations is not None
            self.activations.discard(name)
            self.synthesizer_optimizer.remove(name + ACTIVATION)

    # -- the end of backward ---------------------------------------------------------------

    def _on_backward_end(self, is_heard: bool) -> None:
        if not is_heard:  # a pass that asked for other gradients
            return
        self._has_taken = False
        if self.unlock is not None:
            self.unlock.settle(everything=True)
        back, others_wait = self.passes.come_back()
        self._passes_back += back
        self._clear_idle()
        if not self.is_automatic:
            self._keep()
        elif others_wait:
            self._is_due = True  # an update now would spoil the graph of another pass
        else:
            self._update()

    def _clear_idle(self) -> None:
        """Clear the gradients of the sites that do not learn in this step."""
        if not self.draw.is_sparse:
            return
        if self.unlock is None:
            self.draw.renew()  # compiled passes do not draw; unlocked ones have changed the network
        self.draw.clear_idle()
        for name, interface in self.interfaces.items():
            if interface.site in self.draw.idle:
                modules: list[nn.Module] = [interface.synthesizer]
                if self.activations is not None and name in self.activations:
                    modules.append(self.activations[name])
                for parameter in (p for module in modules for p in module.parameters()):
                    parameter.grad = None

    def _update(self) -> None:
        self._is_due = False
        self.network_optimizer.use()
        self.step()

    def flush(self) -> None:
        """Make the update that waits for another pass to come back."""
        if self._is_due:
            self._update()

    # -- optimizers ------------------------------------------------------------------------

    def step(self, *, network: bool = True, synthesizers: bool = True) -> None:
        """Step the optimizers; the synthesizers' gradients are cleared, the network's stay."""
        if network:
            self.network_optimizer.step()
        if synthesizers:
            self._step_synthesizers()
        self.draw.end()
        self.count_on_from(self.count + 1)
        self.interfaces.mix(self.count)

    def step_module(self, module: nn.Module) -> None:
        """Step a module whose gradients are complete, ahead of the end of backward.

        At once, for what comes later may use the same parameters and save them for its backward.
        """
        self.draw.clear_idle()
        if self.is_automatic:
            self.network_optimizer.step_module(module)

    def _step_synthesizers(self) -> None:
        passes = self._passes_back
        finite = self._absorb()
        if not self.learns or self.synthesizer_optimizer.optimizer is None:
            return
        # A tensor is on a device: asked only if the scaler waits for it anyway.
        asked = [f for f in finite if self.grad_scaler is not None or not isinstance(f, Tensor)]
        if all(asked):
            self.synthesizer_optimizer.step(passes)
        self.synthesizer_optimizer.clear()

    def _absorb(self) -> list[Any]:
        """Bring the running statistics up to date; per device, whether they were finite."""
        self._passes_back = 0
        interfaces = self.interfaces.values()
        if not interfaces:
            return []
        if not self.hears:
            for interface in interfaces:
                interface.heard()
            return []
        scaler = self.grad_scaler
        scale = None if scaler is None else self.loss_scale(interfaces[0].meter.device)
        return self._meters.absorb(interfaces, scale)

    def _keep(self) -> None:
        """Put the statistics aside until the step, where an outer ``zero_grad`` spares them."""
        for interface in self.interfaces.values():
            interface.keep_heard()
        if self.synthesizer_optimizer.optimizer is None:
            self._absorb()

    def loss_scale(self, device: torch.device) -> Tensor | None:
        """Factor that the gradient scaler puts on the loss. Shape ``[]``."""
        if self.grad_scaler is None or not self.grad_scaler.is_enabled():
            return None
        return self.grad_scaler.scale(torch.ones((), device=device))
