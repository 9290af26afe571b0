"""Train a convolutional network on images, by backprop or by synthetic gradients."""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict

from torch import nn

import arguments
import script
from data import CLASSES, ImageDataset
from dni.scripts import positive

DNI_NETWORK = "conv2d"


def convolutional(height: int, width: int, *, layers: int = 2, filters: int = 64) -> nn.Sequential:
    """The paper's network: 5x5 convolutions with BatchNorm, ReLU and pooling, then a Linear.

    The first layer ends in max-pooling, the later ones in average-pooling, 3x3 at every second
    pixel; the convolutions keep the resolution.

    Args:
        height: Rows of an image.
        width: Columns of an image.
        layers: Convolution layers; the output layer is not counted.
        filters: Channels of a convolution layer.

    Returns:
        ``[B, 1, H, W]`` to ``[B, 10]``, with children ``hidden1``, ..., ``flatten``, ``output``.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 3.1.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 1
    for number in range(1, layers + 1):
        pool = nn.MaxPool2d if number == 1 else nn.AvgPool2d
        blocks[f"hidden{number}"] = nn.Sequential(
            nn.Conv2d(channels, filters, kernel_size=5, padding=2),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            pool(kernel_size=3, stride=2, padding=1),
        )
        channels = filters
        height, width = (height + 1) // 2, (width + 1) // 2
    blocks["flatten"] = nn.Flatten()
    blocks["output"] = nn.Linear(filters * height * width, CLASSES)
    return nn.Sequential(blocks)


def build(options: argparse.Namespace, dataset: ImageDataset) -> nn.Sequential:
    """The network that the flags describe."""
    height, width = dataset.images.shape[2:]
    return convolutional(height, width, layers=options.layers, filters=options.filters)


def main(words: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    parser = arguments.make_parser("conv.py", __doc__ or "", dni_network=DNI_NETWORK)
    group = parser.add_argument_group("network")
    group.add_argument(
        "--layers",
        type=int,
        choices=[2, 3],
        default=2,
        help="convolution layers, the output layer not counted (default: 2)",
    )
    group.add_argument(
        "--filters",
        type=positive,
        default=64,
        metavar="N",
        help="channels of a convolution layer (default: 64)",
    )
    return script.main(parser, build, words, dni_network=DNI_NETWORK)


if __name__ == "__main__":
    sys.exit(main())
