"""The networks: a small VUNet, and one whose features the perceptual loss compares."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni.errors import ConfigError

from .figures import PALETTE


def block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and ReLU: ``[B, inputs, H, W]`` -> ``[B, outputs, H/s, W/s]``."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class VUNet(nn.Module):
    """A U-Net that dresses a skeleton, conditioned on a latent drawn from an appearance.

    The appearance goes down a chain of blocks to a Gaussian; the skeleton goes down another, whose
    outputs are handed across to the decoder, which begins with a sample of the Gaussian.

    Args:
        filters: Channels at full, half and quarter resolution.
        latent: Dimensions of the Gaussian.

    Raises:
        ConfigError: `filters` are not three positive numbers, or `latent` is not one.

    Source:
        Esser, Sutter and Ommer 2018, *A Variational U-Net for Conditional Appearance and Shape
        Generation*, arXiv:1804.04694. There the latent is a map and its prior learned from the
        pose; here it is a vector and its prior the normal distribution.

    Example:
        >>> pose = appearance = torch.zeros(2, 3, 32, 32)
        >>> image, mean, log_variance = VUNet()(pose, appearance)
        >>> image.shape, mean.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 24]))
    """

    def __init__(self, filters: Sequence[int] = (16, 32, 64), latent: int = 24) -> None:
        super().__init__()
        if len(filters) != 3 or min(filters) < 1 or latent < 1:
            raise ConfigError(
                f"`filters` is {list(filters)} and `latent` {latent}; three positive numbers and "
                "one are needed."
            )
        full, half, quarter = filters
        self.appearance = _chain(
            block(3, full, stride=2), block(full, half, stride=2), block(half, quarter, stride=2)
        )
        gaussian = nn.Linear(16 * quarter, 2 * latent)
        with torch.no_grad():  # begin with little noise, or it drowns what the mean has to say
            gaussian.bias[latent:] -= 4
        self.latent = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), gaussian)
        self.pose = _chain(
            block(3, full), block(full, half, stride=2), block(half, quarter, stride=2)
        )
        self.decoder = _chain(
            block(quarter, quarter), block(quarter + half, half), block(half + full, full)
        )
        self.dress = _chain(*(nn.Linear(latent, 2 * width) for width in (quarter, half, full)))
        self.output = nn.Conv2d(full, 3, 3, padding=1)

    def forward(self, pose: Tensor, appearance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dress the skeleton. In training the latent is sampled; in evaluation it is the mean.

        Args:
            pose: Skeletons. Shape ``[B, 3, H, W]``; H and W multiples of 8.
            appearance: Persons in whatever pose. Shape ``[B, 3, H, W]``.

        Returns:
            Images ``[B, 3, H, W]`` from 0 to 1; the latent's mean and log variance,
            ``[B, latent]``.
        """
        mean, log_variance = self.encode(appearance)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decode(pose, mean + (log_variance / 2).exp() * noise), mean, log_variance

    def encode(self, appearance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent. ``[B, 3, H, W]`` -> twice ``[B, latent]``."""
        mean, log_variance = self.latent(self.appearance(appearance)).chunk(2, dim=1)
        return mean, log_variance.clamp(-8, 8)

    def decode(self, pose: Tensor, latent: Tensor) -> Tensor:
        """Dress skeletons ``[B, 3, H, W]`` in latents ``[B, latent]``: images ``[B, 3, H, W]``."""
        skips = []
        hidden = pose
        for layer in self.pose.children():
            hidden = layer(hidden)
            skips.append(hidden)
        stages = zip(self.decoder.children(), self.dress.children(), reversed(skips), strict=True)
        for number, (layer, dress, skip) in enumerate(stages):
            if number:
                skip = torch.cat((F.interpolate(hidden, scale_factor=2.0), skip), 1)
            gain, shift = dress(latent)[:, :, None, None].chunk(2, dim=1)
            hidden = layer(skip) * (1 + gain) + shift
        image: Tensor = self.output(hidden).sigmoid()
        return image


def features(filters: Sequence[int] = (16, 32, 48)) -> nn.Sequential:
    """A network that reads the palette off an image; the perceptual loss compares its layers.

    Args:
        filters: Channels of its blocks, each of half the resolution of the one before.

    Returns:
        ``[B, 3, H, W]`` -> ``[B, PALETTE]``, with children ``block1``, …, ``pool``, ``output``.
    """
    widths = [3, *filters]
    blocks = (block(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False))
    network = _chain(*blocks)
    network.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()))
    network.add_module("output", nn.Linear(4 * widths[-1], PALETTE))
    return network


def _chain(*blocks: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"block{i}", b) for i, b in enumerate(blocks, 1)))
