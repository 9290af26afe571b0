"""Writes what an evaluation gives for each example, batch by batch, as files of numpy."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ConfigError
from .evaluation import HEADER, INDEX, VERSION, Array, Column, StoredOutputs
from .fingerprint import as_numpy


class OutputWriter:
    """Writes what is found for the examples of a data set; row i is example i.

    Nothing is held in memory but text. Until `finish`, the folder is marked as half-written.

    Args:
        folder: Where to; an evaluation that is there is replaced at the first write that is right.
        data: What the examples are of, see `describe`.
        about: More for the index: the checkpoint, the step.

    Raises:
        ConfigError: The folder is there and holds something else.

    Example:
        >>> import tempfile, torch
        >>> folder = Path(tempfile.mkdtemp()) / "outputs"
        >>> writer = OutputWriter(folder, data={"split": "test", "length": 3})
        >>> writer.write([0, 1], {"score": torch.tensor([0.25, 0.5])})
        >>> writer.write([2], {"score": torch.tensor([0.75])})
        >>> writer.finish()[2]["score"]
        array(0.75, dtype=float32)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        data: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        is_filled = self.folder.exists() and any(self.folder.iterdir())
        if is_filled and not (self.folder / INDEX).is_file():
            raise ConfigError(
                f"{self.folder} holds something that is no evaluation; nothing was written. "
                "Remove it, or write to another folder."
            )
        self._length: int | None = data.get("length")
        self._index: dict[str, Any] = {"version": VERSION, "complete": False, **(about or {})}
        self._index["data"] = dict(data)
        self._columns: dict[str, _Rows | _Words] = {}
        self._seen = bytearray()

    def write(
        self, rows: Sequence[int], values: Mapping[str, Any], *, by: str = "evaluation"
    ) -> None:
        """Write some rows.

        Args:
            rows: Numbers of the examples.
            values: Under each key arrays, tensors ``[B, *]``, or a list of words.
            by: Who gives them, for messages.

        Raises:
            ConfigError: Values have another first axis than ``B``, or other keys, shapes or types
                than those before.
        """
        arrays = {key: as_rows(key, value, len(rows), by=by) for key, value in values.items()}
        if not self._columns:
            self._clear()
            self._columns = {key: self._column(key, value) for key, value in arrays.items()}
        elif self._columns.keys() != arrays.keys():
            raise ConfigError(
                f"The {by} gave {sorted(arrays)}, and {sorted(self._columns)} for the examples "
                "before; it must give the same keys for every batch."
            )
        for key, column in self._columns.items():
            column.write(rows, arrays[key], f"The {by} gave {key!r}")
        self._seen.extend(bytes(max(0, max(rows) + 1 - len(self._seen))))
        for row in rows:
            self._seen[row] = 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written so far."""
        return not self._columns

    def finish(self) -> StoredOutputs:
        """Mark the folder as complete.

        Returns:
            What was written.

        Raises:
            ConfigError: Examples are missing.
        """
        count = sum(self._seen)
        length = len(self._seen) if self._length is None else self._length
        if count != length:
            raise ConfigError(
                f"The evaluation in {self.folder} is incomplete: {count} of {length} examples "
                "were written. A step was cancelled, or the data has `drop_last: true`."
            )
        for column in self._columns.values():
            column.finish()
        self._index["keys"] = {key: column.about() for key, column in self._columns.items()}
        self._index |= {"complete": True, "length": count}
        self._write_index()
        return StoredOutputs(self.folder)

    def _clear(self) -> None:
        """Make an empty folder that is marked as half-written."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self._write_index()

    def _column(self, key: str, value: Column) -> _Rows | _Words:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
            raise ConfigError(
                f"The key {key!r} cannot be stored: it becomes the name of a file, so its parts "
                "between '/' must be names."
            )
        (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, list):
            return _Words(self.folder, f"{key}.words.json")
        return _Rows(self.folder, f"{key}.npy", value)

    def _write_index(self) -> None:
        draft = self.folder / f".{INDEX}.tmp"
        draft.write_text(json.dumps(self._index, indent=2) + "\n", encoding="utf-8")
        os.replace(draft, self.folder / INDEX)


