"""What a meter gathers from a backward pass: sums over the true and the synthetic gradient."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

METER_UNIT = 2.0**-40
"""Unit of the statistics in a meter's gradient: so small that they weigh nothing in a user's
``clip_grad_norm_(net.parameters())``; a power of two, so that no digit is lost."""

METER_ENTRIES = 5
"""Sums of squares of the true and the synthetic gradient, of their product, entries, calls."""


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
