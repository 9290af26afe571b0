"""What a data set is recognised by: its length, and a digest of some of its examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .data import Source
from .randomness import random_state, seed_all, set_random_state

_SAMPLED = 16  # examples that a data set is recognised by


def describe(source: Source, split: str) -> dict[str, Any]:
    """What a data set is recognised by.

    Args:
        source: The data.
        split: Its name.

    Returns:
        Its split, type, length and fingerprint: a digest of some of its examples, each made from
        the same random state. Length and fingerprint are ``None`` for an iterable of batches.
    """
    found: dict[str, Any] = {"split": split, "type": type(source.dataset).__name__}
    if not source.is_map:
        return found | {"length": None, "fingerprint": None}
    length = len(source.dataset)
    numbers = sorted({i * (length - 1) // max(_SAMPLED - 1, 1) for i in range(_SAMPLED)})
    digest, kept = hashlib.sha256(str(length).encode()), random_state()
    try:
        for number in numbers if length else ():
            seed_all(number)
            for part in _parts(source.dataset[number]):
                digest.update(part)
    finally:
        set_random_state(kept)
    return found | {"length": length, "fingerprint": digest.hexdigest()[:16]}


def _parts(sample: Any) -> Iterator[bytes]:
    if isinstance(sample, Mapping):
        for key in sorted(sample, key=str):
            yield str(key).encode()
            yield from _parts(sample[key])
    elif isinstance(sample, list | tuple):
        for part in sample:
            yield from _parts(part)
    elif isinstance(sample, Tensor):
        yield from _parts(as_numpy(sample))
    elif isinstance(sample, str | int | float | bool | bytes | None):
        yield repr(sample).encode()
    elif hasattr(sample, "tobytes"):
        yield str(getattr(sample, "shape", "")).encode()
        yield sample.tobytes()
    else:
        yield type(sample).__name__.encode()


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor on any device; bfloat16 becomes float32."""
    tensor = tensor.detach().cpu()
    # numpy has no such type; every value of it is one of float32.
    found: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return found
