"""The two ends of a window of recurrent steps: autograd Functions, pure, no state of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .arrival import Arrival, arrived, learn, returned
from .passes import Pass
from .states import Form


@dataclass(slots=True, eq=False)
class Future:
    """What comes back from beyond a window's end; given up when the episode ends there.

    Attributes:
        gradients: Synthetic gradients of the tensors of the state at the end, ``None`` for none.
        target: What the auxiliary head is to predict, ``None`` for nothing. Shape ``[B, S]``.
        goes_on: The sequences that go on, ``None`` for all. Shape ``[B]``.
        weight: Weight of the auxiliary loss.
        form: How the state lies in rows.
        axis: Axis of the sequences in the auxiliary prediction.
        record: The forward pass the window belongs to.
        announce: Told of every backward pass that comes through.
    """

    gradients: Sequence[Tensor] | None = None
    target: Tensor | None = None
    goes_on: Tensor | None = None
    weight: float = 0.0
    form: Form | None = None
    axis: int = 0
    record: Pass | None = None
    announce: Callable[[], None] | None = None

    def end(self, done: Tensor | None = None) -> None:
        """Expect nothing from beyond the end, for all sequences or for those of a mask ``[B]``."""
        if done is None:
            self.gradients = self.target = None
        else:
            self.goes_on = ~done if self.goes_on is None else self.goes_on & ~done


class Start(torch.autograd.Function):
    r"""Identity on the state a window starts from; the gradient there trains the synthesizer.

    With :math:`g` the gradient of the state and :math:`p` the prediction made for it, the
    backward pass gives to the prediction the gradient of
    :math:`\frac{1}{N} \sum_n \lVert p_n - g_n / \rho \rVert^2` over the :math:`N` sequences that
    went on into this window, and to the meter their sums (see `dni.boundary.Boundary`).
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, prediction: Tensor, meter: Tensor, arrival: Arrival, *state: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(prediction)
        ctx.arrival = arrival  # an update changes its scale in place, see `Boundary`
        return tuple([t.clone() for t in state])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        (prediction,) = ctx.saved_tensors
        if not returned(ctx.arrival):
            return None, None, None, *grads
        true = arrived(ctx.arrival, grads, prediction)
        wide = torch.promote_types(true.dtype, torch.float32)
        lesson = learn(true.to(wide), prediction.detach().to(wide), ctx.arrival)
        return *lesson, None, *grads


class End(torch.autograd.Function):
    """Identity on the outputs of a window, which sends the synthetic gradient into its last state.

    The gradient is sent with the first backward pass that comes through. An auxiliary prediction
    ``[*, S]`` of that gradient, made from an output, gets the gradient of its mean squared error.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        future: Future,
        outputs: int,
        auxiliary: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.future = future
        ctx.states = len(tensors) - outputs
        if auxiliary is not None:
            ctx.save_for_backward(auxiliary)
        return tuple([t.clone() for t in tensors[:outputs]])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        future: Future = ctx.future
        nothing: tuple[None, ...] = (None,) * ctx.states
        if future.record is not None:
            if future.record.is_inert:
                return None, None, None, *grads, *nothing
            future.record.is_returned = True
        if future.announce is not None:
            future.announce()
        gradients, target, goes_on = future.gradients, future.target, future.goes_on
        future.end()
        into_state: Sequence[Tensor | None] = nothing
        if gradients is not None:
            into_state = gradients
            if goes_on is not None:
                assert future.form is not None
                into_state = future.form.masked(gradients, goes_on)
        for_auxiliary = None
        if target is not None and ctx.needs_input_grad[2]:
            (auxiliary,) = ctx.saved_tensors
            fitting = [1] * auxiliary.dim()
            fitting[future.axis], fitting[-1] = target.shape
            error = auxiliary.detach() - target.view(fitting)
            if goes_on is not None:
                fitting[-1] = 1
                error = error * goes_on.view(fitting).to(error.dtype)
            for_auxiliary = error * (2 * future.weight / error.numel())
        return None, None, for_auxiliary, *grads, *into_state


def start(
    state: Sequence[Tensor], prediction: Tensor, meter: Tensor, arrival: Arrival
) -> list[Tensor]:
    """Let a window start from a state (see `Start`).

    Args:
        state: The tensors of the state.
        prediction: Synthetic gradient of the state in units of the scale. Shape ``[B, S]``.
        meter: Leaf whose gradient will carry the statistics. Shape ``[5]``.
        arrival: What else the gradient of the state is to be compared by.

    Returns:
        Copies of the tensors.

    Example:
        >>> h, p = torch.ones(2, 3), torch.zeros(2, 3, requires_grad=True)
        >>> meter, one = torch.zeros(5, requires_grad=True), torch.ones(())
        >>> (h,) = start([h], p, meter, Arrival(one, Form([h], 0)))
        >>> (4 * h).sum().backward()
        >>> p.grad  # 2 / N (p - 4)
        tensor([[-4., -4., -4.],
                [-4., -4., -4.]])
    """
    out: tuple[Tensor, ...] = Start.apply(  # type: ignore[no-untyped-call]
        prediction, meter, arrival, *state
    )
    return list(out)


def end(
    outputs: Sequence[Tensor],
    state: Sequence[Tensor],
    future: Future,
    auxiliary: Tensor | None = None,
) -> list[Tensor]:
    """Let a window end in a state (see `End`).

    Args:
        outputs: The tensors a loss may be computed from.
        state: The tensors of the state at the end.
        future: What comes from beyond it.
        auxiliary: Prediction of ``future.target`` from an output. Shape ``[*, S]``.

    Returns:
        Copies of the outputs.

    Example:
        >>> h = torch.ones(2, 3, requires_grad=True)
        >>> (out,) = end([2 * h], [h], Future([torch.full((2, 3), 0.5)]))
        >>> out.sum().backward()
        >>> h.grad
        tensor([[2.5000, 2.5000, 2.5000],
                [2.5000, 2.5000, 2.5000]])
    """
    # Past `Function.apply`, which sees to transforms of functions and takes as long as the rest.
    apply = End.apply if torch._C._are_functorch_transforms_active() else _apply_end
    out: tuple[Tensor, ...] = apply(  # type: ignore[no-untyped-call]
        future, len(outputs), auxiliary, *outputs, *state
    )
    return list(out)


_apply_end: Callable[..., Any] = super(torch.autograd.Function, End).apply
