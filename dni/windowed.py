"""A network that runs window by window, each joined to the one before and the one after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base_wrapper import BaseWrapper
from .context import encode
from .errors import ContextError, ShapeError
from .seam import SITE, Seam
from .sites import SiteName
from .states import Form, rebuilt, tensors_in
from .synthesizers.base import start_at_zero
from .synthesizers.choose import Layout
from .window import end
from .window_arguments import axis_of_sequences, check_done, check_end, check_input, check_state

HEAD = "auxiliary"
"""The auxiliary head among the parameters that the synthesizer's optimizer trains."""


class Windowed(BaseWrapper):
    """Runs the windows of `TemporalDNI`, which sets the attributes.

    Attributes:
        batch_dim: Axis of the sequences in every tensor of the state.
        auxiliary_head: What predicts the synthetic gradient from an output; made when needed.
    """

    batch_dim: int
    auxiliary_head: nn.Linear | None
    _sites: dict[SiteName, nn.Module]
    _seam: Seam
    _context_size: int | None
    _sizes: list[int] | None
    _form: Form | None = None
    _checked: tuple[Any, int | None] | None = None

    # -- forward ---------------------------------------------------------------------------

    def forward(
        self,
        input: Any,
        state: Any = None,
        *,
        done: Tensor | bool | None = None,
        context: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run a window.

        Args:
            input: What the network takes: ``[T, B, D]``, ``[B, T, D]`` or ``[B, D]`` for torch's.
            state: What the window before returned. ``None``, and a sequence whose state has other
                values than it was returned with, begin an episode; gradients flow into such a
                state where it asks for them.
            done: The sequences whose last window this is. Shape ``[B]``, boolean; ``True`` for
                all of them, where nothing is asked about what comes later.
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
        features = None
        size = self._context_size
        if context is not None:
            features = encode(context, size)
        elif size is not None:
            raise ContextError(
                f"`context_size={size}`, but no context was given; pass `context=` to every window."
            )
        known, shape = self._checked, getattr(input, "shape", None)
        if known is None or shape is None or shape != known[0]:
            known = self._checked = shape, check_input(self.network, input)
        with self._updates.passing(True, features):
            output, last = self._run(input, self._start(state, known[1]))
            return self._end(input, output, last, done, features)

    def _run(self, input: Any, state: Any) -> tuple[Any, Any]:
        """Run the network; a cell's output is its h."""
        network: Any = self._modules["network"]  # past `Module.__getattr__`
        result = network(input, state)
        if isinstance(network, nn.RNNCellBase):
            return (result[0] if isinstance(result, tuple) else result), result
        if not isinstance(result, tuple) or len(result) != 2:
            raise ShapeError(
                f"`{type(network).__name__}` returned a {type(result).__name__}; the pair "
                "(output, state) is needed."
            )
        return result

    def _start(self, state: Any, batch: int | None) -> Any:
        """The state the window starts from; where it goes on, its gradient trains."""
        seam, form = self._seam, self._form
        if state is None:
            seam.skip()
            return None
        tensors = tensors_in(state)
        if form is None or not form.fits(tensors) or batch not in (None, form.batch):
            expected = self._sizes if form is None else form.sizes
            like = next(self.network.parameters())
            check_state(tensors, self.batch_dim, batch=batch, like=like, expected=expected)
            form = Form(tensors, self.batch_dim)
        started = seam.begin(tensors, form)
        if started is None:
            return state
        if not isinstance(self._modules["network"], nn.RNNBase | nn.RNNCellBase):
            started = [t.clone() for t in started]  # a user's may write to it, and not to a leaf
        return rebuilt(state, started)

    def _end(
        self,
        input: Any,
        output: Any,
        state: Any,
        done: Tensor | bool | None,
        context: Tensor | None,
    ) -> tuple[Any, Any]:
        """Hand on the state without its graph; note what its gradient is expected to be."""
        seam, form = self._seam, self._form
        tensors, outputs = tensors_in(state), tensors_in(output)
        if form is None or not form.fits(tensors):
            check_end(self.network, input, tensors, self.batch_dim)
            form = self._form = Form(tensors, self.batch_dim)
        ends = check_done(done, form.batch)
        is_last = bool(ends.all()) if isinstance(ends, Tensor) and ends.is_cpu else ends is True
        values = [t.detach() for t in tensors]
        if seam.interface is None:
            rows = form.join(values)
            self._make_interface(rows.shape[1], rows)
        seam.finish(values, form, context, is_last=is_last)
        if isinstance(ends, Tensor) and not is_last:
            seam.end_episode(ends.to(values[0].device))
        auxiliary = None if seam.future.target is None else self._predict_future(outputs[0])
        outputs = end(outputs, tensors, seam.future, auxiliary)
        return rebuilt(output, outputs), rebuilt(state, values)

    def _predict_future(self, output: Tensor) -> Tensor:
        """What the auxiliary head says of the window's end, from every output. ``[*, S]``."""
        assert self._seam.carry is not None
        rows = self._seam.carry.rows
        head = self.auxiliary_head or self._make_head(output.shape[-1], rows.shape[1], rows)
        self._seam.future.axis = axis_of_sequences(self.network, output, len(rows), self.batch_dim)
        weight, bias = head.weight, head.bias
        if not self._updates.learns:
            weight, bias = weight.detach(), bias.detach()  # type: ignore[assignment]
        return F.linear(output, weight, bias)

    def end_episode(self, done: Tensor | bool | None = None) -> None:
        """End the episode with the window that has run: nothing later depends on its state.

        Called between forward and backward of the last window, no synthetic gradient is sent into
        it; called later, it only cuts the link to the next window. Where it is known before,
        ``done=`` of that window costs less.

        Args:
            done: The sequences that end, ``None`` for all. Shape ``[B]``, boolean.

        Raises:
            ShapeError: The mask has another shape.
        """
        carry = self._seam.carry
        if carry is None:
            return
        ends = True if done is None else check_done(done, len(carry.rows))
        if ends is not False:
            self._seam.end_episode(ends if isinstance(ends, Tensor) else None)

    # -- making ----------------------------------------------------------------------------

    def _make_interface(self, features: int, like: Tensor) -> None:
        interfaces = self.interfaces
        interfaces.hidden_size = interfaces.hidden_size or features
        layout = Layout(features=features)
        made = interfaces.make(SITE, SITE, self.network, layout=layout, like=like)
        self._updates.adopt(SITE, made)

    def _make_head(self, inputs: int, features: int, like: Tensor) -> nn.Linear:
        head: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, features, device=like.device)
        head.to(like.dtype)
        start_at_zero(head)
        self.auxiliary_head = head
        self._updates.optimize(HEAD, head)
        return head
