"""`TemporalDNI`: synthetic gradients from beyond the window of truncated backpropagation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import checkpoint
from .arguments import check_arguments, check_network, check_synthesizers
from .carry import Carry, check_done, check_end, check_input, check_state
from .context import encode
from .draw import Draw
from .errors import CheckpointError, ConfigError, ContextError, ShapeError
from .interface import Interface, Statistics
from .interfaces import Interfaces
from .optimizers import OptimizerSpec, make_optimizer, ordered_like
from .sites import SiteName
from .states import asinh, batch_dim_of, join, rebuilt, sizes_of, tensors_in
from .synthesizers.base import at_least, start_at_zero
from .synthesizers.choose import Layout, resolve
from .synthesizers.linear import LinearDNI
from .updates import Updates
from .window import Future, end, start

SITE = "state"
"""The one site: the whole state of the network at a window's end."""
HEAD = "auxiliary"
"""The auxiliary head among the parameters that the synthesizer's optimizer trains."""


class TemporalDNI(nn.Module):
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

    network: nn.Module
    interfaces: Interfaces

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
            gpu_id=-1,
            unlock="none",
            update_probability=1.0,
        )
        _check_weights(scale=scale, auxiliary=auxiliary)
        if auxiliary and grad_scaler is not None:
            raise ConfigError("`auxiliary` does not go with `grad_scaler`; use bfloat16 autocast.")
        sizes = sizes_of(network)
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
        self.scale, self.auxiliary = scale, auxiliary
        self.limit, self.compress = limit, compress
        self.batch_dim = batch_dim_of(network) if batch_dim is None else batch_dim
        at_least(0, batch_dim=self.batch_dim)
        self._sites = sites
        self._sizes = sizes
        self._carry: Carry | None = None
        self._future = Future()
        self._updates = Updates(
            network,
            self.interfaces,
            None
            if optim is None
            else make_optimizer(optim, parameters, lr=grad_lr, argument="optim"),
            grad_optim=grad_optim,
            grad_lr=grad_lr,
            is_automatic=update == "auto",
            clip=clip,
            trains_synthesizers=train_synthesizers,
            grad_scaler=grad_scaler,
            is_unlocked=False,
            activations=None,
            draw=Draw(network, sites, 1.0),
        )
        self._updates.attach()
        if sizes is not None:
            self._make_interface(sum(sizes), parameters[0])

    # -- forward ---------------------------------------------------------------------------

    def forward(
        self,
        input: Any,
        state: Any = None,
        *,
        done: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run a window.

        Args:
            input: What the network takes: ``[T, B, D]``, ``[B, T, D]`` or ``[B, D]`` for torch's.
            state: What the window before returned. ``None``, and a sequence whose state has other
                values than it was returned with, begin an episode; gradients flow into such a
                state where it asks for them.
            done: The sequences whose last window this is. Shape ``[B]``, boolean.
            context: Class indices ``[B]`` or features ``[B, context_size]`` that the synthesizer
                sees beside the state at the end of this window.

        Returns:
            The network's output, and its state as values without a graph.

        Raises:
            ShapeError: The input, the state or ``done`` does not fit.
            ContextError: The synthesizer needs a context and there is none, or it does not fit.
        """
        if not (self.training and torch.is_grad_enabled()):
            return self._run(input, state)
        size = self.interfaces.context_size
        if context is None and size is not None:
            raise ContextError(
                f"`context_size={size}`, but no context was given; pass `context=` to every window."
            )
        features = None if context is None else encode(context, size)
        batch = check_input(self.network, input)
        with self._updates.passing(True, features):
            output, last = self._run(input, self._start(state, batch))
            return self._end(input, output, last, done, features)

    def _run(self, input: Any, state: Any) -> tuple[Any, Any]:
        """Run the network; a cell's output is its h."""
        result = self.network(input, state)
        if isinstance(self.network, nn.RNNCellBase):
            return (result[0] if isinstance(result, tuple) else result), result
        if not isinstance(result, tuple) or len(result) != 2:
            raise ShapeError(
                f"`{type(self.network).__name__}` returned a {type(result).__name__}; the pair "
                "(output, state) is needed."
            )
        return result

    def _start(self, state: Any, batch: int | None) -> Any:
        """The state the window starts from; where it goes on, its gradient trains."""
        if state is None:
            return None
        tensors = tensors_in(state)
        like = next(self.network.parameters())
        check_state(tensors, batch_dim=self.batch_dim, batch=batch, like=like, expected=self._sizes)
        carry = self._carry
        goes_on = carry is not None and carry.goes_on(tensors, self.batch_dim)
        if carry is None or goes_on is False:
            return state
        interface = self.interfaces[SITE]
        prediction = self._said(interface, carry)
        inverse_scale = interface.inverse_scale
        loss_scale = self._updates.loss_scale(prediction.device)
        tensors = start(
            tensors,
            prediction,
            interface.meter,
            inverse_scale=inverse_scale if loss_scale is None else inverse_scale / loss_scale,
            goes_on=None if goes_on is True else goes_on,
            batch_dim=self.batch_dim,
            record=self._updates.current,
        )
        return rebuilt(state, tensors)

    def _said(self, interface: Interface, carry: Carry) -> Tensor:
        """What the synthesizer said, or says, of the state at the end of the window before."""
        said = carry.prediction
        if said is not None and said.requires_grad and said.device == interface.meter.device:
            return said
        interface.follow(carry.rows)
        with torch.set_grad_enabled(self._updates.trains_synthesizers):
            says = self._ask(interface, carry.rows, carry.context)
        if said is not None:  # loaded: it is to learn from what it said then
            says.data.copy_(said)
        return says

    def _end(
        self, input: Any, output: Any, state: Any, done: Tensor | None, context: Tensor | None
    ) -> tuple[Any, Any]:
        """Hand on the state without its graph; note what its gradient is expected to be."""
        tensors = tensors_in(state)
        check_end(self.network, input, tensors, self.batch_dim)
        values = [t.detach() for t in tensors]
        rows = join(values, self.batch_dim)
        if done is not None:
            check_done(done, len(rows))
        if self._sizes is None:
            self._sizes = [t.numel() // len(rows) for t in values]
        outputs = tensors_in(output)
        if SITE not in self.interfaces:
            self._make_interface(rows.shape[1], rows)
        if self.auxiliary and self.auxiliary_head is None:
            self._make_head(outputs[0].shape[-1], rows.shape[1], rows)
        interface = self.interfaces[SITE]
        interface.follow(rows)
        # A linear map's graph outlives its update: asked once, it learns from what it said.
        keeps = self._updates.trains_synthesizers and is_linear(interface.synthesizer)
        prediction = None
        if self.scale or self.auxiliary:
            with torch.set_grad_enabled(keeps):
                prediction = self._ask(interface, rows, context)
        self._carry = Carry(rows, values, context, prediction if keeps else None)
        self._future = Future(weight=self.auxiliary, record=self._updates.current)
        if prediction is not None:
            self._expect(interface, prediction.detach())
        if done is not None:
            self.end_episode(done.to(rows.device))
        head, auxiliary, axis = self.auxiliary_head, None, 0
        if self.auxiliary and head is not None:
            auxiliary, axis = head(outputs[0]), self._batch_axis(outputs[0], len(rows))
        outputs = end(
            outputs,
            tensors,
            self._future,
            batch_dim=self.batch_dim,
            auxiliary=auxiliary,
            axis=axis,
        )
        return rebuilt(output, outputs), rebuilt(state, values)

    def _ask(self, interface: Interface, rows: Tensor, context: Tensor | None) -> Tensor:
        """What the synthesizer says of a state. Shape ``[B, S]``."""
        return interface.predict(asinh(rows) if self.compress else rows, context)

    def _expect(self, interface: Interface, prediction: Tensor) -> None:
        """Note what comes back from beyond the end. Shape of the prediction: ``[B, S]``."""
        prediction = prediction.nan_to_num(0.0, 0.0, 0.0)
        if self.limit is not None and interface.scale_targets:
            # What is fed back into its own target would else grow without bound.
            longest = self.limit * prediction.numel() ** 0.5
            prediction = prediction.view(1, -1).renorm(2, 0, longest).view_as(prediction)
        if self.auxiliary:
            self._future.target = prediction
        if self.scale:
            factor = interface.scale * self.scale
            loss_scale = self._updates.loss_scale(prediction.device)
            factor = factor if loss_scale is None else factor * loss_scale
            self._future.gradient = prediction * factor

    def _batch_axis(self, output: Tensor, batch: int) -> int:
        """The axis of the sequences in an output."""
        if isinstance(self.network, nn.RNNBase):
            return 0 if self.network.batch_first else 1
        axes = [a for a in (self.batch_dim, 0, 1) if a < output.dim() - 1]
        for axis in axes:
            if output.shape[axis] == batch:
                return axis
        raise ShapeError(
            f"The auxiliary task needs an output [time, {batch}, features], [{batch}, time, "
            f"features] or [{batch}, features]; the network returned {tuple(output.shape)}."
        )

    def end_episode(self, done: Tensor | None = None) -> None:
        """End the episode with the window that has run: nothing later depends on its state.

        Called between forward and backward of the last window, no synthetic gradient is sent into
        it; called later, it only cuts the link to the next window.

        Args:
            done: The sequences that end, ``None`` for all. Shape ``[B]``, boolean.

        Raises:
            ShapeError: The mask has another shape.
        """
        if self._carry is None:
            return
        if done is not None:
            check_done(done, len(self._carry.rows))
        self._future.end(done)
        self._carry.end(done)

    # -- updates ---------------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Number of updates made so far, at the end of backward passes or by `step`."""
        return self._updates.count

    @property
    def optimizer(self) -> Optimizer | None:
        """Optimizer of the network, if ``optim`` was given."""
        return self._updates.optimizer

    @property
    def synthesizer_optimizer(self) -> Optimizer | None:
        """Optimizer of the synthesizer and the auxiliary head; ``None`` before the first window."""
        return self._updates.synthesizer_optimizer

    def step(self, *, network: bool = True, synthesizers: bool = True) -> None:
        """Step the optimizers; with ``update="auto"`` the end of a backward pass does it.

        Args:
            network: Whether to step the network, where there is an ``optim``.
            synthesizers: Whether to step the synthesizer.
        """
        self._updates.step(network=network, synthesizers=synthesizers)

    def statistics(self) -> dict[SiteName, Statistics]:
        """How well the synthesizer predicts, see `Statistics`; waits for the device."""
        return {name: interface.statistics() for name, interface in self.interfaces.items()}

    # -- life ------------------------------------------------------------------------------

    def _make_interface(self, features: int, like: Tensor) -> None:
        interfaces = self.interfaces
        interfaces.hidden_size = interfaces.hidden_size or features
        layout = Layout(features=features)
        made = interfaces.make(SITE, SITE, self.network, layout=layout, like=like)
        self._updates.adopt(SITE, made)

    def _make_head(self, inputs: int, features: int, like: Tensor) -> None:
        head = nn.utils.skip_init(nn.Linear, inputs, features, device=like.device)
        head.to(like.dtype)
        start_at_zero(head)
        self.auxiliary_head = head
        self._updates.optimize(HEAD, head)

    def __getstate__(self) -> dict[str, Any]:
        # Graphs are not copied, nor is what waits for their backward.
        return {**self.__dict__, "_future": Future()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._updates.attach()

    # -- saving ----------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` holds besides tensors."""
        self._updates.flush()
        return {"version": checkpoint.VERSION, "updates": self.updates}

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        self._updates.count = state["updates"]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load network and synthesizer; also before any window.

        Raises:
            CheckpointError: The state belongs to another network or to other arguments; nothing
                is loaded then.
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
        self._make_saved(state_dict, prefix)  # reached from a model around the wrapper
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _make_saved(self, state: Mapping[str, Any], prefix: str) -> None:
        """Make what a state has and this wrapper has not yet."""
        like = next(p for p in self.network.parameters() if p.is_floating_point())
        for *_, layout in checkpoint.fitting(state, prefix, self._sites, self.interfaces):
            self._make_interface(layout.features, like)
        weight = state.get(f"{prefix}auxiliary_head.weight")
        if self.auxiliary and self.auxiliary_head is None and weight is not None:
            self._make_head(weight.shape[1], weight.shape[0], like)

    def training_state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, amid a sequence too; save the state beside it.

        Returns:
            A dictionary of tensors and plain values, which ``torch.load(weights_only=True)``
            reads back.
        """
        model = self.state_dict()
        network, synthesizer = self.optimizer, self.synthesizer_optimizer
        return {
            "version": checkpoint.VERSION,
            "model": model,
            "optimizer": None if network is None else network.state_dict(),
            "synthesizer_optimizer": None if synthesizer is None else synthesizer.state_dict(),
            "carry": None if self._carry is None else self._carry.saved(),
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `training_state` gave.

        Raises:
            CheckpointError: A part is missing or does not fit; nothing is loaded then.
        """
        network = self.optimizer
        checkpoint.check_training_state(
            state, network, trains_synthesizers=self._updates.trains_synthesizers
        )
        saved, live = state["synthesizer_optimizer"], self.synthesizer_optimizer
        if saved is not None and live is not None:
            checkpoint.check_settings("synthesizer_optimizer", saved, live)
        self.load_state_dict(state["model"])
        if network is not None:
            network.load_state_dict(copy.deepcopy(state["optimizer"]))
        if saved is not None and self.synthesizer_optimizer is not None:
            saved = ordered_like(copy.deepcopy(saved), self.synthesizer_optimizer)
            self.synthesizer_optimizer.load_state_dict(saved)
        device = next(self.network.parameters()).device
        carry = state.get("carry")
        self._carry = None if carry is None else Carry.loaded(carry, device)


def is_linear(synthesizer: nn.Module) -> bool:
    """Whether a synthesizer is one linear map of its input."""
    return type(synthesizer) is LinearDNI and len(synthesizer.hidden_layers) == 0


def _check_weights(**weights: object) -> None:
    """Refuse factors that are no numbers of at least 0.

    Raises:
        ConfigError: Names the argument.
    """
    for name, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ConfigError(f"`{name}` is {value!r}; a number of at least 0 is needed.")
