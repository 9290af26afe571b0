"""What a meter gathers from a backward pass: sums over the true and the synthetic gradient."""

from __future__ import annotations

from array import array
from typing import Any

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
    if square is None:
        true, product, square = numbers(g.dot(g), p.dot(g), p.dot(p))
    else:
        true, product = numbers(g.dot(g), p.dot(g))
    return packed_sums(true, square, product, g.numel())


def nothing_heard(like: Tensor) -> Tensor:
    """What a meter gets where no statistics are taken: it still tells of the backward pass.

    Args:
        like: A tensor on its device.
    """
    return torch.zeros(METER_ENTRIES, dtype=torch.float32, device=like.device)


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
        sums = torch.stack(
            [v if isinstance(v, Tensor) else torch.full_like(true, v) for v in values]
        )
        # `METER_UNIT`, written out: with `dynamic=True` a compiler makes a symbol of every number
        # that has a name, and torch 2.13 finds none of them in the backward of a Function.
        return sums.to(torch.float32).mul_(2.0**-40)
    # Through an array: `torch.tensor` takes as long for a list as a small product does.
    told = array("f", [value * METER_UNIT for value in values])
    return torch.frombuffer(told, dtype=torch.float32)


def numbers(*tensors: Tensor) -> list[Any]:
    """Tensors of shape ``[]`` as numbers, with which operations are faster than with tensors.

    They stay as they are where reading them means to wait for a device, or where no numbers are
    known yet because a compiler reads the code.

    Args:
        *tensors: One or more, on one device.
    """
    if tensors[0].is_cpu and not torch.compiler.is_compiling():
        return [tensor.item() for tensor in tensors]
    return list(tensors)


def number(tensor: Tensor) -> Any:
    """One of these."""
    return numbers(tensor)[0]
