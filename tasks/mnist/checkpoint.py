"""Checkpoints: written whole or not at all, and refused by a run with other arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dni.errors import CheckpointError
from dni.scripts import check_flags, load_state, random_state, save_state, set_random_state
from learners import Learner
from training import Progress

_KIND = {"version": 1}
_KEYS = ("arguments", "progress", "learner", "rng")


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
        "arguments": dict(arguments),
        "progress": progress.state(),
        "learner": learner.state(),
        "rng": random_state(),
    }
    save_state(path, {**_KIND, **state})


def resume(path: Path, learner: Learner, arguments: Mapping[str, Any]) -> Progress:
    """Put a checkpoint into a learner and into torch's random number generators.

    Args:
        path: What `save_checkpoint` wrote.
        learner: Built with the same arguments; changed in place.
        arguments: This run's, to be compared with the file's.

    Returns:
        How far the saved run had come.

    Raises:
        CheckpointError: The file is missing, is no checkpoint, or is of a run with other
            arguments.
    """
    name = f"--resume {path}"
    state = load_state(path, _KIND, _KEYS, name=name)
    script = state["arguments"].get("script")
    if script != arguments["script"]:
        raise CheckpointError(
            f"{name}: the file is of {script}, and this is {arguments['script']}."
        )
    check_flags(state["arguments"], arguments, name=name)
    learner.load_state(state["learner"])
    set_random_state(state["rng"])
    return Progress.from_state(state["progress"])
