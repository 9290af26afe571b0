"""Checkpoints: written whole or not at all, and refused by a run with other arguments."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from learners import Learner
from training import Progress

_VERSION = 1
_KEYS = {"version", "arguments", "progress", "learner", "rng"}


class ResumeError(Exception):
    """A file cannot be resumed from."""


def save_checkpoint(
    path: Path, learner: Learner, progress: Progress, arguments: Mapping[str, Any]
) -> None:
    """Write a checkpoint; a crash or Ctrl-C while writing leaves the file before it intact.

    Args:
        path: The file.
        learner: Gives its state.
        progress: How far it has come.
        arguments: Flags and values that a run must share to go on from the file.
    """
    state = {
        "version": _VERSION,
        "arguments": dict(arguments),
        "progress": progress.state(),
        "learner": learner.state(),
        "rng": _random_state(),
    }
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except RuntimeError as err:
        # Ctrl-C amid torch.save: closing its archive raises over the interrupt.
        if isinstance(err.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from err
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def resume(path: Path, learner: Learner, arguments: Mapping[str, Any]) -> Progress:
    """Put a checkpoint into a learner and into torch's random number generators.

    Args:
        path: What `save_checkpoint` wrote.
        learner: Built with the same arguments; changed in place.
        arguments: This run's, to be compared with the file's.

    Returns:
        How far the saved run had come.

    Raises:
        ResumeError: The file is missing, is no checkpoint, or is of a run with other arguments.
    """
    state = _read(path)
    _compare(path, state["arguments"], arguments)
    learner.load_state(state["learner"])
    _set_random_state(state["rng"])
    return Progress.from_state(state["progress"])


def _read(path: Path) -> dict[str, Any]:
    try:
        # On the CPU, because the generators' states live there; optimizers move their own.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ResumeError(f"--resume {path}: there is no such file.") from error
    except OSError as error:
        raise ResumeError(f"--resume {path}: cannot be read ({error.strerror}).") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ResumeError(f"--resume {path}: this is not a checkpoint file.") from error
    if not isinstance(state, dict) or set(state) != _KEYS or state["version"] != _VERSION:
        raise ResumeError(f"--resume {path}: this is not a checkpoint that --save wrote.")
    return state


def _compare(path: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if saved.get("script") != given["script"]:
        raise ResumeError(
            f"--resume {path}: the file is of {saved.get('script')}, and this is {given['script']}."
        )
    others = [name for name in given if saved.get(name) != given[name]]
    if others:
        then, now = (
            ", ".join(_flag(name, flags.get(name)) for name in others) for flags in (saved, given)
        )
        raise ResumeError(
            f"--resume {path}: the file was saved with {then} and this run has {now}; go on with "
            "the arguments it began with."
        )


def _flag(name: str, value: object) -> str:
    if value is None or value is False:
        return f"no --{name}"
    return f"--{name}" if value is True else f"--{name} {value}"


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    # A run may go on on a machine with fewer GPUs, or none; it is then not the same to the bit.
    for index, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, index)
