"""`DNI`: a network, the interfaces at its sites, and the optimizers of both."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import checkpoint
from .activations import Activations, missing_activations
from .arguments import check_arguments, check_network, check_share, check_synthesizers
from .attachment import Attachment
from .base_wrapper import BaseWrapper
from .compiled import Compiled
from .crossing import Crossing
from .draw import Draw
from .errors import CheckpointError
from .interfaces import Interfaces
from .mixing import Lambda
from .network_optimizer import NetworkOptimizer
from .optimizers import OptimizerSpec, make_optimizer
from .sites import SiteSpec, find_sites
from .synthesizer_optimizer import SynthesizerOptimizer
from .synthesizers.choose import SynthesizerSpec
from .updates import Updates


class DNI(BaseWrapper):
    r"""Train a network with decoupled neural interfaces.

    At every site, a module of the network, a small synthesizer predicts the gradient
    :math:`s` of the loss from the module's output. What is propagated into the module and
    further down is :math:`\lambda g + (1 - \lambda) s`, where :math:`g` is what autograd
    delivers from above; the synthesizer learns to predict :math:`g`, in the same backward pass.

    In ``eval()`` and without grad, the wrapper is the network and nothing else.

    Args:
        network: The network; it is changed in place (hooks only, see `detach`).
        dni_network: The synthesizers: a `DNINetwork` subclass, a name (``"linear"``,
            ``"linear_sigmoid"``, ``"linear_batchnorm"``, ``"rnn"``, ``"conv2d"``, ``"critic"``),
            or a mapping from module type or site name to either. ``None``: RNN for recurrent
            modules, Conv2d for feature maps, Linear otherwise.
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
        sites: Which modules are sites instead: names (also patterns: ``"block*"``), types, or a
            predicate on name and module.
        skip_last_layer: The site that is called last keeps its true gradient. Which one that is
            shows on the first training pass, which therefore runs at λ = 1.
        context_size: Number of classes or features of the context; synthesizers then need one.
        update: ``"auto"``: the end of every backward pass updates network and synthesizers, and
            gradients are cleared by the next forward pass. ``"manual"``: nothing steps by
            itself; ``.grad`` of the network holds the mixed gradients, see `step`.
        clip: Largest norm of all gradients of the network before an update, and separately of
            all gradients of the synthesizers. ``None``: no clipping.
        train_synthesizers: Whether synthesizers learn. Frozen ones that nobody has trained or
            loaded draw a warning where λ is below 1.
        scale_targets: Whether synthesizers predict in units of the running root mean square of
            the true gradient (see `Interface`).
        grad_scaler: The ``GradScaler`` that scales the loss, if one does; the scale of the
            targets then does not jump with it. Needs ``update="manual"``.
        update_probability: Probability that a site learns in a step, module and synthesizer
            both; drawn for each site and step from torch's generator. The gradients of a site
            that does not learn are cleared when backward ends; parameters outside all sites
            always learn. 1 is every step.
        train_every: Synthesizers learn in the first two updates (the first shows the scale of the
            gradients alone) and in every so many after the second. Where λ is 0 nobody needs the
            true gradient in the others, so it is not computed: a layer then saves the gradient
            with respect to its input, a third of its products. A step of wide layers becomes as
            fast as backpropagation's or faster, but synthesizers follow the network more slowly,
            which costs accuracy (docs/choosing.md). `statistics` are of the updates in which
            synthesizers learn.
        unlock: ``"update"``: while λ is 0 a site learns during the forward pass, as soon as its
            output is there, and its activations are freed; the memory for them then does not
            grow with depth. λ must be 0, or a function that becomes 0 (a warm-up). A forward
            pass without backward is forgotten by the next one; a checkpoint around a site is
            not supported, it has nothing left to save. ``"forward"``: moreover a site hands on a
            synthetic activation, predicted from the network's input (its first floating-point
            argument, flattened) and the context by a second network that learns to match the
            real one; so no module waits for another. Evaluation uses the real activations; the
            error there is what counts, not the loss in training, where labels in the context
            shine through. The site whose output the network returns must be left out
            (``skip_last_layer``, ``sites``); batches come first and keep their sizes, and a site
            is called once in a pass. The networks are in ``net.activations`` and are trained
            with the synthesizers. ``"none"``: the whole network learns in backward.

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
        unlock: Literal["none", "update", "forward"] = "none",
        update_probability: float = 1.0,
        train_every: int = 1,
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
            update_probability=update_probability,
            train_every=train_every,
        )
        super().__init__()
        found = find_sites(network, recursive=recursive, sites=sites)
        check_synthesizers(dni_network, found)
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
            sites=found,
            share=λ if lambda_ is None else lambda_,
        )
        check_share(interfaces, unlock)
        if gpu_id >= 0:
            network.to(f"cuda:{gpu_id}")
        self.network = network
        self.interfaces = interfaces
        activations = Activations() if unlock == "forward" else None
        if activations is not None:
            self.activations = activations
        self._updates = Updates(
            NetworkOptimizer(network, optimizer, clip),
            SynthesizerOptimizer(grad_optim, grad_lr, clip),
            interfaces,
            is_automatic=update == "auto",
            trains_synthesizers=train_synthesizers,
            train_every=train_every,
            grad_scaler=grad_scaler,
            is_unlocked=unlock != "none",
            activations=activations,
            draw=Draw(network, found, update_probability),
        )
        self._network_takes_context = "context" in inspect.signature(network.forward).parameters
        self._crossing = Crossing(found, interfaces, self._updates, skips_last=skip_last_layer)
        self._attach()

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
        crossing = self._crossing
        previous = crossing.context
        try:
            if "context" in kwargs and not self._network_takes_context:
                crossing.set_context(kwargs.pop("context"))
            return crossing.run(self.network, args, kwargs)
        finally:
            crossing.context = previous

    def compile(self, **kwargs: Any) -> None:
        """Compile calls of this wrapper by ``torch.compile``, with what its interfaces compute.

        The first training passes still run as they are, to see what there is to compile. Under
        ``unlock="update"`` a compiled pass forward computes the same gradients, and updates are
        made when backward ends, all at once. For that, ``torch.compile`` reads
        ``torch.autograd.grad`` from here on (``torch._dynamo.config.trace_autograd_ops``). Unlocked
        passes that a compiler cannot read whole, for an ``nn.LSTM``, forward unlocking or sparse
        updates say, run as they are.

        Args:
            **kwargs: Keyword arguments of ``torch.compile``.

        Example:
            >>> net = DNI(nn.Linear(2, 2))
            >>> net.compile(backend="eager")
            >>> net(torch.ones(1, 2)).shape
            torch.Size([1, 2])
        """
        self._compiled_call_impl = Compiled(
            self._call_impl,
            self._crossing,
            takes_context=not self._network_takes_context,
            **kwargs,
        )

    @contextmanager
    def context(self, context: Tensor) -> Iterator[None]:
        """Condition the synthesizers on labels or features during a ``with`` block.

        Args:
            context: Class indices ``[B]`` (they become one-hot) or features ``[B, context_size]``.

        Raises:
            ContextError: The wrapper has no ``context_size``, or the context does not fit it.
        """
        crossing = self._crossing
        previous = crossing.context
        crossing.set_context(context)
        try:
            yield
        finally:
            crossing.context = previous

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run plain backpropagation during a ``with`` block: no interface is passed."""
        crossing = self._crossing
        previous, crossing.is_paused = crossing.is_paused, True
        try:
            yield
        finally:
            crossing.is_paused = previous

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
    def optimizer(self) -> Optimizer:
        """Optimizer of the network."""
        optimizer = self._updates.network_optimizer.optimizer
        assert optimizer is not None
        return optimizer

    # -- life ------------------------------------------------------------------------------

    def _attach(self) -> None:
        self._attachment = Attachment(self._crossing)
        is_unlocked = self._updates.unlock is not None
        self._attachment.attach(self._crossing.sites, is_before=is_unlocked)
        self._updates.attach()

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
        left_out = ("_attachment", "_compiled_call_impl")
        return {k: v for k, v in self.__dict__.items() if k not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._attach()

    # -- saving ----------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` holds besides tensors."""
        return {**super().get_extra_state(), "last_site": self._crossing.last_site}

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        super().set_extra_state(state)
        if self.interfaces.is_backprop and state["last_site"] is not None:
            self._crossing.skip(state["last_site"])
        self.λ = self.λ

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """See `BaseWrapper.load_state_dict`; networks that predict activations are loaded too."""
        activations = self._updates.activations
        guessed = set() if activations is None else set(activations)
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except CheckpointError:
            if activations is not None:
                self._updates.discard_activations(set(activations) - guessed)
            raise

    def _make_saved(self, state: Mapping[str, Any], prefix: str) -> None:
        """Make the interfaces that a state has and this wrapper has not."""
        like = next(p for p in self.network.parameters() if p.is_floating_point())
        missing = checkpoint.fitting(state, prefix, self._crossing.sites, self.interfaces)
        for name, site, layout in missing:
            module = self._crossing.sites[site]
            made = self.interfaces.make(name, site, module, layout=layout, like=like)
            self._updates.adopt(name, made)
        activations = self._updates.activations
        if activations is not None:
            for name, inputs, shape in missing_activations(state, prefix, activations):
                activations.make(name, inputs, shape, like)
                self._updates.adopt_activation(name)
