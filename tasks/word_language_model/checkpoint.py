"""Checkpoints: written whole or not at all, and refused by a run they do not fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model import LanguageModel
from vocabulary import Vocabulary

_VERSION = 1
_FORMAT = "word_language_model"
_KEYS = {"format", "version", "arguments", "vocabulary", "model", "learner", "schedule"}
_KEYS |= {"progress", "rng"}


class CheckpointError(Exception):
    """A file is no checkpoint, or does not fit."""


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
        "format": _FORMAT,
        "version": _VERSION,
        "arguments": dict(arguments),
        "vocabulary": {"symbols": vocabulary.symbols, "characters": vocabulary.characters},
        "model": dict(model),
        "rng": _random_state(),
        **parts,
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: The file is missing, cannot be read or is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: this is not a checkpoint file.") from error
    is_ours = isinstance(state, dict) and set(state) == _KEYS
    if not is_ours or state["format"] != _FORMAT or state["version"] != _VERSION:
        raise CheckpointError(f"{path}: this is not a checkpoint that main.py --save wrote.")
    known: dict[str, Any] = state
    return known


def check(
    path: Path, state: Mapping[str, Any], arguments: Mapping[str, Any], vocabulary: Vocabulary
) -> None:
    """Refuse a checkpoint of a run with other arguments or of another corpus.

    Raises:
        CheckpointError: Says what the file has and what this run has.
    """
    saved = state["arguments"]
    others = [name for name in arguments if saved.get(name) != arguments[name]]
    if others:
        then, now = (
            ", ".join(_flag(name, flags.get(name)) for name in others)
            for flags in (saved, arguments)
        )
        raise CheckpointError(
            f"{path}: the file was saved with {then} and this run has {now}; go on with the "
            "arguments it began with."
        )
    symbols = state["vocabulary"]["symbols"]
    if symbols != vocabulary.symbols:
        strange = next((s for s in vocabulary.symbols if s not in set(symbols)), None)
        example = "in another order" if strange is None else f"such as {strange!r}"
        raise CheckpointError(
            f"{path}: the file's vocabulary of {len(symbols):,} symbols is not that of this "
            f"corpus, which has {len(vocabulary):,}, {example}; give the --data it was trained on."
        )


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators of random numbers where they were when a checkpoint was written."""
    torch.set_rng_state(state["rng"]["cpu"])
    # A run may go on on a machine with fewer GPUs, or none; it is then not the same to the bit.
    for index, generator in enumerate(state["rng"]["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, index)


def best_model(state: Mapping[str, Any]) -> tuple[LanguageModel, Vocabulary]:
    """The model with the lowest validation loss and its vocabulary, from a checkpoint."""
    vocabulary = Vocabulary(**state["vocabulary"])
    model = LanguageModel(len(vocabulary), **state["model"])
    model.load_state_dict(state["progress"]["best"] or state["learner"]["model"])
    return model.eval(), vocabulary


def _flag(name: str, value: object) -> str:
    if value is None or value is False:
        return f"no --{name}"
    return f"--{name}" if value is True else f"--{name} {value}"


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
