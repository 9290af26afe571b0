"""Train a fully connected network on images, by backprop or by synthetic gradients."""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict

from torch import nn

import arguments
import script
from data import CLASSES, ImageDataset
from dni.scripts import positive

DNI_NETWORK = "linear"


def fully_connected(pixels: int, *, layers: int = 3, units: int = 256) -> nn.Sequential:
    """The paper's network: hidden layers of Linear, BatchNorm and ReLU, then a Linear.

    Args:
        pixels: Pixels of an image.
        layers: Hidden layers; the output layer is not counted.
        units: Units of a hidden layer.

    Returns:
        ``[B, 1, H, W]`` to ``[B, 10]``, with children ``flatten``, ``hidden1``, ..., ``output``.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 3.1.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = pixels
    for number in range(1, layers + 1):
        blocks[f"hidden{number}"] = nn.Sequential(
            nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU()
        )
        width = units
    blocks["output"] = nn.Linear(width, CLASSES)
    return nn.Sequential(blocks)


def build(options: argparse.Namespace, dataset: ImageDataset) -> nn.Sequential:
    """The network that the flags describe."""
    pixels = dataset.images[0].numel()
    return fully_connected(pixels, layers=options.layers, units=options.units)


def main(words: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    parser = arguments.make_parser("fcn.py", __doc__ or "", dni_network=DNI_NETWORK)
    group = parser.add_argument_group("network")
    group.add_argument(
        "--layers",
        type=positive,
        default=3,
        metavar="N",
        help="hidden layers, the output layer not counted (default: 3)",
    )
    group.add_argument(
        "--units",
        type=positive,
        default=256,
        metavar="N",
        help="units of a hidden layer (default: 256)",
    )
    return script.main(parser, build, words, dni_network=DNI_NETWORK)


if __name__ == "__main__":
    sys.exit(main())
