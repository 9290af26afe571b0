"""What happens at a site: its output meets its interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .arguments import check_axes, check_not_late, no_gradient
from .blind import Threads, cross_blind
from .boundary import SYNTHETIC
from .calls import Calls
from .context import encode
from .errors import ContextError, named
from .forward import ForwardUnlock
from .interface import Interface
from .interfaces import Interfaces
from .sites import SiteName
from .traced_unlock import TracedUnlock, trace
from .updates import Updates

COMPILES = "passes with unlocked sites are compiled by net.compile()"


class Crossing:
    """Runs a network whose sites have hooks, and receives what the hooks bring.

    Args:
        sites: The modules whose outputs carry interfaces.
        interfaces: The interfaces there are; those of other sites are made when first needed.
        updates: Told about every pass and every new interface.
        skips_last: Whether the site called last stays without interface.

    Attributes:
        context: Features of the context of the passes to come.
        is_paused: Whether passes go by the interfaces.
        last_site: The site that was skipped, once it is known.
        is_traced: Whether the pass under way is read whole by a compiler, update unlocking too.
    """

    def __init__(
        self,
        sites: Mapping[SiteName, nn.Module],
        interfaces: Interfaces,
        updates: Updates,
        *,
        skips_last: bool,
    ) -> None:
        self.sites = dict(sites)
        self.interfaces = interfaces
        self.updates = updates
        self.context: Tensor | None = None
        self.is_paused = False
        self.last_site: SiteName | None = None
        self.is_traced = False
        self._threads = Threads()
        self._traced: TracedUnlock | None = None
        self._calls = Calls()
        self._has_run = False  # a training pass went through, so every site had its chance
        interfaces.is_backprop = skips_last  # until the last site is known
        if not skips_last:
            for site, module in self.sites.items():
                ahead = interfaces.make_ahead(site, module)
                if ahead is not None:
                    updates.adopt(site, ahead)

    def __getstate__(self) -> dict[str, Any]:
        dropped = {"context": None, "_threads": Threads(), "_traced": None, "is_traced": False}
        return {**self.__dict__, **dropped}

    def set_context(self, context: Tensor | None) -> None:
        """Set the context of the passes to come; ``None`` takes it away."""
        size = self.interfaces.context_size
        self.context = None if context is None else encode(context, size)

    def run(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the network; the first training pass shows which sites are called.

        Args:
            network: The network with the hooks.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns.
        """
        if torch.compiler.is_compiling():
            if self.is_unlocking() and not self.is_traced:
                return self._run_as_it_is(network, args, kwargs)
            if self.interfaces.is_backprop:
                self._calls.last()
            self._traced = trace(self.updates) if self.is_traced else None
            return network(*args, **kwargs)
        self._traced = None  # of a compiled pass that raised half way
        unlock = self.updates.unlock
        with self.updates.passing(self._is_active(), self.context) as is_new:
            if is_new:
                self._begin_blind()
            if is_new and isinstance(unlock, ForwardUnlock) and self.interfaces.is_synthetic:
                unlock.begin(args, kwargs, self.context)
                output = network(*args, **kwargs)
                unlock.end(output)
            else:
                output = network(*args, **kwargs)
            if is_new:
                output = self._end_blind(output)
        if is_new and not self._has_run:
            self._has_run = True
            self._calls.warn(self.sites)
            if self.interfaces.is_backprop:
                self.skip(self._calls.last())
            self._calls.clear()
            self.updates.frozen.warn(self.interfaces)
        return output

    @torch.compiler.disable(reason=COMPILES)  # type: ignore[untyped-decorator]
    def _run_as_it_is(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the network uncompiled: behind a graph break, what came back could not be told."""
        return self.run(network, args, kwargs)

    def _begin_blind(self) -> None:
        """Have this pass go blindly by the sites where λ is 0, if synthesizers do not learn now."""
        record, updates = self.updates.passes.current, self.updates
        assert record is not None
        self._threads.ends.clear()
        skips = updates.trains_synthesizers and not updates.learns
        record.is_blind = skips and self._threads.can_be_tied and not self.interfaces.is_backprop

    def _end_blind(self, output: Any) -> Any:
        """Tie the output of a blind pass to its sites, or see what the output of another is."""
        record, updates = self.updates.passes.current, self.updates
        interfaces = self.interfaces.values()  # none where every site is frozen
        assert record is not None
        if not record.is_blind:
            if updates.train_every > 1:
                self._threads.look_at(output)
        elif interfaces and (self._threads.ends or self._is_unlocked()):
            return self._threads.tie(output, interfaces[0].meter)
        return output

    def _is_active(self) -> bool:
        return self.interfaces.training and torch.is_grad_enabled() and not self.is_paused

    def _is_unlocked(self) -> bool:
        return self.updates.unlock is not None and self.interfaces.is_synthetic

    def is_known(self) -> bool:
        """Whether a pass that begins now needs nothing that a first one would show."""
        return self._has_run or not self._is_active()

    def is_unlocking(self) -> bool:
        """Whether a pass that begins now crosses its sites with update unlocking."""
        return self._is_active() and self._is_unlocked()

    def end_traced(self) -> None:
        """Take the gradients that a compiled pass forward has computed."""
        traced, self._traced = self._traced, None
        if traced is not None:
            self.updates.take(traced.leaves, traced.gradients)

    def skip(self, last: SiteName) -> None:
        """Leave the site that is called last without interface."""
        self.last_site = last
        self.updates.discard(n for n, i in self.interfaces.items() if i.site == last)
        self.interfaces.is_backprop = False
        self.interfaces.set_share(self.interfaces.share, self.updates.count)

    def before_site(self) -> None:
        """Called ahead of a site under update unlocking: graphs below are gone by now."""
        unlock = self.updates.unlock
        if unlock is not None and self._is_active() and not torch.compiler.is_compiling():
            unlock.settle()

    def at_site(self, site: SiteName, module: nn.Module, output: Any) -> Any:
        """Called by the hook of a site; returns the site's output behind boundaries."""
        if not self._has_run and (
            torch.compiler.is_compiling() or self.updates.passes.current is not None
        ):
            self._calls.note(site)
        if not self._is_active() or site == self.last_site:
            return None
        if self._traced is None:
            self.updates.network_optimizer.clear_used()
        if not torch.compiler.is_compiling():
            self.updates.join()
        if isinstance(output, Tensor):
            leaves: list[Any] = [output]
            return self._cross_all(site, module, output, leaves)[0]
        leaves, spec = tree_flatten(output)
        return tree_unflatten(self._cross_all(site, module, output, leaves), spec)

    def _cross_all(
        self, site: SiteName, module: nn.Module, output: Any, leaves: list[Any]
    ) -> list[Any]:
        """Pass every tensor of a site's output through its interface; changes the list."""
        carriers = [
            index
            for index, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        if not carriers:
            raise no_gradient(output, site, module)
        if isinstance(module, nn.RNNBase):
            carriers = carriers[:1]  # the state after the last step belongs to temporal interfaces
        context = self._context_at(site)
        is_unlocked = self._is_unlocked()
        crossing = []
        for number, index in enumerate(carriers):
            if leaves[index].requires_grad:
                name = self.interfaces.name_of(site, number) if number else site
                interface = self._prepare(name, site, module, leaves[index])
                if is_unlocked:
                    self._prepare_ahead(name, interface, leaves[index])
                crossing.append((interface, index))
        if is_unlocked and self._traced is not None:
            self._cross_traced(self._traced, leaves, crossing, context)
        elif is_unlocked:
            self._cross_unlocked(module, leaves, crossing, context)
        else:
            for interface, index in crossing:
                leaves[index] = self._cross(interface, leaves[index], context)
        return leaves

    def _context_at(self, site: SiteName) -> Tensor | None:
        """The context of this pass; an error if the synthesizers need one and there is none."""
        context = self.context
        if context is None and not torch.compiler.is_compiling():
            context = self.updates.passes.recomputed_context()
        if context is None and self.interfaces.context_size is not None:
            raise ContextError(
                f"The synthesizer of {named(site)} is conditioned (`context_size="
                f"{self.interfaces.context_size}`), but this training pass has no context; call "
                "`net(x, context=labels)` or use `with net.context(labels):`."
            )
        return context

    def _prepare(
        self, name: SiteName, site: SiteName, module: nn.Module, output: Tensor
    ) -> Interface:
        """The interface, made if there is none yet, where the output is."""
        interface = self.interfaces.get(name)
        if interface is None:
            self._make(name, site, module, output)
            interface = self.interfaces[name]
        if not torch.compiler.is_compiling():
            interface.follow(output)
        return interface

    def _prepare_ahead(self, name: SiteName, interface: Interface, output: Tensor) -> None:
        """Have the network that predicts the activation, under forward unlocking."""
        unlock = self.updates.unlock
        if isinstance(unlock, ForwardUnlock) and unlock.prepare(name, interface, output):
            self.updates.adopt_activation(name)

    def _cross(self, interface: Interface, output: Tensor, context: Tensor | None) -> Tensor:
        record = None
        if not torch.compiler.is_compiling():
            if interface.mode == SYNTHETIC and self.updates.passes.is_blind():
                return self._cross_blind(interface, output, context)
            record = self.updates.passes.of_call()
        through: Tensor = interface(
            output,
            context,
            record=record,
            loss_scale=self.updates.loss_scale(output.device),
            train=self.updates.learns,
            hears=self.updates.hears,
        )
        return through

    def _cross_blind(self, interface: Interface, output: Tensor, context: Tensor | None) -> Tensor:
        """Pass a site at λ = 0 while its synthesizer does not learn."""
        record = self.updates.passes.of_call()
        foresight = interface.foresee(output.detach(), context, train=False, record=record)
        loss_scale = self.updates.loss_scale(output.device)
        scale = interface.scale if loss_scale is None else interface.scale * loss_scale
        copy, thread = cross_blind(output, foresight, scale=scale, record=record)
        self._threads.ends.append(thread)
        return copy

    def _cross_traced(
        self,
        traced: TracedUnlock,
        leaves: list[Any],
        crossing: list[tuple[Interface, int]],
        context: Tensor | None,
    ) -> None:
        """Compute the module's gradients now; its graph ends here, as in `_cross_unlocked`."""
        if not crossing:
            return
        outputs = [(interface, leaves[index]) for interface, index in crossing]
        network = self.updates.network_optimizer.network
        parameters = [p for p in network.parameters() if p.requires_grad]
        copies = traced.cross(outputs, context, parameters)
        self._hand_on(leaves, crossing, copies)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _cross_unlocked(
        self,
        module: nn.Module,
        leaves: list[Any],
        crossing: list[tuple[Interface, int]],
        context: Tensor | None,
    ) -> None:
        """Let the module learn now; its graph ends here, so its other outputs are detached."""
        assert self.updates.unlock is not None
        outputs = [(interface, leaves[index]) for interface, index in crossing]
        if not outputs:
            return
        copies = self.updates.unlock.cross(
            outputs, context, train=self.updates.learns, is_blind=self.updates.passes.is_blind()
        )
        self.updates.step_module(module)
        self._hand_on(leaves, crossing, copies)

    @staticmethod
    def _hand_on(
        leaves: list[Any], crossing: list[tuple[Interface, int]], copies: list[Tensor]
    ) -> None:
        """Put copies in the place of what has crossed, and detach the rest."""
        handed_on = dict(zip((index for _, index in crossing), copies, strict=True))
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[index] = handed_on.get(index, leaf.detach())

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _make(self, name: SiteName, site: SiteName, module: nn.Module, output: Tensor) -> None:
        check_axes(output, site)
        check_not_late(site)
        made = self.interfaces.make_seen(name, site, module, output.detach())
        self.updates.adopt(name, made)
