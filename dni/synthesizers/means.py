"""Means over parts of an activation: what a gradient becomes that passes through them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def unmoved(gradient: Tensor, activation: Tensor) -> Tensor:
    r"""Take out of a gradient what a normalisation over the batch does not let through.

    With :math:`h'` the activation less the mean of each feature over all positions, the result
    is :math:`s' - \frac{\langle s', h' \rangle}{\langle h', h' \rangle} h'`, where :math:`s'` is
    the gradient less its means: orthogonal to shifts of a feature and to a scaling of all.

    Args:
        gradient: Shape ``[N, D]`` or ``[B, C, H, W]``.
        activation: Of the same shape.

    Returns:
        The gradient without these parts, in its shape.

    Example:
        >>> unmoved(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, 3.0]]))
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    positions = [axis for axis in range(gradient.dim()) if axis != 1]
    # Sums over a batch, of gradients that are small: half precision has neither end.
    wide = torch.promote_types(gradient.dtype, torch.float32)
    moves = activation.to(wide)
    moves = moves - moves.mean(positions, keepdim=True)
    rest = gradient.to(wide)
    rest = rest - rest.mean(positions, keepdim=True)
    square = moves.square().sum().clamp_min(torch.finfo(wide).tiny)
    return (rest - (rest * moves).sum() / square * moves).to(gradient.dtype)


def averages(size: int, cells: int, *, like: Tensor) -> Tensor:
    """Weight of every pixel in the mean over every cell, along one axis of a map.

    Args:
        size: Number of pixels.
        cells: Number of cells of the adaptive average pooling.
        like: A tensor on the device and of the type wanted.

    Returns:
        Shape ``[size, cells]``; the map's gradient is this times the gradient of the means.

    Example:
        >>> averages(4, 2, like=torch.empty(()))
        tensor([[0.5000, 0.0000],
                [0.5000, 0.0000],
                [0.0000, 0.5000],
                [0.0000, 0.5000]])
    """
    pixels = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.adaptive_avg_pool1d(pixels.unsqueeze(0), cells)[0]
