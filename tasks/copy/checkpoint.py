"""Checkpoints: written whole or not at all, and refused by a run with other arguments."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from curriculum import Progress
from learners import Learner

_VERSION = 1
_FORMAT = "copy"
_KEYS = {"format", "version", "arguments", "progress", "learner", "episodes"}


class ResumeError(Exception):
    """A file cannot be resumed from."""


def save_checkpoint(
    path: Path,
    learner: Learner,
    progress: Progress,
    episodes: torch.Generator,
    arguments: Mapping[str, Any],
) -> None:
    """Write a checkpoint; a crash or Ctrl-C while writing leaves the file before it intact.

    Args:
        path: The file.
        learner: Gives its state.
        progress: How far it has come.
        episodes: Draws the episodes.
        arguments: Flags and values that a run must share to go on from the file.
    """
    state = {
        "format": _FORMAT,
        "version": _VERSION,
        "arguments": dict(arguments),
        "progress": progress.state(),
        "learner": learner.state(),
        "episodes": episodes.get_state(),
    }
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except RuntimeError as error:
        # Ctrl-C amid torch.save: closing its archive raises over the interrupt.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def resume(
    path: Path, learner: Learner, episodes: torch.Generator, arguments: Mapping[str, Any]
) -> Progress:
    """Put a checkpoint into a learner and into the generator of the episodes.

    Args:
        path: What `save_checkpoint` wrote.
        learner: Built with the same arguments; changed in place.
        episodes: Changed in place.
        arguments: This run's, to be compared with the file's.

    Returns:
        How far the saved run had come.

    Raises:
        ResumeError: The file is missing, is no checkpoint, or is of a run with other arguments.
    """
    state = read_checkpoint(path)
    saved = state["arguments"]
    others = [name for name in arguments if saved.get(name) != arguments[name]]
    if others:
        then, now = (
            ", ".join(_flag(name, flags.get(name)) for name in others)
            for flags in (saved, arguments)
        )
        raise ResumeError(
            f"--resume {path}: the file was saved with {then} and this run has {now}; go on with "
            "the arguments it began with."
        )
    learner.load_state(state["learner"])
    episodes.set_state(state["episodes"])
    return Progress.from_state(state["progress"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote.

    Raises:
        ResumeError: The file is missing or is something else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ResumeError(f"--resume {path}: there is no such file.") from error
    except OSError as error:
        raise ResumeError(f"--resume {path}: cannot be read ({error.strerror}).") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ResumeError(f"--resume {path}: this is not a checkpoint file.") from error
    is_ours = isinstance(state, dict) and set(state) == _KEYS
    if not is_ours or (state["format"], state["version"]) != (_FORMAT, _VERSION):
        raise ResumeError(f"--resume {path}: this is not a checkpoint that main.py --save wrote.")
    return state


def _flag(name: str, value: object) -> str:
    if value is None or value is False:
        return f"no --{name}"
    return f"--{name}" if value is True else f"--{name} {value}"
