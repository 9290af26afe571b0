"""``dni doctor``: versions, devices, and what does not fit together."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from ...errors import DNIError

_NEEDED = ("torch", "numpy", "omegaconf", "pydantic", "torchmetrics", "tqdm")
_OPTIONAL = {
    "torchvision": "MNIST, augmentations",
    "scikit-learn": "the data `digits`",
    "matplotlib": "pictures",
    "tensorboard": "TensorBoard events",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: none."""
    parser.set_defaults(call=main)


def main(options: argparse.Namespace) -> int:
    """Carry out the command.

    Returns:
        0; 1 if something that is needed is missing or does not work.
    """
    faults = 0
    for name, state, is_fault in check():
        print(f"{'!' if is_fault else ' '} {name:<14} {state}")
        faults += is_fault
    return 1 if faults else 0


def check() -> Iterator[tuple[str, str, bool]]:
    """What there is: a name, its state, and whether that is a fault."""
    import torch

    yield "python", f"{platform.python_version()} ({sys.executable})", False
    for name in _NEEDED:
        version = _version(name)
        hint = "missing: pip install 'torch-dni[trainer]'"
        yield name, version or hint, version is None
    for name, use in _OPTIONAL.items():
        if name != "torchvision":
            yield name, _version(name) or f"not installed; for {use}", False
    yield ("torchvision", *_torchvision())
    yield "cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads", False
    yield "cuda", _cuda(), False
    folder = next(path for path in (Path("runs"), Path()) if path.exists())
    is_writable = os.access(folder, os.W_OK)
    yield (
        "runs",
        f"{Path('runs').resolve()}{'' if is_writable else ' is not writable'}",
        not is_writable,
    )


def _torchvision() -> tuple[str, bool]:
    from ... import vision

    version = _version("torchvision")
    if version is None:
        return f"not installed; for {_OPTIONAL['torchvision']}", False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vision.import_torchvision()
            has_operators = importlib.import_module("torchvision.extension")._has_ops()
    except (ImportError, RuntimeError, DNIError) as err:
        return f"{version}, which cannot be imported: {err}", True
    if has_operators:
        return f"{version}, built for this torch", False
    return (
        f"{version}, built for another torch: data sets, transforms and models work (through "
        "dni.vision), its own operators such as nms do not",
        False,
    )


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        return f"none (torch is {built})"
    names = (torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"{torch.version.cuda}: {', '.join(names)}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
