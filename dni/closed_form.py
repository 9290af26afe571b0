"""The boundary of a critic with a linear head, in closed form: five small matrix products."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .boundary import METER_UNIT, MIXED, TRUE, Pass
from .synthesizers.critic import CriticDNI


class Head(NamedTuple):
    r"""A critic's linear head :math:`z(h) = A h + b`, its gain and its criterion.

    Attributes:
        weight: :math:`A`. Shape ``[C, D]``: targets by features.
        bias: :math:`b`. Shape ``[C]``.
        gain: :math:`\gamma`, logarithm of the loss's weight. Shape ``[]``.
        criterion: ``"cross_entropy"``, ``"mse"`` or ``"binary_cross_entropy"``.
        sobolev: :math:`\sigma`, weight of the local loss itself in what is learned.
    """

    weight: Tensor
    bias: Tensor
    gain: Tensor
    criterion: str
    sobolev: float = 0.0

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, bias and gain."""
        return self.weight, self.bias, self.gain

    def detached(self) -> Head:
        """The same head, as constants."""
        weight, bias, gain = (p.detach() for p in self.parameters())
        return Head(weight, bias, gain, self.criterion, self.sobolev)


class Response(NamedTuple):
    r"""What a head says to a batch; everything is small beside the activation.

    Attributes:
        residual: :math:`R = \frac{e^\gamma}{N} \partial \ell / \partial z`; the synthetic
            gradient is :math:`R^T A`. Shape ``[C, N]``.
        output: Probabilities, or outputs under ``"mse"``. Shape ``[C, N]``.
        factor: :math:`e^\gamma / N`. Shape ``[]``.
    """

    residual: Tensor
    output: Tensor
    factor: Tensor


class Lesson(NamedTuple):
    """What a true gradient teaches: gradients of weight, bias and gain, and the meter's sums."""

    weight: Tensor
    bias: Tensor
    gain: Tensor
    sums: Tensor


def respond(head: Head, positions: Tensor, target: Tensor) -> Response:
    """Compare the head's outputs with their target.

    Features come first in here: torch normalises over the leading axis several times faster.

    Args:
        head: The head.
        positions: Activations :math:`h_n`. Shape ``[N, D]``.
        target: Targets of the criterion. Shape ``[N, C]``.

    Returns:
        The response, from which `synthetic` makes the gradient.
    """
    factor = head.gain.exp() / len(positions)
    output = torch.addmm(head.bias.unsqueeze(1), head.weight, positions.t())
    target = target.t().to(output.dtype)
    if head.criterion == "cross_entropy":
        output = output.softmax(0)
        residual = (output - target).mul_(factor)
    elif head.criterion == "mse":
        residual = (output - target).mul_(factor * (2 / len(target)))
    else:
        output = output.sigmoid()
        residual = (output - target).mul_(factor / len(target))
    return Response(residual, output, factor)


def synthetic(head: Head, response: Response, unit: Tensor) -> Tensor:
    """The synthetic gradient :math:`R^T A`.

    Args:
        head: The head.
        response: What it said.
        unit: ρ or 1 / ρ: while it is 0, ρ is unknown and the gradient is 0. Shape ``[]``.

    Returns:
        Shape ``[N, D]``.
    """
    gradient = response.residual.t() @ head.weight
    # A head that learns from gradients alone is 0 until ρ is known.
    return gradient * (unit > 0) if head.sobolev else gradient


