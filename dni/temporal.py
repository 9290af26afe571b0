"""`TemporalDNI`: synthetic gradients from beyond the window of truncated backpropagation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from . import checkpoint
from .arguments import check_arguments, check_network, check_synthesizers
from .carry import Carry
from .compiled_seam import CompiledSeam, check_compiler
from .draw import Draw
from .errors import ConfigError, DNIWarning
from .interfaces import Interfaces
from .network_optimizer import NetworkOptimizer
from .optimizers import OptimizerSpec, make_optimizer
from .seam import SITE, Seam
from .sites import SiteName
from .states import batch_dim_of, sizes_of
from .synthesizer_optimizer import SynthesizerOptimizer
from .synthesizers.base import at_least
from .synthesizers.choose import resolve
from .synthesizers.linear import LinearDNI
from .window_arguments import check_weights
from .window_updates import WindowUpdates
from .windowed import Windowed


class TemporalDNI(Windowed):
    r"""Truncated backpropagation through time that sees beyond its window.

    A window of steps starts from the state :math:`s_k` that the one before ended in, cut off from
    its graph. A synthesizer predicts the gradient of all later losses with respect to a state; at
    the window's end its prediction for :math:`s_{k+1}`, times ``scale``, is sent into the state,
    together with the loss of the window. The gradient that arrives at :math:`s_k`,

    .. math:: g_k = \frac{\partial L_k}{\partial s_k}
        + \Big(\frac{\partial s_{k+1}}{\partial s_k}\Big)^{\!\top} \hat g(s_{k+1}),

    is what the synthesizer learns to predict for :math:`s_k`, in units of its running root mean
    square. With ``scale=1`` and an exact synthesizer these are the gradients of the full unroll;
    with ``scale=0`` it is truncated backpropagation.

    The loop stays what it is without it: the state comes back as values without a graph, and
    ``loss.backward()`` trains the synthesizer. A loss has to be computed from the output, not
    from the returned state. In ``eval()`` and without grad, the wrapper is the network.

    Args:
        network: ``nn.LSTM``, ``nn.GRU``, ``nn.RNN``, a cell of these (one step at a call, the
            output is h), or a module ``network(x, state) -> (output, state)`` whose state is a
            tensor or a nest of tensors, and which makes its own start from ``None``.
        synthesizer: A `DNINetwork` subclass or a name, see `DNI`. It sees the whole state, of
            all layers, and the context.
        dni_params: Further arguments of the synthesizer. The linear ones have no hidden layer
            here unless ``num_layers`` is given: on the copy task one hidden layer is worse.
        optim: Optimizer of the network, stepped when backward ends and cleared by the next
            window: an instance (over the layers around it too), a class, a name or a factory.
            ``None``: you step and clear the network yourself, as in any loop.
        grad_optim: Optimizer of the synthesizer: a name, a class or a factory.
        grad_lr: Its learning rate, and that of a network optimizer made here.
        hidden_size: Width of the synthesizer; ``None`` is the size of the state.
        scale: Factor on the synthetic gradient where it is used. May be set later.
        auxiliary: Weight of the auxiliary task: from each output of the window a linear head
            predicts the synthetic gradient at the window's end, and its mean squared error trains
            the network too. 0 is without.
        context_size: Number of classes or features of a context per sequence.
        update: ``"auto"``: the end of every backward pass steps the synthesizer (and ``optim``).
            ``"manual"``: `step` does.
        clip: Largest norm of the gradients of ``optim`` before its step, and of the synthesizer.
        batch_dim: Axis of the sequences in every tensor of the state. ``None``: 1 where the
            network is or has an ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, else 0.
        train_synthesizers: Whether the synthesizer learns.
        train_every: It learns in one of so many windows, so that those between cost less; where
            that one begins an episode, which teaches nothing, in the next. No divisor of the
            number of windows in an episode, or it learns from the same window of each.
        scale_targets: Whether it works in units of the running root mean square.
        limit: Largest root mean square over a batch, in these units, of a synthetic gradient; a
            larger one is shortened. Exact ones hardly reach 3; where training diverges, 1 is
            safer: an expectation has no larger mean square than what is expected. ``None``: none.
        compress: Whether it sees asinh of the state: what a cell's c grows to otherwise makes
            its steps too large.
        grad_scaler: The ``GradScaler`` that scales the loss, if one does; needs
            ``update="manual"`` and no auxiliary task.

    Raises:
        ConfigError: An argument has a value that cannot work.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 2.1 (recurrent networks, the auxiliary
        task); the factor 0.1 is theirs.

    Example:
        >>> net, head = TemporalDNI(nn.LSTM(3, 8)), nn.Linear(8, 2)
        >>> opt = torch.optim.Adam([*net.parameters(), *head.parameters()])
        >>> state = None
        >>> for x, y in [(torch.randn(4, 5, 3), torch.randn(4, 5, 2))] * 3:  # windows of 4 steps
        ...     opt.zero_grad()
        ...     output, state = net(x, state)
        ...     nn.functional.mse_loss(head(output), y).backward()
        ...     opt.step()
        >>> net.updates
        3
    """

    def __init__(
        self,
        network: nn.Module,
        synthesizer: Any = "linear",
        dni_params: Mapping[str, Any] = {},  # noqa: B006 - never written to
        optim: OptimizerSpec = None,
        grad_optim: OptimizerSpec = "adam",
        grad_lr: float = 0.001,
        hidden_size: int | None = None,
        *,
        scale: float = 0.1,
        auxiliary: float = 0.0,
        context_size: int | None = None,
        update: Literal["auto", "manual"] = "auto",
        clip: float | None = None,
        batch_dim: int | None = None,
        train_synthesizers: bool = True,
        train_every: int = 1,
        scale_targets: bool = True,
        limit: float | None = 3.0,
        compress: bool = True,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        check_network(network)
        check_arguments(
            hidden_size=hidden_size,
            grad_lr=grad_lr,
            context_size=context_size,
            clip=clip,
            limit=limit,
            update=update,
            grad_scaler=grad_scaler,
            grad_optim=grad_optim,
            dni_params=dni_params,
            train_every=train_every,
            gpu_id=-1,
            unlock="none",
            update_probability=1.0,
        )
        check_weights(scale=scale, auxiliary=auxiliary)
        if auxiliary and grad_scaler is not None:
            raise ConfigError("`auxiliary` does not go with `grad_scaler`; use bfloat16 autocast.")
        sizes = sizes_of(network)
        batch_dim = batch_dim_of(network) if batch_dim is None else batch_dim
        at_least(0, batch_dim=batch_dim)
        super().__init__()
        sites: dict[SiteName, nn.Module] = {SITE: network}
        check_synthesizers(synthesizer, sites)
        kind = resolve(synthesizer, SITE, network) or LinearDNI
        options = dict(dni_params)
        if issubclass(kind, LinearDNI):
            options.setdefault("num_layers", 0)
        parameters = [p for p in network.parameters() if p.requires_grad]
        self.network = network
        self.interfaces = Interfaces(
            dni_network=kind,
            dni_params=options,
            hidden_size=hidden_size or 0,
            context_size=context_size,
            scale_targets=scale_targets,
            sites=sites,
            share=0.0,
        )
        self.auxiliary_head: nn.Linear | None = None
        self.batch_dim = batch_dim
        self._sites, self._sizes = sites, sizes
        self._context_size = context_size
        optimizer: Optimizer | None = None
        if optim is not None:
            optimizer = make_optimizer(optim, parameters, lr=grad_lr, argument="optim")
        self._updates = WindowUpdates(
            NetworkOptimizer(network, optimizer, clip),
            SynthesizerOptimizer(grad_optim, grad_lr, clip),
            self.interfaces,
            is_automatic=update == "auto",
            trains_synthesizers=train_synthesizers,
            train_every=train_every,
            grad_scaler=grad_scaler,
            is_unlocked=False,
            activations=None,
            draw=Draw(network, sites, 1.0),
        )
        self._updates.attach()
        self._seam = Seam(
            self.interfaces,
            self._updates,
            scale=scale,
            auxiliary=auxiliary,
            limit=limit,
            compress=compress,
        )
        if sizes is not None:
            self._make_interface(sum(sizes), parameters[0])

    @property
    def scale(self) -> float:
        """Factor on the synthetic gradient where it is used; may be set."""
        return self._seam.scale

    @scale.setter
    def scale(self, value: float) -> None:
        check_weights(scale=value)
        self._seam.scale = value

    @property
    def optimizer(self) -> Optimizer | None:
        """Optimizer of the network, if ``optim`` was given."""
        return self._updates.network_optimizer.optimizer

    # -- life ------------------------------------------------------------------------------

    def compile(self, *, options: Mapping[str, Any] = {}) -> None:  # noqa: B006
        """Compile what the synthesizer computes at a window's ends; the network runs as it is.

        For a synthesizer that is one linear map, the default, on the CPU: there its operations are
        so small that their calls take most of their time. The first window takes some 20 seconds
        to compile, and so does the first one of another batch size, after which any will do.

        What does not fit that code runs as without it: with the auxiliary task, under autocast,
        with hooks on the synthesizer or DDP, with a state whose tensors have gaps in memory (a
        slice of another one, say), later batches of a single sequence; and a window that begins an
        episode for some of its sequences, not for all, learns as without it. Copies are not
        compiled.

        Args:
            options: Options of the compiler, see ``torch._inductor.list_options()``.

        Raises:
            ConfigError: The synthesizer is another one, there is no such option, or no C++
                compiler.

        Example:
            >>> net = TemporalDNI(nn.LSTM(3, 8))
            >>> net.compile()  # takes effect in the next window
        """
        made = self.interfaces
        if made.dni_network is not LinearDNI or made.dni_params["num_layers"]:
            name = getattr(made.dni_network, "__name__", "synthesizer")
            raise ConfigError(
                f"`compile()` is for a synthesizer that is one linear map, and `{name}` is not; "
                'pass `synthesizer="linear"` without hidden layers, or leave `compile()` out.'
            )
        if torch._dynamo.config.disable:  # TORCH_COMPILE_DISABLE=1
            return
        check_compiler(options)
        device = next(self.network.parameters()).device
        if device.type != "cpu":
            warnings.warn(
                f"`TemporalDNI.compile()` compiles for the CPU; on {device} windows run as they "
                "are.",
                DNIWarning,
                stacklevel=2,
            )
        self._seam.compiled = CompiledSeam(
            self.batch_dim,
            limit=self._seam.limit if made.scale_targets else None,
            compress=self._seam.compress,
            site=SITE,
            options=options,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._updates.attach()

    # -- saving ----------------------------------------------------------------------------

    def _make_saved(self, state: Mapping[str, Any], prefix: str) -> None:
        like = next(p for p in self.network.parameters() if p.is_floating_point())
        for *_, layout in checkpoint.fitting(state, prefix, self._sites, self.interfaces):
            self._make_interface(layout.features, like)
        weight = state.get(f"{prefix}auxiliary_head.weight")
        if self._seam.auxiliary and self.auxiliary_head is None and weight is not None:
            self._make_head(weight.shape[1], weight.shape[0], like)

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` holds besides tensors."""
        return {**super().get_extra_state(), "is_owed": self._seam.is_owed}

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        super().set_extra_state(state)
        self._seam.is_owed = state.get("is_owed", False)

    def training_state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, amid a sequence too; save the state beside it.

        Returns:
            A dictionary of tensors and plain values, which ``torch.load(weights_only=True)``
            reads back.
        """
        carry = self._seam.carry
        return {**super().training_state(), "carry": None if carry is None else carry.saved()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `training_state` gave.

        Raises:
            CheckpointError: A part is missing or does not fit; nothing is loaded then.
        """
        super().load_training_state(state)
        device = next(self.network.parameters()).device
        carry = state.get("carry")
        self._seam.carry = None if carry is None else Carry.loaded(carry, device)
