"""`DNI`: a network, the interfaces at its sites, and the optimizers of both."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_unflatten

from . import checkpoint
from .arguments import (
    check_arguments,
    check_axes,
    check_network,
    check_not_late,
    check_synthesizers,
    no_gradient,
)
from .attachment import Attachment
from .boundary import SYNTHETIC
from .context import encode
from .errors import CheckpointError, ConfigError, ContextError, DNIWarning
from .interface import Statistics
from .interfaces import Interfaces
from .mixing import Lambda
from .optimizers import OptimizerSpec, make_optimizer, ordered_like
from .sites import SiteName, SiteSpec, find_sites
from .synthesizers.choose import SynthesizerSpec
from .updates import Updates


class DNI(nn.Module):
    r"""Train a network with decoupled neural interfaces.

    At every site, a module of the network, a small synthesizer predicts the gradient
    :math:`s` of the loss from the module's output. What is propagated into the module and
    further down is :math:`\lambda g + (1 - \lambda) s`, where :math:`g` is what autograd
    delivers from above; the synthesizer learns to predict :math:`g`, in the same backward pass.

    In ``eval()`` and without grad, the wrapper is the network and nothing else.

    Args:
        network: The network; it is changed in place (hooks only, see `detach`).
        dni_network: The synthesizers: a `DNINetwork` subclass, a name (``"linear"``,
            ``"linear_sigmoid"``, ``"linear_batchnorm"``, ``"rnn"``, ``"conv2d"``), or a mapping
            from module type or site name to either. ``None``: RNN for recurrent modules, Conv2d
            for feature maps, Linear otherwise.
        dni_params: Further arguments of the synthesizers, for example ``{"num_layers": 2}``.
        optim: Optimizer of the network: an instance over its parameters, a class, a name, a
            factory ``params -> Optimizer``; ``None`` makes one from ``grad_optim``, ``grad_lr``.
        grad_optim: Optimizer of the synthesizers: a name, a class or a factory.
        grad_lr: Learning rate of the synthesizers, and of a network optimizer made here.
        hidden_size: Width of the synthesizers.
        λ: Share of the true gradient: 0 synthetic only, 1 backpropagation only; a number, a
            mapping by site (0.5 where it names none) or a function of the number of updates.
        recursive: Every leaf module with trainable parameters is a site (``True``), or the
            network itself is the only one (``False``).
        gpu_id: -1 leaves devices alone; another number moves the network to that GPU.
        lambda_: The same as ``λ``, for keyboards without it.
        sites: Which modules are sites instead: names, types, or a predicate on name and module.
        skip_last_layer: The site that is called last keeps its true gradient. Which one that is
            shows on the first training pass, which therefore runs at λ = 1.
        context_size: Number of classes or features of the context; synthesizers then need one.
        update: ``"auto"``: the end of every backward pass updates network and synthesizers, and
            gradients are cleared by the next forward pass. ``"manual"``: nothing steps by
            itself; ``.grad`` of the network holds the mixed gradients, see `step`.
        clip: Largest norm of all gradients of the network before an update, and separately of
            all gradients of the synthesizers. ``None``: no clipping.
        train_synthesizers: Whether synthesizers learn.
        scale_targets: Whether synthesizers predict in units of the running root mean square of
            the true gradient (see `Interface`).
        grad_scaler: The ``GradScaler`` that scales the loss, if one does; the scale of the
            targets then does not jump with it. Needs ``update="manual"``.
        unlock: ``"update"``: a site at λ = 0 learns during the forward pass, as soon as its
            output is there, and its activations are freed; the memory for them then does not
            grow with depth. λ must be 0, a mapping or a function; sites at another λ wait as
            ever. A forward pass without backward is forgotten by the next one. ``"none"``: the
            whole network learns in backward.

    Raises:
        ConfigError: An argument has a value that cannot work.
        SiteError: No site, or an unknown one.
        AttachmentError: The network is wrapped already.

    Source:
        Jaderberg et al. 2017, *Decoupled Neural Interfaces using Synthetic Gradients*,
        arXiv:1608.05343; λ is the BP(λ) of its appendix A.

    Example:
        >>> network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> net = DNI(network, lambda_=0.5)
        >>> before = network[0].weight.clone()
        >>> loss = nn.functional.cross_entropy(net(torch.randn(4, 8)), torch.tensor([0, 1, 2, 0]))
        >>> loss.backward()  # updates the network and its synthesizers
        >>> torch.equal(before, network[0].weight)
        False
    """

    network: nn.Module
    interfaces: Interfaces

    def __init__(
        self,
        network: nn.Module,
        dni_network: SynthesizerSpec = None,
        dni_params: Mapping[str, Any] = {},  # noqa: B006 - the seed's default; never written to
        optim: OptimizerSpec = None,
        grad_optim: OptimizerSpec = "adam",
        grad_lr: float = 0.001,
        hidden_size: int = 10,
        λ: Lambda = 0.5,
        recursive: bool = True,
        gpu_id: int = -1,
        *,
        lambda_: Lambda | None = None,
        sites: SiteSpec = None,
        skip_last_layer: bool = False,
        context_size: int | None = None,
        update: Literal["auto", "manual"] = "auto",
        clip: float | None = None,
        train_synthesizers: bool = True,
        scale_targets: bool = True,
        grad_scaler: torch.amp.GradScaler | None = None,
        unlock: Literal["none", "update"] = "none",
    ) -> None:
        check_network(network)
        check_arguments(
            hidden_size=hidden_size,
            grad_lr=grad_lr,
            context_size=context_size,
            clip=clip,
            update=update,
            grad_scaler=grad_scaler,
            grad_optim=grad_optim,
            gpu_id=gpu_id,
            dni_params=dni_params,
            unlock=unlock,
            share=λ if lambda_ is None else lambda_,
        )
        super().__init__()
        self._sites = find_sites(network, recursive=recursive, sites=sites)
        check_synthesizers(dni_network, self._sites)
        params = [p for p in network.parameters() if p.requires_grad]
        optimizer = make_optimizer(
            grad_optim if optim is None else optim,
            params,
            lr=grad_lr,
            argument="grad_optim" if optim is None else "optim",
        )
        interfaces = Interfaces(
            dni_network=dni_network,
            dni_params=dict(dni_params),
            hidden_size=hidden_size,
            context_size=context_size,
            scale_targets=scale_targets,
            sites=self._sites,
            share=λ if lambda_ is None else lambda_,
        )
        if gpu_id >= 0:
            network.to(f"cuda:{gpu_id}")
        self.network = network
        self.interfaces = interfaces
        self._updates = Updates(
            network,
            interfaces,
            optimizer,
            grad_optim=grad_optim,
            grad_lr=grad_lr,
            is_automatic=update == "auto",
            clip=clip,
            trains_synthesizers=train_synthesizers,
            grad_scaler=grad_scaler,
            is_unlocked=unlock == "update",
        )
        self._network_takes_context = "context" in inspect.signature(network.forward).parameters
        self._last_site: SiteName | None = None
        interfaces.is_backprop = skip_last_layer  # until the last site is known
        self._called: dict[SiteName, None] = {}
        self._is_compiled = False  # compiled code notes no calls
        self._has_run = False  # a training pass went through, so every site had its chance
        self._is_paused = False
        self._context: Tensor | None = None
        if not skip_last_layer:
            for site, module in self._sites.items():
                ahead = interfaces.make_ahead(site, module)
                if ahead is not None:
                    self._updates.adopt(site, ahead)
        self._attachment = Attachment(self)
        self._attachment.attach(self._sites)
        self._updates.attach()

    # -- forward ---------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Args:
            *args: Arguments of the network.
            **kwargs: Keyword arguments of the network. ``context=`` is taken by the wrapper
                (class indices ``[B]`` or features ``[B, context_size]``), unless the network
                itself has an argument of that name; use `context` then.

        Returns:
            What the network returns.

        Raises:
            ContextError: The synthesizers need a context and there is none, or it does not fit.
        """
        previous = self._context
        if "context" in kwargs and not self._network_takes_context:
            self._set_context(kwargs.pop("context"))
        try:
            if torch.compiler.is_compiling():
                if self.interfaces.is_backprop:
                    self._last_called()
                return self.network(*args, **kwargs)
            with self._updates.passing(self._is_active(), self._context) as is_new:
                output = self.network(*args, **kwargs)
        finally:
            self._context = previous
        if is_new and not self._has_run:
            self._has_run = True
            self._look_back()
        return output

    @contextmanager
    def context(self, context: Tensor) -> Iterator[None]:
        """Condition the synthesizers on labels or features during a ``with`` block.

        Args:
            context: Class indices ``[B]`` (they become one-hot) or features ``[B, context_size]``.

        Raises:
            ContextError: The wrapper has no ``context_size``, or the context does not fit it.
        """
        previous = self._context
        self._set_context(context)
        try:
            yield
        finally:
            self._context = previous

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run plain backpropagation during a ``with`` block: no interface is passed."""
        previous, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = previous

    def _set_context(self, context: Tensor | None) -> None:
        size = self.interfaces.context_size
        self._context = None if context is None else encode(context, size)

    def _is_active(self) -> bool:
        return self.training and torch.is_grad_enabled() and not self._is_paused

    def _note_call(self, site: SiteName) -> None:
        """Remember that a training pass came to a site, even within the network's own no_grad."""
        if torch.compiler.is_compiling():
            self._is_compiled = True
        elif self._updates.current is not None:
            self._called.pop(site, None)
            self._called[site] = None

    def _look_back(self) -> None:
        """After the first training pass: which sites were not called, and which came last."""
        silent = [site for site in self._sites if site not in self._called]
        if silent and not self._is_compiled:
            warnings.warn(
                f"No interface at {', '.join(map(repr, silent))}: the network did not call "
                "these modules on its first training pass (a functional call of their weights "
                "does not count), so they learn from the gradient that reaches them.",
                DNIWarning,
                stacklevel=5,  # the line that called the wrapper, beyond torch's own two frames
            )
        if self.interfaces.is_backprop:
            self._skip(self._last_called())
        self._called.clear()

    def _last_called(self) -> SiteName:
        """The site that the first training pass called last."""
        if self._is_compiled or not self._called:
            raise ConfigError(
                "With `skip_last_layer=True` the first training pass must be an eager one "
                "through at least one site: it shows which site comes last. Run one pass before "
                "`torch.compile`."
            )
        return next(reversed(self._called))

    def _skip(self, last: SiteName) -> None:
        """Leave the site that is called last without interface."""
        self._last_site = last
        self._updates.discard(n for n, i in self.interfaces.items() if i.site == last)
        self.interfaces.is_backprop = False
        self.interfaces.set_share(self.interfaces.share, self.updates)

    # -- sites -----------------------------------------------------------------------------

    def at_site(self, site: SiteName, module: nn.Module, output: Any) -> Any:
        """Called by the hook of a site; returns the site's output behind boundaries."""
        if not self._has_run:
            self._note_call(site)
        if not self._is_active() or site == self._last_site:
            return None
        self._updates.clear_used()
        if not torch.compiler.is_compiling():
            self._updates.join()
        leaves, spec = ([output], None) if isinstance(output, Tensor) else tree_flatten(output)
        carriers = [
            index
            for index, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        if not carriers:
            raise no_gradient(output, site, module)
        if isinstance(module, nn.RNNBase):
            carriers = carriers[:1]  # the state after the last step belongs to temporal interfaces
        named = [(self.interfaces.name_of(site, n), i) for n, i in enumerate(carriers)]
        named = [(name, index) for name, index in named if leaves[index].requires_grad]
        context = self._context_at(site)
        for name, index in named:
            self._prepare(name, site, module, leaves[index])
        if self._updates.unlock is not None and all(
            self.interfaces[name].mode == SYNTHETIC for name, _ in named
        ):
            self._cross_unlocked(module, leaves, named, context)
        else:
            for name, index in named:
                leaves[index] = self._cross(name, leaves[index], context)
        return leaves[0] if spec is None else tree_unflatten(leaves, spec)

    def _context_at(self, site: SiteName) -> Tensor | None:
        """The context of this pass; an error if the synthesizers need one and there is none."""
        context = self._context
        if context is None and not torch.compiler.is_compiling():
            context = self._updates.recomputed_context()
        if context is None and self.interfaces.context_size is not None:
            raise ContextError(
                f"Site {site!r} has a conditioned synthesizer (`context_size="
                f"{self.interfaces.context_size}`), but this training pass has no context; call "
                "`net(x, context=labels)` or use `with net.context(labels):`."
            )
        return context

    def _prepare(self, name: SiteName, site: SiteName, module: nn.Module, output: Tensor) -> None:
        """Make the interface if there is none yet, and have it where the output is."""
        if name not in self.interfaces:
            self._make(name, site, module, output)
        if not torch.compiler.is_compiling():
            self.interfaces[name].follow(output)

    def _cross(self, name: SiteName, output: Tensor, context: Tensor | None) -> Tensor:
        through: Tensor = self.interfaces[name](
            output,
            context,
            record=None if torch.compiler.is_compiling() else self._updates.under_way(),
            loss_scale=self._updates.loss_scale(output.device),
            train=self._updates.trains_synthesizers,
        )
        return through

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _cross_unlocked(
        self,
        module: nn.Module,
        leaves: list[Any],
        named: list[tuple[SiteName, int]],
        context: Tensor | None,
    ) -> None:
        """Let the module learn now; its graph ends here, so its other outputs are detached."""
        assert self._updates.unlock is not None
        outputs = [(self.interfaces[name], leaves[index]) for name, index in named]
        if not outputs:
            return
        copies = self._updates.unlock.cross(
            outputs, context, train=self._updates.trains_synthesizers
        )
        self._updates.step_module(module)
        handed_on = dict(zip((index for _, index in named), copies, strict=True))
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[index] = handed_on.get(index, leaf.detach())

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _make(self, name: SiteName, site: SiteName, module: nn.Module, output: Tensor) -> None:
        check_axes(output, site)
        check_not_late(site)
        made = self.interfaces.make_seen(name, site, module, output.detach())
        self._updates.adopt(name, made)

    # -- λ and updates ---------------------------------------------------------------------

    @property
    def λ(self) -> Lambda:
        """Share of the true gradient, as it was set; may be set again at any time."""
        return self.interfaces.share

    @λ.setter
    def λ(self, value: Lambda) -> None:
        self.interfaces.set_share(value, self.updates)

    lambda_ = λ

    @property
    def updates(self) -> int:
        """Number of updates made so far, at the end of backward passes or by `step`."""
        return self._updates.count

    @property
    def optimizer(self) -> Optimizer:
        """Optimizer of the network."""
        return self._updates.optimizer

    @property
    def synthesizer_optimizer(self) -> Optimizer | None:
        """Optimizer of all synthesizers, in one parameter group; ``None`` before the first."""
        return self._updates.synthesizer_optimizer

    def step(self, *, network: bool = True, synthesizers: bool = True) -> None:
        """Step the optimizers; with ``update="auto"`` the end of a backward pass does it.

        The synthesizers' gradients are cleared, the network's stay until `zero_grad`. After a
        pass whose gradients were not finite (an overflow under a gradient scaler) synthesizers
        are left as they are.

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

    # -- life ------------------------------------------------------------------------------

    def detach(self) -> nn.Module:
        """Take every hook off; the network is as it was before, but for what it has learned.

        Graphs recorded before run as plain autograd. A second call does nothing.

        Returns:
            The network.
        """
        self._attachment.detach()
        self._updates.detach()
        return self.network

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "network" not in self.__dict__.get("_modules", {}):
                raise
        network = super().__getattr__("network")
        if not hasattr(network, name):
            raise AttributeError(
                f"Neither `DNI` nor the network `{type(network).__name__}` has {name!r}."
            )
        return getattr(network, name)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_attachment", "_context")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {**state, "_context": None}
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._attachment = Attachment(self)
        self._attachment.attach(self._sites)
        self._updates.attach()

    # -- saving ----------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` holds besides tensors."""
        self._updates.flush()
        version = checkpoint.VERSION
        return {"version": version, "updates": self.updates, "last_site": self._last_site}

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        self._updates.count = state["updates"]
        if self.interfaces.is_backprop and state["last_site"] is not None:
            self._skip(state["last_site"])
        self.λ = self.λ

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load network and interfaces; also before any forward pass.

        Args:
            state_dict: What `state_dict` gave; it is not changed.
            strict: Whether every key must fit.
            assign: See ``torch.nn.Module.load_state_dict``.

        Raises:
            CheckpointError: The state belongs to another network or to other arguments of
                `DNI`; nothing is loaded then.
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

    def _make_saved(self, state: Mapping[str, Any], prefix: str) -> None:
        """Make the interfaces that a state has and this wrapper has not."""
        like = next(p for p in self.network.parameters() if p.is_floating_point())
        missing = checkpoint.fitting(state, prefix, self._sites, self.interfaces)
        for name, site, layout in missing:
            module = self._sites[site]
            made = self.interfaces.make(name, site, module, layout=layout, like=like)
            self._updates.adopt(name, made)

    def training_state(self) -> dict[str, Any]:
        """Everything needed to go on training bit for bit, optimizers included.

        Returns:
            A dictionary of tensors and plain values, which ``torch.load(weights_only=True)``
            reads back.
        """
        model = self.state_dict()
        synthesizers = self.synthesizer_optimizer
        return {
            "version": checkpoint.VERSION,
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            "synthesizer_optimizer": None if synthesizers is None else synthesizers.state_dict(),
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `training_state` gave.

        Raises:
            CheckpointError: A part is missing or does not fit; nothing is loaded then.
        """
        checkpoint.check_training_state(
            state, self.optimizer, trains_synthesizers=self._updates.trains_synthesizers
        )
        saved, live = state["synthesizer_optimizer"], self.synthesizer_optimizer
        if saved is not None and live is not None:
            checkpoint.check_settings("synthesizer_optimizer", saved, live)
        self.load_state_dict(state["model"])
        # Copied: torch's optimizers keep the very tensors they are given.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if saved is not None and self.synthesizer_optimizer is not None:
            saved = ordered_like(copy.deepcopy(saved), self.synthesizer_optimizer)
            self.synthesizer_optimizer.load_state_dict(saved)
