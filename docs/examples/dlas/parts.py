"""What the config names by import path: two networks and an injector."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Upscale(nn.Module):
    """Images of twice the height and width.

    Args:
        width: Channels inside.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, image: Tensor) -> Tensor:
        """From ``[B, 1, H, W]`` to ``[B, 1, 2 H, 2 W]``; what is learned is added."""
        return functional.interpolate(image, scale_factor=2.0, mode="nearest") + self.body(image)


class Judge(nn.Sequential):
    """Tells real images from upscaled ones.

    Args:
        width: Channels inside.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(width * 16, 1),
        )


def shrink(image: Tensor) -> Tensor:
    """Images of half the height and width."""
    return functional.avg_pool2d(image, 2)
