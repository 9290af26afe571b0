"""Checkpoints: one file with everything, written whole or not at all, and which to keep."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import written_whole

logger = logging.getLogger("dni.trainer")

VERSION = 1
_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)
_NAME = re.compile(r"step-(\d+)(?:_(-?[0-9.e+-]+|nan|-?inf))?\.pt")


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state to a file, such that at any moment the old or the new file is whole.

    Args:
        path: The file; its folder is made where there is none.
        state: Tensors and plain values, in dictionaries, lists and tuples.

    Raises:
        CheckpointError: The file cannot be written (what was there is untouched), or the state
            holds something that could not be read back safely.
    """
    path = Path(path)
    plain = _plain(state, "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            torch.save(plain, file)
    except (OSError, RuntimeError) as err:
        cause = err.__context__ if isinstance(err.__context__, OSError) else err
        raise CheckpointError(
            f"The checkpoint {path} could not be written: {cause}. What was saved before is "
            "still there; free some space, or choose another folder."
        ) from err


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU and without running code that it may contain.

    Raises:
        CheckpointError: The file is not there, is damaged, or is no checkpoint of a trainer.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(map(str, path.rglob("*.pt")))
        named = f"one of {', '.join(inside[-8:])}" if inside else "it has none"
        raise CheckpointError(f"{path} is a folder, and a checkpoint is needed: {named}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        there = sorted(file.name for file in path.parent.glob("*.pt"))
        shown = f"; in that folder there are: {', '.join(there[-8:])}" if there else ""
        raise CheckpointError(f"There is no checkpoint {path}{shown}.") from None
    except Exception as err:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(err).__name__}): it is damaged, or not "
            "one that this trainer wrote."
        ) from err
    if not isinstance(state, dict) or "counters" not in state:
        raise CheckpointError(f"{path} is not a checkpoint that this trainer wrote.")
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {state.get('version')}, and this is version {VERSION} of dni's "
            "checkpoints."
        )
    return state


class Checkpoints:
    """The checkpoints of a folder: the newest and the best are kept, others are removed.

    Files are called ``step-<updates>_<score>.pt`` after the number of updates they contain.

    Args:
        folder: The folder.
        keep_last: How many of the newest to keep, from 1.
        keep_best: How many with the best score to keep beside them.
        mode: ``"max"`` or ``"min"``: what is best.

    Raises:
        CheckpointError: An argument has a value that cannot work.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep_last: int = 1,
        keep_best: int = 0,
        mode: str = "max",
    ) -> None:
        if keep_last < 1 or keep_best < 0 or mode not in ("max", "min"):
            raise CheckpointError(
                f"keep_last={keep_last}, keep_best={keep_best}, mode={mode!r}: numbers from 1 "
                "and from 0, and 'max' or 'min', are needed."
            )
        self.folder = Path(folder)
        self.keep_last, self.keep_best, self.mode = keep_last, keep_best, mode

    def add(self, state: Mapping[str, Any], *, step: int, score: float | None = None) -> Path:
        """Save a state, then remove the files that are not to be kept.

        Args:
            state: What to save.
            step: Number of updates it contains.
            score: What the best are chosen by; ``None``: never one of the best.

        Returns:
            The file.

        Raises:
            CheckpointError: See `save`; nothing is removed then.
        """
        tail = "" if score is None else f"_{float(score)!r}"
        path = self.folder / f"step-{step:08d}{tail}.pt"
        save(path, state)
        for other, number, _ in self._files():
            if number == step and other != path:
                other.unlink(missing_ok=True)
        kept = {*self.newest(self.keep_last), *self.best(self.keep_best)}
        for file, *_ in self._files():
            if file not in kept:
                file.unlink(missing_ok=True)
        for draft in self.folder.glob(".step-*.tmp"):
            draft.unlink(missing_ok=True)  # of a process that was killed while it wrote
        return path

    def leave(self, step: int) -> None:
        """Move those of more updates into ``left_1/``, ``left_2/``, …, which nothing removes.

        They are of a past that a run leaves by going on from an older one. Left where they are,
        they would count as newer than what comes.

        Args:
            step: Number of updates that the run goes on from.

        Raises:
            CheckpointError: They cannot be moved.
        """
        files = [path for path, number, _ in self._files() if number > step]
        if not files:
            return
        number = 1
        while (folder := self.folder / f"left_{number}").exists():
            number += 1
        try:
            folder.mkdir()
            for file in files:
                file.rename(folder / file.name)
        except OSError as err:
            raise CheckpointError(
                f"The checkpoints after step {step} could not be moved to {folder}: {err}. Go on "
                "from the newest one, or make the folder writable."
            ) from err
        logger.warning(
            "The run goes on from step %d; its later checkpoints are now in %s.", step, folder
        )

    def newest(self, count: int = 1) -> list[Path]:
        """The files with most updates, the newest first."""
        return [path for path, *_ in sorted(self._files(), key=lambda f: -f[1])][:count]

    def best(self, count: int = 1) -> list[Path]:
        """The files with the best scores, the best first; of equals the older."""
        scored = [(p, n, s) for p, n, s in self._files() if s is not None and s == s]
        sign = -1.0 if self.mode == "max" else 1.0
        return [path for path, *_ in sorted(scored, key=lambda f: (sign * f[2], f[1]))][:count]

    def _files(self) -> Iterator[tuple[Path, int, float | None]]:
        for path in self.folder.glob("step-*.pt"):
            if match := _NAME.fullmatch(path.name):
                yield path, int(match[1]), None if match[2] is None else float(match[2])


def latest(folder: str | os.PathLike[str]) -> Path:
    """The newest checkpoint of a folder.

    Raises:
        CheckpointError: There is none.
    """
    found = Checkpoints(folder).newest()
    if not found:
        raise CheckpointError(f"There is no checkpoint in {folder}.")
    return found[0]


def differences(saved: Any, given: Any, path: str = "") -> list[str]:
    """Where two configs (or any nested plain values) differ, a line each.

    Example:
        >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}})
        ['a/b: saved 1, now 3', 'c: saved 2, now absent']
    """
    if not (isinstance(saved, Mapping) and isinstance(given, Mapping)):
        return [] if saved == given else [f"{path}: saved {saved!r}, now {given!r}"]
    lines = []
    for key in [*saved, *(key for key in given if key not in saved)]:
        below = f"{path}/{key}" if path else str(key)
        if key not in given:
            lines.append(f"{below}: saved {_short(saved[key])}, now absent")
        elif key not in saved:
            lines.append(f"{below}: saved absent, now {_short(given[key])}")
        else:
            lines.extend(differences(saved[key], given[key], below))
    return lines


def shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of each tensor of a ``state_dict``, to compare two of them."""
    return {k: list(v.shape) for k, v in state.items() if isinstance(v, Tensor)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any, path: str) -> Any:
    """The same value in types that are read back without running code."""
    if value is None or type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    for kind in (int, float, str):
        # A subclass (numpy's float64 is a float) would be pickled under its own name.
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {key: _plain(below, f"{path}/{key}") for key, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(below, f"{path}/{i}") for i, below in enumerate(value)]
        return items if isinstance(value, list) else _same_kind(value)(items)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "numpy":
        return torch.from_numpy(value) if hasattr(value, "__len__") else value.item()
    raise CheckpointError(
        f"{path.lstrip('/')} is a {type(value).__name__}, which a checkpoint cannot hold: only "
        "tensors, numbers, text and collections of them are read back safely. Give its "
        "`state_dict()` instead."
    )


def _same_kind(value: object) -> type[tuple[Any, ...]] | type[set[Any]]:
    return tuple if isinstance(value, tuple) else set
