"""Scalars and text of a run as files: one table for spreadsheets, one line of JSON per report."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..events import Callback
from ..record import Entries
from ..registry import CALLBACKS

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer

FIRST_COLUMNS = ("step", "epoch")


class CsvLog:
    """Writes scalars into a table: a row per report, a column per name.

    A name that comes later gets a column of its own; rows before it stay empty there. The file
    is replaced as a whole then, so that whoever reads it never sees half of it.

    Args:
        path: File to write; made when something is written, gone on with where it exists.

    Example:
        >>> import tempfile
        >>> log = CsvLog(Path(tempfile.mkdtemp()) / "log.csv")
        >>> log.write(Entries({"loss": 0.5}), step=0, epoch=0)
        >>> log.write(Entries({"accuracy": 0.25}), step=9, epoch=1)
        >>> print(log.path.read_text().strip())
        step,epoch,loss,accuracy
        0,0,0.5,
        9,1,,0.25
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rows = 0
        self._columns = list(FIRST_COLUMNS)
        if self.path.exists():
            self._columns, rows = self._read()
            self.rows = len(rows)

    def write(self, entries: Entries, step: int, epoch: int) -> None:
        """Append a row, if there is a scalar."""
        if not entries.scalars:
            return
        row = {"step": step, "epoch": epoch} | entries.scalars
        missing = [name for name in row if name not in self._columns]
        if missing or not self.path.exists():
            rows = self._read()[1] if self.path.exists() else []
            self._columns += missing
            self._replace(rows)
        with _appended(self.path) as file:
            csv.writer(file, lineterminator="\n").writerow(self._cells(row))
        self.rows += 1

    def keep(self, rows: int) -> None:
        """Drop all but the first rows: they were written after what a run resumes from."""
        if self.path.exists():
            kept = self._read()[1][:rows]
            used = {name for row in kept for name, cell in row.items() if cell}
            self._columns = [c for c in self._columns if c in FIRST_COLUMNS or c in used]
            self._replace(kept)
            self.rows = len(kept)

    def _cells(self, row: dict[str, Any]) -> list[Any]:
        return [row.get(name, "") for name in self._columns]

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return list(reader.fieldnames or FIRST_COLUMNS), rows

    def _replace(self, rows: list[dict[str, str]]) -> None:
        beside = self.path.with_name(self.path.name + ".tmp")
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self._columns)
            writer.writerows(self._cells(row) for row in rows)
        beside.replace(self.path)


class JsonLog:
    """Writes scalars and text, one object of JSON per report and line.

    Numbers that JSON does not know (``nan``, ``inf``) are written as strings of these names,
    which `read_log` reads back as numbers.

    Args:
        path: File to write; made when something is written, gone on with where it exists.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rows = len(self._lines())

    def write(self, entries: Entries, step: int, epoch: int) -> None:
        """Append a line, if there is a scalar or text."""
        if not (entries.scalars or entries.text):
            return
        row: dict[str, Any] = {"step": step, "epoch": epoch}
        row["scalars"] = {
            name: value if math.isfinite(value) else str(value)
            for name, value in entries.scalars.items()
        }
        if entries.text:
            row["text"] = entries.text
        with _appended(self.path) as file:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self.rows += 1

    def keep(self, rows: int) -> None:
        """Drop all but the first lines: they were written after what a run resumes from."""
        if self.path.exists():
            lines = self._lines()[:rows]
            beside = self.path.with_name(self.path.name + ".tmp")
            beside.write_text("".join(lines), encoding="utf-8")
            beside.replace(self.path)
            self.rows = len(lines)

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8") as file:
            return list(file)


@contextmanager
def _appended(path: Path) -> Iterator[TextIO]:
    """A file opened at its end; an error on the way, as of a full disk, names it."""
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            yield file
    except OSError as err:
        raise OSError(err.errno, err.strerror, str(path)) from err


def read_log(path: str | os.PathLike[str]) -> dict[str, list[tuple[int, float]]]:
    """The curves in a file that `JsonLog` wrote.

    A last line that was cut off, by a crash amid a write, is left out.

    Args:
        path: The file.

    Returns:
        For every scalar its points: step and value.

    Example:
        >>> import tempfile
        >>> log = JsonLog(Path(tempfile.mkdtemp()) / "log.jsonl")
        >>> log.write(Entries({"loss": 0.5}), step=0, epoch=0)
        >>> log.write(Entries({"loss": math.inf}), step=9, epoch=1)
        >>> read_log(log.path)
        {'loss': [(0, 0.5), (9, inf)]}
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                continue
            row = json.loads(line)
            for name, value in row["scalars"].items():
                curves.setdefault(name, []).append((row["step"], float(value)))
    return curves


@CALLBACKS.register("csv")
class CsvLogger(Callback):
    """Keeps ``log.csv`` and ``log.jsonl`` in the folder of the run.

    A resumed run drops the rows that were written after its checkpoint: its log is that of an
    uninterrupted run.
    """

    reads = ("record",)

    def __init__(self) -> None:
        self._rows: list[int] | None = None
        self._logs: list[CsvLog | JsonLog] = []

    def on_fit_begin(self, trainer: Trainer, phase: Phase | None) -> None:
        """Begin to listen."""
        if trainer.run is None or self._logs:
            return
        folder = Path(trainer.run.path)
        self._logs = [CsvLog(folder / "log.csv"), JsonLog(folder / "log.jsonl")]
        if self._rows is not None:
            for log, rows in zip(self._logs, self._rows, strict=True):
                log.keep(rows)
        trainer.record.sinks.extend(self._logs)

    def on_fit_end(self, trainer: Trainer, phase: Phase | None) -> None:
        """Listen no longer."""
        for log in self._logs:
            trainer.record.sinks.remove(log)
        self._logs = []

    def state_dict(self) -> dict[str, Any]:
        """How many rows the files hold."""
        return {"rows": [log.rows for log in self._logs] or self._rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._rows = state["rows"]
        for log, rows in zip(self._logs, self._rows or (), strict=False):
            log.keep(rows)
