"""Synthesizers that look at one position at a time: linear layers with ReLU between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import DNINetwork, at_least, start_at_zero


class LinearDNI(DNINetwork):
    """``[Linear -> ReLU] * num_layers -> Linear``; the last layer starts at zero.

    With ``num_layers=0`` it is one linear map, which assumes that the loss is a quadratic
    function of the activation.

    Args:
        input_size: Number of input features.
        hidden_size: Width of each hidden layer.
        output_size: Number of features of the gradient.
        num_layers: Number of hidden layers, 0 or more.
        bias: Whether the layers have a bias.

    Shapes:
        ``input`` ``[*, input_size]`` -> gradient ``[*, output_size]``, ``*`` any axes.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 3.1.

    Example:
        >>> gradient, hidden = LinearDNI(4, 10, 3)(torch.randn(2, 4), None)
        >>> gradient
        tensor([[0., 0., 0.],
                [0., 0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        at_least(0, num_layers=num_layers)
        widths = [input_size] + [hidden_size] * num_layers
        layers: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            layers += self.hidden_layer(width, next_width, bias)
        self.hidden_layers = nn.Sequential(*layers)
        self.final = nn.Linear(widths[-1], output_size, bias=bias)
        start_at_zero(self.final)

    def hidden_layer(self, width: int, next_width: int, bias: bool) -> list[nn.Module]:
        """The modules of one hidden layer."""
        return [nn.Linear(width, next_width, bias=bias), nn.ReLU(inplace=True)]

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        """Predict the gradient of each position from that position alone."""
        seen = self.hidden_layers(input) if len(self.hidden_layers) else input
        gradient: Tensor = self.final(seen)
        return gradient, hidden


class LinearSigmoidDNI(LinearDNI):
    r"""A `LinearDNI` :math:`z` behind a sigmoid: :math:`a \odot (2 \sigma(z) - 1)`.

    Bounded, like the gradient of a log loss. The sigmoid is shifted so that the first synthetic
    gradient is zero, and stretched by one learned amplitude :math:`a` per feature, because
    targets in units of their root mean square exceed one.

    Args:
        input_size: Number of input features.
        hidden_size: Width of each hidden layer.
        output_size: Number of features of the gradient.
        num_layers: Number of hidden layers, 0 or more.
        bias: Whether the layers have a bias.

    Shapes:
        ``input`` ``[*, input_size]`` -> gradient ``[*, output_size]``.

    Example:
        >>> LinearSigmoidDNI(4, 10, 3)(torch.randn(2, 4), None)[0].abs().max().item()
        0.0
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size, num_layers, bias)
        self.amplitude = nn.Parameter(torch.full((output_size,), 2.0))

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        """Predict a gradient whose entries lie between minus and plus the amplitude."""
        logits, hidden = super().forward(input, hidden)
        return self.amplitude * (2 * torch.sigmoid(logits) - 1), hidden


class LinearBatchNormDNI(LinearDNI):
    """``[Linear -> BatchNorm -> ReLU] * num_layers -> Linear``; the last layer starts at zero.

    The statistics of the batch normalization run over all positions. The paper's synthesizer
    for fully connected networks has two such layers of 1024.

    Args:
        input_size: Number of input features.
        hidden_size: Width of each hidden layer.
        output_size: Number of features of the gradient.
        num_layers: Number of hidden layers, 0 or more.
        bias: Whether the layers have a bias.

    Shapes:
        ``input`` ``[*, input_size]`` -> gradient ``[*, output_size]``.

    Example:
        >>> LinearBatchNormDNI(4, 10, 3)(torch.randn(5, 2, 4), None)[0].shape
        torch.Size([5, 2, 3])
    """

    def hidden_layer(self, width: int, next_width: int, bias: bool) -> list[nn.Module]:
        """The modules of one hidden layer."""
        return [
            nn.Linear(width, next_width, bias=bias),
            PositionNorm(next_width),
            nn.ReLU(inplace=True),
        ]


class PositionNorm(nn.BatchNorm1d):
    """Batch normalization over every axis but the last; one position alone uses running averages.

    Args:
        num_features: Size of the last axis.

    Shapes:
        ``[*, num_features]`` -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each feature over all positions."""
        rows = input.reshape(-1, input.shape[-1])
        if rows.shape[0] > 1:
            return super().forward(rows).view_as(input)
        # A single position has no variance; torch refuses it in training mode.
        normed = F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        return normed.view_as(input)
