"""MNIST in memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dni.vision import import_torchvision
from workloads import PIXELS


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """MNIST as two tensors of pixels in [0, 1] and two of labels."""

    train: Tensor
    """Shape `[N, 784]`."""
    train_labels: Tensor
    """Shape `[N]`."""
    test: Tensor
    """Shape `[M, 784]`."""
    test_labels: Tensor
    """Shape `[M]`."""


def load_mnist(folder: Path, device: torch.device, *, limit: int | None = None) -> Images:
    """Read MNIST from `folder`; stop the program with a sentence where it is not there.

    Args:
        folder: The folder that holds `MNIST/raw`.
        device: Where the images shall live, all of them.
        limit: Images to read from either part; all where there is none.
    """
    dataset = import_torchvision().datasets.MNIST
    try:
        parts = [dataset(str(folder), train=train, download=False) for train in (True, False)]
    except RuntimeError:
        sys.exit(
            f"MNIST is not in `{folder / 'MNIST' / 'raw'}`. Give the folder that holds `MNIST/raw` "
            "with --data-dir, or download it with torchvision.datasets.MNIST(root, download=True)."
        )
    pixels = [part.data[:limit].to(device).reshape(-1, PIXELS) / 255 for part in parts]
    labels = [part.targets[:limit].to(device) for part in parts]
    return Images(train=pixels[0], train_labels=labels[0], test=pixels[1], test_labels=labels[1])
