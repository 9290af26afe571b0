"""The images and labels the networks learn from, and the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dni.vision import import_torchvision

NAMES = ("digits", "mnist", "fashion")
CLASSES = 10
_TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion": "FashionMNIST"}
_DIGITS_HELD_OUT = 360  # a fifth of the 1,797 images


class DataError(Exception):
    """The data set is not there and could not be fetched."""


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Grey-scale images in two parts, standardised with the mean and deviation of the first.

    Shapes: ``N`` images, ``H`` rows, ``W`` columns.

    Attributes:
        name: One of `NAMES`.
        images: Images to train on, float32. Shape ``[N, 1, H, W]``.
        labels: Their classes, int64 in 0..9. Shape ``[N]``.
        test_images: Held-out images. Shape ``[N_test, 1, H, W]``.
        test_labels: Their classes. Shape ``[N_test]``.
    """

    name: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def to(self, device: torch.device) -> ImageDataset:
        """The same data set on a device: it is small, so all of it moves there once."""
        return ImageDataset(
            name=self.name,
            images=self.images.to(device),
            labels=self.labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def load_dataset(name: str, folder: Path) -> ImageDataset:
    """Read a data set; ``mnist`` and ``fashion`` are downloaded when the folder has none.

    Args:
        name: One of `NAMES`. ``digits`` ships with scikit-learn and needs no folder.
        folder: Where torchvision keeps its data sets (it holds ``MNIST/raw`` and the like).

    Returns:
        The data set, on the CPU.

    Raises:
        DataError: The data set is neither in the folder nor could be downloaded.
    """
    if name == "digits":
        return _load_digits()
    images, labels, test_images, test_labels = _load_from_torchvision(name, folder)
    return _standardised(name, images, labels, test_images, test_labels)


def batches(
    count: int, *, batch_size: int, seed: int, epoch: int, skip: int = 0
) -> Iterator[Tensor]:
    """Indices of one epoch's batches, in an order that depends on seed and epoch alone.

    A last batch that is not full is left out: BatchNorm's statistics would be of another kind.

    Args:
        count: Number of images.
        batch_size: Images in a batch.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.
        skip: Number of batches to leave out at the start, for a run resumed within an epoch.

    Yields:
        Indices of the next batch's images. Shape ``[batch_size]``.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    for start in range(skip * batch_size, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def _load_digits() -> ImageDataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images, test_images, labels, test_labels = train_test_split(
        torch.from_numpy(digits.images),
        torch.from_numpy(digits.target),
        test_size=_DIGITS_HELD_OUT,
        stratify=digits.target,
        random_state=0,
    )
    return _standardised("digits", images, labels, test_images, test_labels)


def _load_from_torchvision(name: str, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    try:
        datasets = import_torchvision().datasets
    except ImportError as error:
        raise DataError(str(error)) from error
    dataset_class = getattr(datasets, _TORCHVISION_CLASSES[name])
    try:
        parts = [dataset_class(folder, train=train, download=False) for train in (True, False)]
    except RuntimeError:
        try:
            parts = [dataset_class(folder, train=train, download=True) for train in (True, False)]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"`{folder}` does not hold {dataset_class.__name__} and it could not be downloaded "
                f"({_first_line(error)}); give the folder that holds it with --data-dir, or take "
                "--dataset digits, which needs no download."
            ) from error
    train, test = parts
    return train.data, train.targets, test.data, test.targets


def _standardised(
    name: str, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor
) -> ImageDataset:
    images, test_images = images.float().unsqueeze(1), test_images.float().unsqueeze(1)
    mean, deviation = images.mean(), images.std()
    return ImageDataset(
        name=name,
        images=(images - mean) / deviation,
        labels=labels.long(),
        test_images=(test_images - mean) / deviation,
        test_labels=test_labels.long(),
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":.")
