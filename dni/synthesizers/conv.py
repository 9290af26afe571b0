"""The synthesizer for feature maps: convolutions that keep the resolution."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .base import DNINetwork, at_least, start_at_zero

Pool = Literal["none", "max", "avg"]


class Conv2dDNI(DNINetwork):
    """``[Conv2d -> BatchNorm2d -> pool -> ReLU] * num_layers -> Conv2d -> pool``, same resolution.

    Every convolution and pool has stride 1 and keeps height and width, so the output has exactly
    the shape of the activation. Without pools, the default, it is the synthesizer of the paper;
    pools blur a gradient that differs from pixel to pixel. The last convolution starts at zero.

    Args:
        input_size: Number of input channels.
        hidden_size: Number of channels of each hidden layer.
        output_size: Number of channels of the gradient.
        num_layers: Number of hidden layers, 0 or more.
        kernel_size: Side of the square kernels, odd.
        pool: ``"none"``, ``"max"`` or ``"avg"``; with either of the last two the final
            convolution is followed by an average pool.
        bias: Whether the convolutions have a bias.

    Shapes:
        ``input`` ``[B, input_size, H, W]`` -> gradient ``[B, output_size, H, W]``.

    Raises:
        ConfigError: An even ``kernel_size`` or an unknown ``pool``.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 3.1 (two hidden layers, 5×5, BatchNorm).

    Example:
        >>> import torch
        >>> Conv2dDNI(3, 10, 3)(torch.randn(2, 3, 8, 8), None)[0].shape
        torch.Size([2, 3, 8, 8])
    """

    channels_first: ClassVar[bool] = True
    maps_only: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        kernel_size: int = 3,
        pool: Pool = "none",
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        at_least(0, num_layers=num_layers)
        at_least(1, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ConfigError(
                f"`kernel_size` is {kernel_size}; an odd number is needed so that the gradient "
                f"keeps the activation's shape. Use {kernel_size + 1}."
            )
        if pool not in ("none", "max", "avg"):
            raise ConfigError(f"`pool` is {pool!r}; valid: 'none', 'max', 'avg'.")

        def conv(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=bias)

        widths = [input_size] + [hidden_size] * num_layers
        layers: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            layers += [conv(width, next_width), MapNorm(next_width)]
            layers += same_size_pool(pool)
            layers += [nn.ReLU(inplace=True)]
        self.hidden_layers = nn.Sequential(*layers)
        self.final = conv(widths[-1], output_size)
        self.final_pool = nn.Sequential(*same_size_pool("none" if pool == "none" else "avg"))
        start_at_zero(self.final)

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        """Predict the gradient of a batch of feature maps."""
        gradient: Tensor = self.final_pool(self.final(self.hidden_layers(input)))
        return gradient, hidden


class MapNorm(nn.BatchNorm2d):
    """`BatchNorm2d` that uses its running averages where a channel has a single value.

    Args:
        num_features: Number of channels.

    Shapes:
        ``[B, num_features, H, W]`` -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each channel over the batch and the map."""
        if input.numel() > input.shape[1]:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def same_size_pool(pool: Pool) -> list[nn.Module]:
    """A 3×3 pool of stride 1 that keeps height and width, or nothing."""
    if pool == "max":
        return [nn.MaxPool2d(3, stride=1, padding=1)]
    if pool == "avg":
        return [nn.AvgPool2d(3, stride=1, padding=1)]
    return []