class _Rows:
    """A file of numpy's format that grows row by row."""

    def __init__(self, folder: Path, file: str, first: Array) -> None:
        self.path, self.file = folder / file, file
        self.dtype, self.shape, self.length = first.dtype, first.shape[1:], 0
        self.size = self.dtype.itemsize * math.prod(self.shape)
        self.path.write_bytes(self._header())

    def write(self, rows: Sequence[int], values: Any, what: str) -> None:
        if isinstance(values, list) or (values.shape[1:], values.dtype) != (self.shape, self.dtype):
            given = "words" if isinstance(values, list) else f"{values.dtype} {values.shape[1:]}"
            raise ConfigError(
                f"{what} as {given} for each example, and as {self.dtype} {self.shape} for those "
                "before; all need the same type and shape. Pad what has no fixed length."
            )
        start, end = rows[0], rows[-1] + 1
        with self.path.open("r+b") as file:
            if list(rows) == list(range(start, end)):
                file.seek(HEADER + start * self.size)
                file.write(values.tobytes())
            else:
                for row, value in zip(rows, values, strict=True):
                    file.seek(HEADER + row * self.size)
                    file.write(value.tobytes())
        self.length = max(self.length, max(rows) + 1)

    def _header(self) -> bytes:
        shape = (self.length, *self.shape)
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        text = repr(about).encode("latin1").ljust(HEADER - 11) + b"\n"
        start: bytes = np.lib.format.magic(1, 0)
        return start + (HEADER - 10).to_bytes(2, "little") + text

    def about(self) -> dict[str, Any]:
        return {"file": self.file, "dtype": self.dtype.str, "shape": list(self.shape)}

    def finish(self) -> None:
        with self.path.open("r+b") as file:
            file.write(self._header())


class _Words:
    """A list of words, written when it is complete."""

    def __init__(self, folder: Path, file: str) -> None:
        self.folder, self.file = folder, file
        self.words: dict[int, str] = {}

    def write(self, rows: Sequence[int], values: Any, what: str) -> None:
        if not isinstance(values, list):
            raise ConfigError(f"{what} as numbers, and as words for the examples before.")
        self.words.update(zip(rows, values, strict=True))

    def about(self) -> dict[str, Any]:
        return {"file": self.file, "dtype": "text", "shape": []}

    def finish(self) -> None:
        ordered = [self.words[row] for row in sorted(self.words)]
        (self.folder / self.file).write_text(json.dumps(ordered), encoding="utf-8")


def as_rows(key: str, value: Any, size: int, *, by: str) -> Column:
    """A value with one row for each example of a batch.

    Args:
        key: What it is called, for the message.
        value: A tensor or array ``[B, *]``, or a list of ``B`` words.
        size: ``B``.
        by: Who gave it, for the message.

    Raises:
        ConfigError: Its first axis is not the batch, or it holds no numbers.

    Example:
        >>> import torch
        >>> as_rows("loss", torch.tensor([0.5, 0.25]), 2, by="eval_op").shape
        (2,)
    """
    is_words = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    if is_words and len(value) == size:
        return list(value)
    array = as_numpy(value) if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ConfigError(
            f"The {by} gave {key!r} as a {type(value).__name__} of {array.dtype}; numbers, or a "
            "list of words, are needed."
        )
    if array.ndim == 0 or array.shape[0] != size:
        hint = ""
        if key.startswith("loss/"):
            single = key.replace("loss", "instances", 1)
            hint = f" The losses of the single examples are in {single!r}."
        raise ConfigError(
            f"The {by} gave {key!r} of shape {array.shape} for a batch of {size} examples; its "
            f"first axis must be the batch, one row for each example.{hint}"
        )
    return array
