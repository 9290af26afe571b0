"""Small image classifiers that a config can name: the networks of the paper."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from ..errors import ConfigError
from .registry import NETWORKS


@NETWORKS.register("fcn")
def fcn(
    image: Sequence[int] = (1, 28, 28), hidden: Sequence[int] = (256, 256), classes: int = 10
) -> nn.Sequential:
    """A fully connected classifier: hidden layers of Linear, BatchNorm and ReLU, then a Linear.

    Args:
        image: Shape of an image, ``[C, H, W]``; of any data, the shape of a sample.
        hidden: Units of each hidden layer.
        classes: Size of the output.

    Returns:
        ``[B, *image]`` to ``[B, classes]``, with children ``flatten``, ``hidden1``, …, ``output``.

    Raises:
        ConfigError: A size is not a positive integer.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 3.1.

    Example:
        >>> import torch
        >>> fcn([1, 8, 8], [32])(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    _check_sizes("fcn", image=image, hidden=hidden, classes=[classes])
    blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(image)
    for number, units in enumerate(hidden, 1):
        blocks[f"hidden{number}"] = nn.Sequential(
            nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU()
        )
        width = units
    blocks["output"] = nn.Linear(width, classes)
    return nn.Sequential(blocks)


@NETWORKS.register("conv")
def conv(
    image: Sequence[int] = (1, 28, 28), filters: Sequence[int] = (64, 64), classes: int = 10
) -> nn.Sequential:
    """A convolutional classifier: 5x5 convolutions with BatchNorm, ReLU and pooling, then a Linear.

    The first layer ends in max-pooling, the later ones in average-pooling, 3x3 at every second
    pixel; the convolutions keep the resolution.

    Args:
        image: Shape of an image, ``[C, H, W]``.
        filters: Channels of each convolution layer.
        classes: Size of the output.

    Returns:
        ``[B, *image]`` to ``[B, classes]``, with children ``hidden1``, …, ``flatten``, ``output``.

    Raises:
        ConfigError: A size is not a positive integer, or `image` has not three.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 3.1.

    Example:
        >>> import torch
        >>> conv([1, 8, 8], [4, 4])(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    _check_sizes("conv", image=image, filters=filters, classes=[classes])
    if len(image) != 3:
        raise ConfigError(f"`image` is {list(image)} in `conv`; [channels, rows, columns] needed.")
    channels, height, width = image
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number, count in enumerate(filters, 1):
        pool = nn.MaxPool2d if number == 1 else nn.AvgPool2d
        blocks[f"hidden{number}"] = nn.Sequential(
            nn.Conv2d(channels, count, kernel_size=5, padding=2),
            nn.BatchNorm2d(count),
            nn.ReLU(),
            pool(kernel_size=3, stride=2, padding=1),
        )
        channels = count
        height, width = (height + 1) // 2, (width + 1) // 2
    blocks["flatten"] = nn.Flatten()
    blocks["output"] = nn.Linear(channels * height * width, classes)
    return nn.Sequential(blocks)


def _check_sizes(network: str, **sizes: Sequence[int]) -> None:
    for name, given in sizes.items():
        is_list = isinstance(given, Sequence) and not isinstance(given, str)
        if not is_list or not all(isinstance(size, int) and size > 0 for size in given):
            raise ConfigError(
                f"`{name}` is {given!r} in `{network}`; positive integers are needed."
            )
