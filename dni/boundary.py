"""The autograd Function where a synthetic gradient meets autograd; pure, no state of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .passes import Pass
from .sums import meter_sums, nothing_heard

SYNTHETIC, TRUE, MIXED = 0, 1, 2
"""What a boundary propagates: λ is exactly 0, exactly 1, or between them."""


class Boundary(torch.autograd.Function):
    r"""Identity on an activation whose backward mixes gradients and trains a synthesizer.

    With the true gradient :math:`g`, the prediction :math:`p` of the synthesizer, the scale
    :math:`\rho` and :math:`s = \rho p`, the backward pass gives

    * to the activation: the mixed gradient :math:`\lambda g + (1 - \lambda) s`;
    * to the prediction: :math:`\partial L / \partial p` of the regression loss
      :math:`L = \frac{1}{N} \sum_n \lVert p_n - g_n / \rho \rVert^2`, where :math:`n` runs over
      the :math:`N` positions (samples, time steps, pixels) and the norm over the features;
    * to the meter: :math:`[\sum g^2, \sum p^2, \sum p g, \text{count}, 1]` (see `dni.sums`).

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 2 (the regression of the synthetic
        gradient) and appendix A (mixing by λ). The scale and the meter are ours.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        activation: Tensor,
        prediction: Tensor,
        meter: Tensor,
        scale: Tensor,
        inverse_scale: Tensor,
        mix: Tensor,
        mode: int,
        features: int,
        hears: bool,
        record: Pass | None,
    ) -> Tensor:
        ctx.save_for_backward(prediction)
        # Not saved: an update changes them in place, which is no reason to refuse a second
        # backward pass through the same graph.
        ctx.units = scale, inverse_scale, mix
        ctx.mode, ctx.features, ctx.hears, ctx.record = mode, features, hears, record
        # A view, or the tensor itself, would be refused or dropped by an in-place consumer.
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (true,) = grads
        rest: tuple[None, ...] = (None,) * 7
        if ctx.record is not None:
            if ctx.record.is_inert:
                return true, None, None, *rest
            ctx.record.is_returned = True
        (prediction,) = ctx.saved_tensors
        scale, inverse_scale, mix = ctx.units
        wide = torch.promote_types(true.dtype, torch.float32)
        # Detached: a penalty on gradients is not to train a synthesizer by what it propagated.
        target, prediction = true.to(wide), prediction.detach().to(wide)

        # In place on what was just allocated: at a site's size, memory costs more than arithmetic.
        if ctx.mode == TRUE:
            mixed = true
        else:
            mixed = prediction * scale
            if ctx.mode == MIXED:
                mixed = mixed.lerp_(target, mix.to(wide))
            mixed = mixed.to(true.dtype)

        for_prediction = None
        if ctx.needs_input_grad[1]:
            for_prediction = regression_gradient(prediction, target, inverse_scale, ctx.features)
        for_meter = None
        if ctx.needs_input_grad[2]:
            for_meter = meter_sums(prediction, target) if ctx.hears else nothing_heard(target)
        return mixed, for_prediction, for_meter, *rest


def regression_gradient(
    prediction: Tensor, target: Tensor, inverse_scale: Tensor, features: int
) -> Tensor:
    r"""Gradient of the regression loss with respect to the prediction.

    The loss is :math:`\frac{1}{N} \sum_n \lVert p_n - g_n / \rho \rVert^2`.

    Args:
        prediction: Synthetic gradient :math:`p` in units of the scale. Shape ``[*]``.
        target: True gradient :math:`g`. Shape ``[*]``.
        inverse_scale: :math:`1 / \rho`, or 0 while ρ is unknown. Shape ``[]``.
        features: Number of features of a position; :math:`N` is the number of positions.

    Returns:
        :math:`\frac{2}{N} (p - g / \rho)`. Shape ``[*]``.
    """
    weight = 2.0 * features / target.numel()
    return (target * (inverse_scale.to(target.dtype) * -weight)).add_(prediction, alpha=weight)


def propagate(
    activation: Tensor,
    prediction: Tensor,
    meter: Tensor,
    *,
    scale: Tensor,
    inverse_scale: Tensor,
    mix: Tensor,
    mode: int,
    features: int,
    hears: bool = True,
    record: Pass | None = None,
) -> Tensor:
    """Pass an activation through a boundary (see `Boundary` for what comes back).

    Shapes: ``*`` is the shape of the activation, any number of axes.

    Args:
        activation: Output of the site. Shape ``[*]``.
        prediction: Synthetic gradient in units of the scale. Shape ``[*]``.
        meter: Leaf whose gradient will carry the statistics, or a constant. Shape ``[5]``.
        scale: ρ, the unit of the prediction, in gradient units. Shape ``[]``.
        inverse_scale: 1 / ρ, or 0 while ρ is unknown. Shape ``[]``.
        mix: λ, read in mode `MIXED`. Shape ``[]``.
        mode: `SYNTHETIC`, `TRUE` or `MIXED`.
        features: Number of features of a position; the loss is their sum of squares.
        hears: Whether statistics are taken; without them and at λ = 0 nothing asks for the
            true gradient, and a compiler leaves out what would compute it.
        record: The forward pass this boundary belongs to.

    Returns:
        A copy of the activation. Shape ``[*]``.

    Example:
        >>> h = torch.ones(2, 3, requires_grad=True)
        >>> one, meter = torch.ones(()), torch.zeros(5, requires_grad=True)
        >>> out = propagate(h, torch.full((2, 3), 5.0), meter, scale=one, inverse_scale=one,
        ...                 mix=one / 2, mode=MIXED, features=3)
        >>> out.sum().backward()
        >>> h.grad
        tensor([[3., 3., 3.],
                [3., 3., 3.]])
    """
    out: Tensor = Boundary.apply(  # type: ignore[no-untyped-call]
        activation, prediction, meter, scale, inverse_scale, mix, mode, features, hears, record
    )
    return out
