"""Data sets that are there by name, and samples in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import ConfigError, did_you_mean
from .registry import DATA


class Tensors(Dataset[dict[str, Any]]):
    """Samples as rows of tensors, all of them in memory.

    Args:
        num_classes: Number of classes of the labels, if they are classes.
        **tensors: Under each key the values of all samples. Shape ``[N, *]``.

    Raises:
        ConfigError: No tensor, or tensors of different length.

    Example:
        >>> Tensors(image=torch.zeros(5, 1, 8, 8), label=torch.arange(5))[2]["label"]
        tensor(2)
    """

    def __init__(self, *, num_classes: int | None = None, **tensors: Tensor) -> None:
        sizes = {key: len(value) for key, value in tensors.items()}
        if len(set(sizes.values())) != 1:
            raise ConfigError(f"Tensors of one length are needed; these have {sizes or 'none'}.")
        self.tensors, self.num_classes = tensors, num_classes

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: Any) -> dict[str, Any]:
        return {key: value[index] for key, value in self.tensors.items()}


@DATA.register("digits")
def digits(split: str = "train", *, held_out: int = 360) -> Tensors:
    """Scikit-learn's 1,797 images of handwritten digits, ``image`` ``[N, 1, 8, 8]``, ``label``.

    Pixels are standardised with the mean and deviation of the training part.

    Args:
        split: ``"train"`` or ``"test"``.
        held_out: Images of the test part; as many of each class as there are in the whole.

    Raises:
        ConfigError: No such split, or scikit-learn is not installed.
    """
    _check_split(split)
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as err:
        raise ConfigError(
            "The data 'digits' needs scikit-learn: pip install torch-dni[tasks]."
        ) from err
    bunch = load_digits()
    images, test_images, labels, test_labels = train_test_split(
        torch.from_numpy(bunch.images),
        torch.from_numpy(bunch.target),
        test_size=held_out,
        stratify=bunch.target,
        random_state=0,
    )
    return _images(split, (images, labels), (test_images, test_labels))


@DATA.register("mnist")
def mnist(split: str = "train", *, root: str = "data", download: bool = True) -> Tensors:
    """MNIST's 60,000 + 10,000 handwritten digits, ``image`` ``[N, 1, 28, 28]`` and ``label``.

    Pixels are standardised with the mean and deviation of the training part.

    Args:
        split: ``"train"`` or ``"test"``.
        root: Folder that holds ``MNIST/raw``.
        download: Whether to fetch it when it is not there.

    Raises:
        ConfigError: No such split, or the images are not there and could not be fetched.
    """
    from ..vision import import_torchvision

    _check_split(split)
    make = import_torchvision().datasets.MNIST
    try:
        parts = [make(root, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as err:
        reason = str(err).partition("\n")[0].rstrip(":")
        raise ConfigError(
            f"MNIST is not in {root!r} and could not be fetched ({reason}). Put its four files "
            f"into {root}/MNIST/raw, or name another `root`."
        ) from err
    train, test = ((part.data, part.targets) for part in parts)
    return _images(split, train, test)


def _images(split: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Tensors:
    pixels = train[0].float()
    mean, deviation = pixels.mean(), pixels.std()
    images, labels = train if split == "train" else test
    scaled = ((images.float() - mean) / deviation).unsqueeze(1)
    return Tensors(image=scaled, label=labels.long(), num_classes=10)


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ConfigError(f"`split` is {split!r}.{did_you_mean(split, ['train', 'test'])}")
