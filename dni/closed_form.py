"""The boundary of a critic with a linear head, and which critics have one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .boundary import MIXED, TRUE
from .linear_head import Head, learn, respond, rows, synthetic
from .listeners import is_heard
from .passes import Pass
from .sums import nothing_heard
from .synthesizers.critic import CriticDNI


class Terms(NamedTuple):
    """What a boundary has to know besides; one argument, for torch looks at each of them.

    Attributes:
        target: Target of the criterion at every position. Shape ``[N, C]``.
        criterion: See `Head`, likewise the next.
        sobolev: Weight of the local loss.
        inverse_scale: 1 / ρ, or 0 while ρ is unknown. Shape ``[]``.
        mix: λ. Shape ``[]``.
        mode: See `dni.boundary.propagate`.
        hears: Likewise.
        record: The forward pass.
    """

    target: Tensor
    criterion: str
    sobolev: float
    inverse_scale: Tensor
    mix: Tensor
    mode: int
    hears: bool
    record: Pass | None


class ClosedBoundary(torch.autograd.Function):
    """What `Boundary` computes for a critic with a linear head, without writing down `S - G`.

    The mixed gradient, the regression's gradient and the meter are those of `Boundary`. The
    synthetic gradient itself is made in the backward pass: until then only `Response` is kept.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        activation: Tensor,
        weight: Tensor,
        bias: Tensor,
        gain: Tensor,
        meter: Tensor,
        terms: Terms,
    ) -> Tensor:
        # Not saved, see `Boundary`: an update in place is no reason to refuse a second pass.
        ctx.head = head = Head(weight, bias, gain, terms.criterion, terms.sobolev).detached()
        ctx.response = respond(head, rows(activation), terms.target)
        ctx.terms = terms
        ctx.save_for_backward(activation)
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (true,) = grads
        terms: Terms = ctx.terms
        if terms.record is not None:
            if terms.record.is_inert:
                return true, None, None, None, None, None
            terms.record.is_returned = True
        (activation,) = ctx.saved_tensors
        head, response = ctx.head, ctx.response

        if terms.mode == TRUE:
            mixed = true
        else:
            mixed = synthetic(head, response, terms.inverse_scale).view(true.shape)
            if terms.mode == MIXED:
                mixed = mixed.lerp(true, terms.mix.to(true.dtype))

        _, _, trains, _, is_heard, _ = ctx.needs_input_grad
        if not (trains or (is_heard and terms.hears)):
            return mixed, None, None, None, nothing_heard(true) if is_heard else None, None
        if torch.is_grad_enabled():  # a penalty on gradients is not to train what propagated them
            activation, true = activation.detach(), true.detach()
        lesson = learn(head, response, rows(activation), rows(true), terms.inverse_scale)
        if not trains:
            return mixed, None, None, None, lesson.sums, None
        return mixed, *lesson, None


def cross_closed(
    activation: Tensor,
    head: Head,
    meter: Tensor,
    *,
    target: Tensor,
    inverse_scale: Tensor,
    mix: Tensor,
    mode: int,
    hears: bool = True,
    record: Pass | None = None,
) -> Tensor:
    """Pass an activation through a `ClosedBoundary`.

    Args:
        activation: Output of the site. Shape ``[*, D]``.
        head: The critic's head; with constants it does not learn.
        meter: Leaf whose gradient will carry the statistics. Shape ``[5]``.
        target: See `Terms`, likewise what follows. Shape ``[N, C]``.
        inverse_scale: 1 / ρ. Shape ``[]``.
        mix: λ. Shape ``[]``.
        mode: See `dni.boundary.propagate`.
        hears: Likewise.
        record: The forward pass this boundary belongs to.

    Returns:
        A copy of the activation. Shape ``[*, D]``.
    """
    terms = Terms(target, head.criterion, head.sobolev, inverse_scale, mix, mode, hears, record)
    out: Tensor = ClosedBoundary.apply(  # type: ignore[no-untyped-call]
        activation, *head.parameters(), meter, terms
    )
    return out


def head_of(synthesizer: torch.nn.Module) -> Head | None:
    """The linear head of a critic; ``None`` where the closed form does not hold.

    It holds for vectors, a named criterion and no hidden layer, in single or double precision,
    and only where nobody listens to the synthesizer's calls.

    Example:
        >>> head = head_of(CriticDNI(4, 0, 4, context_size=3))
        >>> head is not None and head.weight.shape
        torch.Size([3, 4])
    """
    if type(synthesizer) is not CriticDNI or not isinstance(synthesizer.criterion, str):
        return None
    if synthesizer.final is not None or synthesizer.pool_size is not None:
        return None
    if synthesizer.before_norm:
        return None
    first = synthesizer.first
    if is_heard(synthesizer) or is_heard(first):
        return None
    weight = first.weight
    if weight.dtype not in (torch.float32, torch.float64):
        return None
    return Head(weight, first.bias, synthesizer.gain, synthesizer.criterion, synthesizer.sobolev)
