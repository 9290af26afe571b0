"""The gradient that arrives at a window's start, and what it teaches; pure, no state of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .passes import Pass
from .states import Form
from .sums import meter_sums, number


class Arrival(NamedTuple):
    """How the gradient that arrives at a window's start is taken.

    Attributes:
        inverse_scale: 1 / ρ, or 0 while ρ is unknown. Shape ``[]``.
        form: How the state lies in rows.
        goes_on: The sequences whose state comes from the window before, ``None`` for all.
            Shape ``[B]``.
        record: The forward pass the window belongs to.
    """

    inverse_scale: Tensor
    form: Form
    goes_on: Tensor | None = None
    record: Pass | None = None


def returned(arrival: Arrival) -> bool:
    """Note a backward pass at a window's start; whether it counts, the wrapper being attached."""
    record = arrival.record
    if record is not None:
        if record.is_inert:
            return False
        record.is_returned = True
    return True


def arrived(arrival: Arrival, grads: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """What arrived at a window's start, in rows.

    Args:
        arrival: How the gradient is taken.
        grads: Of the tensors of the state, ``None`` where there is none.
        like: A tensor of the type and on the device of the gradient, if there is none at all.

    Returns:
        The gradient of the whole state. Shape ``[B, S]``.
    """
    whole = [grad for grad in grads if grad is not None]
    if len(whole) < len(grads):
        some = whole[0] if whole else like
        whole = [
            some.new_zeros(shape) if grad is None else grad
            for grad, shape in zip(grads, arrival.form.shapes, strict=True)
        ]
    rows = arrival.form.join(whole)
    return rows.detach() if rows.requires_grad else rows


def learn(
    true: Tensor,
    prediction: Tensor,
    arrival: Arrival,
    square: float | None = None,
    *,
    overwrites: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradients of the regression and of the meter, over the sequences that went on.

    Args:
        true: Gradient of the state. Shape ``[B, S]``.
        prediction: Prediction in units of the scale. Shape ``[B, S]``.
        arrival: The scale, and which sequences went on.
        square: Sum of squares of the prediction, if it is known.
        overwrites: Whether the result takes the memory of ``true``: new memory is slow.

    Returns:
        Of the prediction ``[B, S]``, of the meter ``[5]``.
    """
    share: Tensor | None = None
    if arrival.goes_on is not None:
        chosen = arrival.goes_on.to(true.dtype)
        share = chosen.mean()
        true, prediction = true * chosen[:, None], prediction * chosen[:, None]
        square = None
    sums = meter_sums(prediction, true, square)
    weight = 2.0 / true.shape[0]
    unit = number(arrival.inverse_scale) * -weight
    gradient = true.mul_(unit) if overwrites else true * unit
    gradient.add_(prediction, alpha=weight)
    if share is not None:
        sums[3:] *= share
        gradient /= share.clamp(min=1 / true.shape[0])
    return gradient, sums
