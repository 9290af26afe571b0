"""A synthesizer for networks that make images: the gradient of a learned loss on a small image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNINetwork
from dni.errors import ConfigError

from .figures import PALETTE


class ImageCritic(DNINetwork):
    r"""What a decoder's feature map would learn if it had to be an image itself.

    A 3×3 convolution :math:`A` turns the map :math:`h` into an image, which is compared with the
    target, averaged to the size of the map. The synthetic gradient is what goes back through it,

    .. math:: s = m \odot A^T \hat r, \qquad r = \left( \alpha \, \hat d
              + (1 - \alpha) \, \widehat{\tanh 10 d} \right) p (1 - p), \qquad d = p - y,

    with :math:`p = \mathrm{sigmoid}(A (m \odot h) + b)`, the pull of squared and of absolute
    differences mixed by a learned :math:`\alpha`; a hat means in units of the root mean square.
    :math:`m` and :math:`b` are linear in the palette, as the network's own are in the latent.
    All but the gain begins at zero. As the package's critic for classifiers, it is not made to
    paint well: it learns to have the true gradient.

    Args:
        input_size: Channels of the map.
        hidden_size: Not used.
        output_size: The same as ``input_size``.
        context_size: Numbers in the context: the palette, then the target image, flattened.

    Shapes:
        ``input`` ``[B, C, H, W]``, ``context`` ``[B, PALETTE + 3 S S]`` -> ``[B, C, H, W]``, where
        ``S`` is the size of the target.

    Raises:
        ConfigError: No context, or one that is not a palette and a square image.
    """

    channels_first: ClassVar[bool] = True
    maps_only: ClassVar[bool] = True

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, context_size: int | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        side = round((max((context_size or 0) - PALETTE, 0) / 3) ** 0.5)
        if not side or context_size != PALETTE + 3 * side * side:
            raise ConfigError(
                f"`context_size` is {context_size}; {PALETTE} numbers of the palette and the "
                "3 · S · S of the target image are needed."
            )
        self.side = side
        self.paint = nn.Conv2d(input_size, 3, 3, padding=1, bias=False)
        self.dress = nn.Linear(PALETTE, input_size + 3)
        for layer in (self.paint, self.dress):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.gain = nn.Parameter(torch.zeros(()))
        self.mix = nn.Parameter(torch.zeros(()))

    def forward(  # type: ignore[override]
        self, input: Tensor, hidden: object, context: Tensor
    ) -> tuple[Tensor, object]:
        """The synthetic gradient, in units of the scale of the true one."""
        palette, target = context[:, :PALETTE], context[:, PALETTE:]
        height, width = input.shape[-2:]
        target = F.adaptive_avg_pool2d(target.view(-1, 3, self.side, self.side), (height, width))
        gain, shift = self.dress(palette - 0.5)[:, :, None, None].split([self.input_size, 3], 1)
        image = (self.paint(input * (1 + gain)) + shift).sigmoid()
        apart, share = image - target, self.mix.sigmoid()
        pull = share * _unit(apart) + (1 - share) * _unit((10 * apart).tanh())
        residual = _unit(pull * image * (1 - image)) * self.gain.exp()
        back = F.conv_transpose2d(residual, self.paint.weight, padding=1)
        return (1 + gain) * back, hidden


def _unit(values: Tensor) -> Tensor:
    """In units of their root mean square, which counts as a constant."""
    return values / (values.detach().square().mean().sqrt() + 1e-8)
