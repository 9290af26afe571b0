"""What is sent back from beyond a window's end: a prediction, kept within bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def square_of(prediction: Tensor) -> float | None:
    """The sum of squares; ``None`` where that means to wait for a device."""
    if not prediction.is_cpu:
        return None
    flat = prediction.reshape(-1)
    return flat.dot(flat).item()


def longest_of(prediction: Tensor, limit: float | None) -> float:
    """The largest norm that a root mean square leaves to a prediction.

    Args:
        prediction: Shape ``[B, S]``.
        limit: Largest root mean square, ``None`` for none.

    Example:
        >>> longest_of(torch.zeros(2, 8), 3.0)
        12.0
    """
    # A power, for a number that a compiler knows by name alone has no square root.
    return math.inf if limit is None else limit * prediction.numel() ** 0.5


def bounded(prediction: Tensor, longest: float, square: float | None = None) -> Tensor:
    """A prediction without NaN and infinities, shortened to a largest Euclidean norm.

    Args:
        prediction: Shape ``[B, S]``.
        longest: Largest norm.
        square: Sum of squares of the prediction, if it is known.

    Example:
        >>> bounded(torch.tensor([3.0, 4.0]), 10.0), bounded(torch.tensor([3.0, 4.0]), 1.0)
        (tensor([3., 4.]), tensor([0.6000, 0.8000]))
        >>> bounded(torch.tensor([torch.nan, 4.0]), 1.0)
        tensor([0., 1.])
    """
    if square is not None and square <= longest * longest and math.isfinite(square):
        return prediction
    # A comparison, which NaN fails too: compiled code has vectors for it, and none for `isnan`.
    prediction = torch.where(prediction.abs() < math.inf, prediction, 0.0)
    if longest == math.inf:
        return prediction
    share: Tensor = longest / torch.linalg.vector_norm(prediction)
    return prediction * share.clamp(max=1.0)
