"""What an evaluation gave for each example, stored on disk and read by index."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ..errors import ConfigError, did_you_mean
from .data import Source
from .fingerprint import describe

if TYPE_CHECKING:
    from .trainer import Trainer

FOLDER = "evaluation"
"""Where in the folder of a run its evaluations are."""
INDEX = "index.json"
VERSION = 1
HEADER = 256
"""Bytes before the rows of a file."""

Array = NDArray[Any]
Column = Array | list[str]


class StoredOutputs(Dataset[dict[str, Any]]):
    """What was stored of an evaluation, as a data set: item i belongs to example i.

    An item is read from disk when it is asked for. Paths inside the folder are relative, so that
    it may be moved.

    Args:
        folder: The folder, which has an ``index.json``.
        data: The data that it should be about (`Source`); ``None``: not checked.

    Attributes:
        folder: The folder.
        index: What ``index.json`` says.
        keys: What there is for each example.

    Raises:
        ConfigError: There is no evaluation in the folder, it is half-written or damaged, or of
            another data set.
    """

    def __init__(self, folder: str | os.PathLike[str], data: Source | None = None) -> None:
        self.folder = Path(folder)
        self.index: dict[str, Any] = _read_index(self.folder)
        self._about: dict[str, dict[str, Any]] = self.index["keys"]
        self.keys = tuple(self._about)
        self._words: dict[str, list[str]] = {}
        for key, about in self._about.items():
            self._check_file(key, about)
        if data is not None:
            self.check(data)

    def __len__(self) -> int:
        return int(self.index["length"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """What was stored for an example: arrays, and text where it was text.

        Raises:
            IndexError: There is no such example.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self.folder} has {count} examples and none of number {index}.")
        return {key: self._read(key, index % count) for key in self.keys}

    def column(self, key: str) -> Column:
        """The values of all examples under a key, read from disk as they are used.

        Raises:
            ConfigError: There is no such key.
        """
        if key not in self._about:
            raise ConfigError(
                f"Nothing was stored under {key!r} in {self.folder}.{did_you_mean(key, self.keys)}"
            )
        if self._about[key]["dtype"] == "text":
            return self._text(key)
        found: Array = np.load(self.folder / self._about[key]["file"], mmap_mode="r")
        return found

    @property
    def labels(self) -> dict[str, Column]:
        """The columns whose key begins with ``labels/``, without that."""
        start = "labels/"
        return {key[len(start) :]: self.column(key) for key in self.keys if key.startswith(start)}

    def check(self, data: Source, split: str | None = None) -> None:
        """Compare with the data that the outputs should be about.

        Raises:
            ConfigError: They are of another data set.
        """
        made, given = self.index["data"], describe(data, split or "")
        parts = ("length", "fingerprint")
        if any(made.get(part) != given[part] for part in parts):
            told = [
                f"{about.get('length')} examples (fingerprint {about.get('fingerprint')})"
                for about in (made, given)
            ]
            raise ConfigError(
                f"The evaluation in {self.folder} is of another data set: it has {told[0]}, and "
                f"the data given has {told[1]}, so row i is not example i; evaluate again with "
                "`dni run --resume RUN`."
            )

    def _read(self, key: str, row: int) -> Any:
        about = self._about[key]
        if about["dtype"] == "text":
            return self._text(key)[row]
        shape = tuple(about["shape"])
        dtype, count = np.dtype(about["dtype"]), math.prod(shape)
        offset = HEADER + row * count * dtype.itemsize
        read = np.fromfile(self.folder / about["file"], dtype, count, offset=offset)
        return read.reshape(shape)

    def _text(self, key: str) -> list[str]:
        if key not in self._words:
            text = (self.folder / self._about[key]["file"]).read_text(encoding="utf-8")
            self._words[key] = json.loads(text)
        return self._words[key]

    def _check_file(self, key: str, about: Mapping[str, Any]) -> None:
        file = self.folder / about["file"]
        found = file.stat().st_size if file.is_file() else None
        expected = found
        if about["dtype"] != "text":
            row = math.prod(about["shape"]) * np.dtype(about["dtype"]).itemsize
            expected = HEADER + len(self) * row
        if found is None or found != expected:
            state = "is missing" if found is None else f"has {found} bytes, not {expected}"
            raise ConfigError(
                f"The evaluation in {self.folder} is damaged: {about['file']} {state}; copy the "
                "folder again, or evaluate again with `dni run --resume RUN`."
            )


def evaluations(run: str | os.PathLike[str]) -> list[Path]:
    """The evaluations in the folder of a run, those of the fewest updates first.

    Half-written ones are among them.
    """
    folders = [file.parent for file in Path(run, FOLDER).glob(f"*/{INDEX}")]
    return sorted(folders, key=lambda f: (f.name.rpartition("_step-")[2], f.name))


def ends_epochs(trainer: Trainer, every: int) -> bool:
    """Whether a validation within a fit comes at the end of every so many epochs, or of the fit."""
    counters = trainer.counters
    if trainer.max_steps is not None and counters.step >= trainer.max_steps:
        return True
    return counters.stage != "batches" and (counters.epoch + 1) % every == 0


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / INDEX
    try:
        index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(
            f"{folder} is no evaluation: it has no {INDEX}. `dni run --resume RUN` writes one into "
            f"the folder of a run, under {FOLDER}/."
        ) from err
    except ValueError as err:
        raise ConfigError(f"The evaluation in {folder} is damaged: {INDEX} is no JSON.") from err
    if index.get("version") != VERSION:
        raise ConfigError(
            f"{file} has version {index.get('version')}; this is version {VERSION} of dni's "
            "evaluations."
        )
    if not index.get("complete"):
        raise ConfigError(
            f"The evaluation in {folder} is half-written: it was cut short and cannot be used; "
            "evaluate again with `dni run --resume RUN`."
        )
    return index
