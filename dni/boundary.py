"""The autograd Function where a synthetic gradient meets autograd; pure, no state of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

SYNTHETIC, TRUE, MIXED = 0, 1, 2
"""What a boundary propagates: λ is exactly 0, exactly 1, or between them."""

METER_UNIT = 2.0**-40
"""Unit of the statistics in a meter's gradient: so small that they weigh nothing in a user's
``clip_grad_norm_(net.parameters())``; a power of two, so that no digit is lost."""


METER_ENTRIES = 5
"""Sums of squares of the true and the synthetic gradient, of their product, entries, calls."""


class Pass:
    """One training pass forward of a wrapped network, known to every boundary it made.

    Attributes:
        number: Passes are numbered in the order in which they begin.
        context: Features of the context it ran with; a checkpoint runs parts of it again.
        is_returned: A backward pass has gone through it, or none ever will.
        is_counted: The end of that backward pass has been noted.
        is_inert: The wrapper was detached since; its boundaries are then plain identities.
        is_blind: No synthesizer learns from it (see `dni.blind`).
    """

    __slots__ = (
        "__weakref__",
        "context",
        "is_blind",
        "is_counted",
        "is_inert",
        "is_returned",
        "number",
    )
    _numbers = itertools.count()

    def __init__(self, context: Tensor | None = None) -> None:
        self.context = context
        self.number = next(self._numbers)
        self.is_returned = False
        self.is_counted = False
        self.is_inert = False
        self.is_blind = False


class Boundary(torch.autograd.Function):
    r"""Identity on an activation whose backward mixes gradients and trains a synthesizer.

    With the true gradient :math:`g`, the prediction :math:`p` of the synthesizer, the scale
    :math:`\rho` and :math:`s = \rho p`, the backward pass gives

    * to the activation: the mixed gradient :math:`\lambda g + (1 - \lambda) s`;
    * to the prediction: :math:`\partial L / \partial p` of the regression loss
      :math:`L = \frac{1}{N} \sum_n \lVert p_n - g_n / \rho \rVert^2`, where :math:`n` runs over
      the :math:`N` positions (samples, time steps, pixels) and the norm over the features;
    * to the meter: :math:`[\sum g^2, \sum p^2, \sum p g, \text{count}, 1]` in `METER_UNIT`.

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
        record: Pass | None,
    ) -> Tensor:
        ctx.save_for_backward(prediction)
        # Not saved: an update changes them in place, which is no reason to refuse a second
        # backward pass through the same graph.
        ctx.units = scale, inverse_scale, mix
        ctx.mode, ctx.features, ctx.record = mode, features, record
        # A view, or the tensor itself, would be refused or dropped by an in-place consumer.
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (true,) = grads
        rest: tuple[None, ...] = (None,) * 6
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
            for_meter = meter_sums(prediction, target)
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


def meter_sums(prediction: Tensor, target: Tensor, square: float | None = None) -> Tensor:
    """What a meter gathers from one backward pass, in `METER_UNIT`.

    Args:
        prediction: Synthetic gradient in units of the scale. Shape ``[*]``.
        target: True gradient. Shape ``[*]``.
        square: Sum of squares of the prediction, if it is known.

    Returns:
        Sums of squares of the true gradient, of the prediction, of their product, the number of
        entries, and 1. Shape ``[5]``, single precision.
    """
    g, p = target.reshape(-1), prediction.reshape(-1)
    predicted = number(p.dot(p)) if square is None else square
    return packed_sums(number(g.dot(g)), predicted, number(p.dot(g)), g.numel())


def packed_sums(true: Any, predicted: Any, product: Any, entries: int) -> Tensor:
    """The entries of a meter's gradient.

    Args:
        true: Sum of squares of the true gradient: a number, or a tensor of shape ``[]``, like the
            next two.
        predicted: Sum of squares of the prediction.
        product: Sum of their product.
        entries: Number of entries of each.

    Returns:
        See `meter_sums`.
    """
    values = [true, predicted, product, entries, 1]
    if isinstance(true, Tensor):
        sums = torch.stack([torch.as_tensor(value).to(true) for value in values])
        return sums.to(torch.float32).mul_(METER_UNIT)
    # Through numpy: `torch.tensor` takes as long for a list as a small product does.
    with numpy.errstate(over="ignore"):  # such a pass is left out, see `dni.meters`
        told = numpy.array([value * METER_UNIT for value in values], numpy.float32)
    return torch.from_numpy(told)


def number(tensor: Tensor) -> Any:
    """A tensor of shape ``[]`` as a number, with which operations are faster than with a tensor.

    It stays as it is where reading it means to wait for a device, or where no numbers are known
    yet because a compiler reads the code.
    """
    return tensor.item() if tensor.is_cpu and not torch.compiler.is_compiling() else tensor


class Cut(torch.autograd.Function):
    """Hands an activation on without its graph; the gradient from above goes to `receive`.

    The marker lives exactly as long as something can still send a gradient.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        anchor: Tensor,
        activation: Tensor,
        receive: Callable[[Tensor], None],
        marker: object,
    ) -> Tensor:
        ctx.receive, ctx.marker = receive, marker
        return activation.clone()  # an in-place consumer must not reach what the synthesizer saw

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:  # noqa: D102
        ctx.receive(grads[0])
        return None, None, None, None


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
        activation, prediction, meter, scale, inverse_scale, mix, mode, features, record
    )
    return out
