"""Checkpoints: written whole or not at all, and refused by a run with other arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from curriculum import Progress
from dni.scripts import check_flags, load_state, save_state
from learners import Learner

_KIND = {"format": "copy", "version": 1}
_KEYS = ("arguments", "progress", "learner", "episodes")


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
        "arguments": dict(arguments),
        "progress": progress.state(),
        "learner": learner.state(),
        "episodes": episodes.get_state(),
    }
    save_state(path, {**_KIND, **state})


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
        CheckpointError: The file is missing, is no checkpoint, or is of a run with other
            arguments.
    """
    name = f"--resume {path}"
    state = load_state(path, _KIND, _KEYS, name=name)
    check_flags(state["arguments"], arguments, name=name)
    learner.load_state(state["learner"])
    episodes.set_state(state["episodes"])
    return Progress.from_state(state["progress"])
