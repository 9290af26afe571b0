"""The two ends of a window of recurrent steps: autograd Functions, pure, no state of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .boundary import Pass, meter_sums, regression_gradient
from .states import join, split


@dataclass(slots=True, eq=False)
class Future:
    """What comes back from beyond a window's end; given up when the episode ends there.

    Attributes:
        gradient: Synthetic gradient of the state at the end, ``None`` for none. Shape ``[B, S]``.
        target: What the auxiliary head is to predict, ``None`` for nothing. Shape ``[B, S]``.
        goes_on: The sequences that go on, ``None`` for all. Shape ``[B]``.
        weight: Weight of the auxiliary loss.
        record: The forward pass the window belongs to.
    """

    gradient: Tensor | None = None
    target: Tensor | None = None
    goes_on: Tensor | None = None
    weight: float = 0.0
    record: Pass | None = None

    def end(self, done: Tensor | None = None) -> None:
        """Expect nothing from beyond the end, for all sequences or for those of a mask ``[B]``."""
        if done is None:
            self.gradient = self.target = None
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
        ctx: Any,
        prediction: Tensor,
        meter: Tensor,
        inverse_scale: Tensor,
        goes_on: Tensor | None,
        batch_dim: int,
        record: Pass | None,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(prediction)
        ctx.goes_on, ctx.batch_dim, ctx.record = goes_on, batch_dim, record
        ctx.inverse_scale = inverse_scale  # an update changes it in place, see `Boundary`
        ctx.shapes = [t.shape for t in state]
        return tuple(t.clone() for t in state)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        rest: tuple[None, ...] = (None,) * 4
        if ctx.record is not None:
            if ctx.record.is_inert:
                return None, None, *rest, *grads
            ctx.record.is_returned = True
        (prediction,) = ctx.saved_tensors
        some = next((g for g in grads if g is not None), prediction)
        whole = [
            some.new_zeros(shape) if grad is None else grad
            for grad, shape in zip(grads, ctx.shapes, strict=True)
        ]
        true = join(whole, ctx.batch_dim).detach()
        wide = torch.promote_types(true.dtype, torch.float32)
        true, prediction = true.to(wide), prediction.detach().to(wide)
        for_prediction, for_meter = learn(true, prediction, ctx.inverse_scale, ctx.goes_on)
        return for_prediction, for_meter, *rest, *grads


def learn(
    true: Tensor, prediction: Tensor, inverse_scale: Tensor, goes_on: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of the regression and of the meter, over the sequences that went on.

    Args:
        true: Gradient of the state. Shape ``[B, S]``.
        prediction: Prediction in units of the scale. Shape ``[B, S]``.
        inverse_scale: 1 / ρ, or 0 while ρ is unknown. Shape ``[]``.
        goes_on: The sequences that went on, ``None`` for all. Shape ``[B]``.

    Returns:
        Of the prediction ``[B, S]``, of the meter ``[5]``.
    """
    share: Tensor | None = None
    if goes_on is not None:
        chosen = goes_on.to(true.dtype)
        share = chosen.mean()
        true, prediction = true * chosen[:, None], prediction * chosen[:, None]
    sums = meter_sums(prediction, true)
    gradient = regression_gradient(prediction, true, inverse_scale, true.shape[1])
    if share is not None:
        sums[3:] *= share
        gradient /= share.clamp(min=1 / len(true))
    return gradient, sums


