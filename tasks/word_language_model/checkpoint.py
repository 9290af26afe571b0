"""Checkpoints: written whole or not at all, and refused by a run they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data import Vocabulary
from dni.errors import CheckpointError
from dni.scripts import check_flags, load_state, random_state, save_state
from model import LanguageModel

_KIND = {"format": "word_language_model", "version": 1}
_KEYS = ("arguments", "vocabulary", "model", "learner", "schedule", "progress", "rng")


def save_checkpoint(
    path: Path,
    *,
    arguments: Mapping[str, Any],
    vocabulary: Vocabulary,
    model: Mapping[str, Any],
    **parts: Mapping[str, Any],
) -> None:
    """Write a checkpoint; a crash or Ctrl-C while writing leaves the file before it intact.

    Args:
        path: The file.
        arguments: Flags and values that a run must share to go on from the file.
        vocabulary: The symbols, without which the model says nothing.
        model: What it takes to make the model anew.
        parts: States of ``learner``, ``schedule`` and ``progress``.
    """
    state = {
        "arguments": dict(arguments),
        "vocabulary": {"symbols": vocabulary.symbols, "characters": vocabulary.characters},
        "model": dict(model),
        "rng": random_state(),
        **parts,
    }
    save_state(path, {**_KIND, **state})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: The file is missing, cannot be read or is something else.
    """
    return load_state(path, _KIND, _KEYS, name=str(path))


def check(
    path: Path, state: Mapping[str, Any], arguments: Mapping[str, Any], vocabulary: Vocabulary
) -> None:
    """Refuse a checkpoint of a run with other arguments or of another corpus.

    Raises:
        CheckpointError: Says what the file has and what this run has.
    """
    saved = dict(state["arguments"])
    if saved.get("method") != "bptt":
        saved.setdefault("shrink", True)  # files of before there was a choice
    check_flags(saved, arguments, name=str(path))
    symbols = state["vocabulary"]["symbols"]
    if symbols != vocabulary.symbols:
        strange = next((s for s in vocabulary.symbols if s not in set(symbols)), None)
        example = "in another order" if strange is None else f"such as {strange!r}"
        raise CheckpointError(
            f"{path}: the file's vocabulary of {len(symbols):,} symbols is not that of this "
            f"corpus, which has {len(vocabulary):,}, {example}; give the --data it was trained on."
        )


def best_model(state: Mapping[str, Any]) -> tuple[LanguageModel, Vocabulary]:
    """The model with the lowest validation loss and its vocabulary, from a checkpoint."""
    vocabulary = Vocabulary(**state["vocabulary"])
    model = LanguageModel(len(vocabulary), **state["model"])
    model.load_state_dict(state["progress"]["best"] or state["learner"]["model"])
    return model.eval(), vocabulary