def learn(
    head: Head, response: Response, positions: Tensor, true: Tensor, inverse_scale: Tensor
) -> Lesson:
    r"""Gradient of the regression loss with respect to the head, and the sums for the meter.

    With :math:`S = R^T A`, the loss is :math:`\frac{1}{N \rho^2} \lVert S - G \rVert^2`, and
    :math:`\sigma` times the mean criterion, whose slope is :math:`R e^{-\gamma}`.
    Neither :math:`S` nor the difference is written down: :math:`A S^T = (A A^T) R` and
    :math:`R S = (R R^T) A` leave only products of :math:`A` or :math:`R` with :math:`G`, and
    of the outputs' gradient with :math:`h`.

    Args:
        head: The head, as it was when it responded.
        response: What it said.
        positions: What it said it to. Shape ``[N, D]``.
        true: True gradient :math:`G`. Shape ``[N, D]``.
        inverse_scale: :math:`1 / \rho`, or 0 while ρ is unknown. Shape ``[]``.

    Returns:
        The gradients, and ``[Σ G², Σ (S/ρ)², Σ G S/ρ, count, 1]`` in `METER_UNIT`.
    """
    weight, residual, output = head.weight, response.residual, response.output
    step = (2 / len(true)) * inverse_scale * inverse_scale
    across = weight @ true.t()
    inner, gram = residual @ residual.t(), weight @ weight.t()
    for_residual = torch.addmm(across, gram, residual, beta=-1).mul_(step)

    for_output = for_residual * response.factor
    if head.criterion == "cross_entropy":
        for_output = output * (for_output - (output * for_output).sum(0))
    elif head.criterion == "mse":
        for_output = for_output * (2 / len(output))
    else:
        for_output = for_output * (output * (1 - output) / len(output))

    if head.sobolev:
        for_output = torch.addcmul(for_output, residual, (-head.gain).exp(), value=head.sobolev)

    for_weight = torch.addmm(residual @ true, inner, weight, beta=-1).mul_(step)
    for_weight.addmm_(for_output, positions)

    flat = true.reshape(-1)
    predicted = inner.reshape(-1).dot(gram.reshape(-1)) * (inverse_scale * inverse_scale)
    product = residual.reshape(-1).dot(across.reshape(-1)) * inverse_scale
    entries = torch.full((), true.numel(), dtype=true.dtype, device=true.device)
    sums = torch.stack((flat.dot(flat), predicted, product, entries, torch.ones_like(entries)))
    return Lesson(
        for_weight,
        for_output.sum(1),
        for_residual.reshape(-1).dot(residual.reshape(-1)),
        sums.to(torch.float32).mul_(METER_UNIT),
    )


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
        target: Tensor,
        inverse_scale: Tensor,
        mix: Tensor,
        mode: int,
        criterion: str,
        sobolev: float,
        record: Pass | None,
    ) -> Tensor:
        head = Head(weight, bias, gain, criterion, sobolev)
        features = weight.shape[1]
        response = respond(head, activation.reshape(-1, features), target)
        ctx.save_for_backward(activation)
        # Not saved, see `Boundary`: an update in place is no reason to refuse a second pass.
        ctx.head = head.detached()
        ctx.response = response
        ctx.units = inverse_scale, mix
        ctx.mode, ctx.record = mode, record
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (true,) = grads
        rest: tuple[None, ...] = (None,) * 7
        if ctx.record is not None:
            if ctx.record.is_inert:
                return true, None, None, None, None, *rest
            ctx.record.is_returned = True
        (activation,) = ctx.saved_tensors
        head, response = ctx.head, ctx.response
        inverse_scale, mix = ctx.units

        if ctx.mode == TRUE:
            mixed = true
        else:
            mixed = synthetic(head, response, inverse_scale).view_as(true)
            if ctx.mode == MIXED:
                mixed = mixed.lerp(true, mix.to(true.dtype))

        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[4]):
            return mixed, None, None, None, None, *rest
        features = head.weight.shape[1]
        positions = activation.detach().reshape(-1, features)
        lesson = learn(
            head, response, positions, true.detach().reshape(-1, features), inverse_scale
        )
        if not ctx.needs_input_grad[1]:
            return mixed, None, None, None, lesson.sums, *rest
        return mixed, *lesson, *rest


def cross_closed(
    activation: Tensor,
    head: Head,
    meter: Tensor,
    *,
    target: Tensor,
    inverse_scale: Tensor,
    mix: Tensor,
    mode: int,
    record: Pass | None = None,
) -> Tensor:
    """Pass an activation through a `ClosedBoundary`.

    Args:
        activation: Output of the site. Shape ``[*, D]``.
        head: The critic's head; with constants it does not learn.
        meter: Leaf whose gradient will carry the statistics. Shape ``[5]``.
        target: Target of the criterion at every position. Shape ``[N, C]``.
        inverse_scale: 1 / ρ, or 0 while ρ is unknown. Shape ``[]``.
        mix: λ. Shape ``[]``.
        mode: See `dni.boundary.propagate`.
        record: The forward pass this boundary belongs to.

    Returns:
        A copy of the activation. Shape ``[*, D]``.
    """
    weight, bias, gain = head.parameters()
    out: Tensor = ClosedBoundary.apply(  # type: ignore[no-untyped-call]
        activation,
        weight,
        bias,
        gain,
        meter,
        target,
        inverse_scale,
        mix,
        mode,
        head.criterion,
        head.sobolev,
        record,
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
    if synthesizer._forward_hooks or synthesizer._forward_pre_hooks:
        return None
    if first._forward_hooks or first._forward_pre_hooks:
        return None
    if first.weight.dtype not in (torch.float32, torch.float64):
        return None
    return Head(
        first.weight, first.bias, synthesizer.gain, synthesizer.criterion, synthesizer.sobolev
    )