class End(torch.autograd.Function):
    """Identity on the outputs of a window, which sends the synthetic gradient into its last state.

    The gradient is sent with the first backward pass that comes through. An auxiliary prediction
    ``[*, S]`` of that gradient, made from an output, gets the gradient of its mean squared error.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        future: Future,
        batch_dim: int,
        outputs: int,
        auxiliary: Tensor | None,
        axis: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.future, ctx.batch_dim, ctx.axis = future, batch_dim, axis
        ctx.shapes = [t.shape for t in tensors[outputs:]]
        ctx.save_for_backward(auxiliary)
        return tuple(t.clone() for t in tensors[:outputs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        future, record = ctx.future, ctx.future.record
        nothing: tuple[None, ...] = (None,) * len(ctx.shapes)
        if record is not None:
            if record.is_inert:
                return None, None, None, None, None, *grads, *nothing
            record.is_returned = True
        gradient, target, goes_on = future.gradient, future.target, future.goes_on
        future.end()
        into_state: Sequence[Tensor | None] = nothing
        if gradient is not None:
            if goes_on is not None:
                gradient = gradient * goes_on[:, None].to(gradient.dtype)
            into_state = split(gradient, ctx.shapes, ctx.batch_dim)
        for_auxiliary = None
        (auxiliary,) = ctx.saved_tensors
        if auxiliary is not None and target is not None:
            fitting = [1] * auxiliary.dim()
            fitting[ctx.axis], fitting[-1] = target.shape
            error = auxiliary.detach() - target.view(fitting)
            if goes_on is not None:
                fitting[-1] = 1
                error = error * goes_on.view(fitting).to(error.dtype)
            for_auxiliary = error * (2 * future.weight / error.numel())
        return None, None, None, for_auxiliary, None, *grads, *into_state


def start(
    state: Sequence[Tensor],
    prediction: Tensor,
    meter: Tensor,
    *,
    inverse_scale: Tensor,
    goes_on: Tensor | None,
    batch_dim: int,
    record: Pass | None = None,
) -> list[Tensor]:
    """Let a window start from a state (see `Start`).

    Args:
        state: The tensors of the state.
        prediction: Synthetic gradient of the state in units of the scale. Shape ``[B, S]``.
        meter: Leaf whose gradient will carry the statistics. Shape ``[5]``.
        inverse_scale: 1 / ρ, or 0 while ρ is unknown. Shape ``[]``.
        goes_on: The sequences whose state comes from the window before, ``None`` for all.
        batch_dim: Axis of the sequences in the state.
        record: The forward pass the window belongs to.

    Returns:
        Copies of the tensors.

    Example:
        >>> h, p = torch.ones(2, 3), torch.zeros(2, 3, requires_grad=True)
        >>> meter, one = torch.zeros(5, requires_grad=True), torch.ones(())
        >>> (h,) = start([h], p, meter, inverse_scale=one, goes_on=None, batch_dim=0)
        >>> (4 * h).sum().backward()
        >>> p.grad  # 2 / N (p - 4)
        tensor([[-4., -4., -4.],
                [-4., -4., -4.]])
    """
    out: tuple[Tensor, ...] = Start.apply(  # type: ignore[no-untyped-call]
        prediction, meter, inverse_scale, goes_on, batch_dim, record, *state
    )
    return list(out)


def end(
    outputs: Sequence[Tensor],
    state: Sequence[Tensor],
    future: Future,
    *,
    batch_dim: int,
    auxiliary: Tensor | None = None,
    axis: int = 0,
) -> list[Tensor]:
    """Let a window end in a state (see `End`).

    Args:
        outputs: The tensors a loss may be computed from.
        state: The tensors of the state at the end.
        future: What comes from beyond it.
        batch_dim: Axis of the sequences in the state.
        auxiliary: Prediction of ``future.target`` from an output. Shape ``[*, S]``.
        axis: Axis of the sequences in it.

    Returns:
        Copies of the outputs.

    Example:
        >>> h = torch.ones(2, 3, requires_grad=True)
        >>> (out,) = end([2 * h], [h], Future(torch.full((2, 3), 0.5)), batch_dim=0)
        >>> out.sum().backward()
        >>> h.grad
        tensor([[2.5000, 2.5000, 2.5000],
                [2.5000, 2.5000, 2.5000]])
    """
    out: tuple[Tensor, ...] = End.apply(  # type: ignore[no-untyped-call]
        future, batch_dim, len(outputs), auxiliary, axis, *outputs, *state
    )
    return list(out)
