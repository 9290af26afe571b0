"""The two networks of a small DCGAN, each a chain of blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


class Range(nn.Module):
    """A sigmoid stretched to the values of an image.

    Args:
        low: Value of black.
        high: Value of white.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, values between ``low`` and ``high``."""
        return self.low + (self.high - self.low) * input.sigmoid()


def generator(
    image: Sequence[int] = (1, 8, 8),
    latent: int = 32,
    channels: Sequence[int] = (64, 32),
    range: Sequence[float] = (-1.0, 1.0),
) -> nn.Sequential:
    """Noise to images: each block but the first doubles height and width.

    Args:
        image: Shape of an image, ``[C, H, W]``; ``H`` and ``W`` are multiples of
            ``2 ** len(channels)``.
        latent: Numbers of noise for an image.
        channels: Channels of each block's maps.
        range: Values of black and white.

    Returns:
        ``[B, latent]`` to ``[B, C, H, W]``, with children ``block1``, …, ``output``.

    Raises:
        ValueError: The image cannot be halved as often as there are blocks.

    Source:
        DCGAN, Radford et al. 2016, arXiv:1511.06434.

    Example:
        >>> import torch
        >>> generator([1, 8, 8], 16)(torch.zeros(2, 16)).shape
        torch.Size([2, 1, 8, 8])
    """
    height, width = _smallest(image, channels)
    first = channels[0]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    blocks["block1"] = nn.Sequential(
        nn.Linear(latent, first * height * width, bias=False),
        nn.BatchNorm1d(first * height * width),
        nn.ReLU(),
    )
    blocks["maps"] = nn.Unflatten(1, (first, height, width))
    for number, (before, after) in enumerate(zip(channels, channels[1:], strict=False), 2):
        blocks[f"block{number}"] = nn.Sequential(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )
    blocks["output"] = nn.Sequential(
        nn.ConvTranspose2d(channels[-1], image[0], 4, stride=2, padding=1), Range(*range)
    )
    return nn.Sequential(blocks)


def discriminator(
    image: Sequence[int] = (1, 8, 8), channels: Sequence[int] = (32, 64)
) -> nn.Sequential:
    """Images to one score, high for real: each block halves height and width.

    There is no normalisation: real and generated images are judged in one batch.

    Args:
        image: Shape of an image, ``[C, H, W]``.
        channels: Channels of each block.

    Returns:
        ``[B, C, H, W]`` to ``[B, 1]``, with children ``block1``, …, ``output``.

    Raises:
        ValueError: The image cannot be halved as often as there are blocks.

    Example:
        >>> import torch
        >>> discriminator([1, 8, 8])(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 1])
    """
    height, width = _smallest(image, channels)
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    before = image[0]
    for number, after in enumerate(channels, 1):
        blocks[f"block{number}"] = nn.Sequential(
            nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)
        )
        before = after
    blocks["output"] = nn.Sequential(nn.Flatten(), nn.Linear(before * height * width, 1))
    return nn.Sequential(blocks)


def _smallest(image: Sequence[int], channels: Sequence[int]) -> tuple[int, int]:
    """Height and width after as many halvings as there are blocks."""
    factor = 2 ** len(channels)
    if len(image) != 3 or not channels or any(size % factor for size in image[1:]):
        raise ValueError(
            f"`image` is {list(image)} with {len(channels)} `channels`; [C, H, W] is needed, "
            f"height and width multiples of {factor}"
        )
    return image[1] // factor, image[2] // factor
