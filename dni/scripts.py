"""What training scripts share: numbers of a command line, and checkpoints that fit it."""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError
from .files import written_whole

# -- the command line --------------------------------------------------------------------------


def number(
    convert: Callable[[str], float], accept: Callable[[float], bool], need: str
) -> Callable[[str], Any]:
    """A ``type`` for `argparse` that takes some numbers.

    Args:
        convert: ``int`` or ``float``.
        accept: Which it takes; not a number is put to it where the text is none.
        need: What it takes, in words.

    Example:
        >>> even = number(int, lambda value: value % 2 == 0, "an even number")
        >>> even("4")
        4
        >>> even("four")
        Traceback (most recent call last):
            ...
        argparse.ArgumentTypeError: 'four' is not an even number
    """

    def parse_number(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {need}")
        return value

    return parse_number


positive = number(int, lambda value: value >= 1, "a whole number from 1 up")
not_negative = number(int, lambda value: value >= 0, "a whole number from 0 up")
seed = number(int, lambda value: 0 <= value < 2**31, "a whole number from 0 to 2147483647")
above_zero = number(float, lambda value: 0 < value < math.inf, "a number above 0")
from_zero = number(float, lambda value: 0 <= value < math.inf, "a number from 0 up")


def device(text: str) -> str:
    """A ``type`` for `argparse`: the name of a device that can be used here."""
    try:
        torch.empty(0, device=torch.device(text))
    except (AssertionError, NotImplementedError, RuntimeError) as err:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here") from err
    return text


def make_folders(parser: argparse.ArgumentParser, *, save: Path | None, output: Path) -> None:
    """Make the folders of ``--save`` and ``--output``, or leave as `argparse` does on a fault.

    Args:
        parser: Says what is wrong.
        save: The file that a checkpoint goes to.
        output: The folder that plots go to.
    """
    if save is not None and save.is_dir():
        parser.error(f"--save {save} is a folder; a file is needed")
    for name, folder in {"output": output, "save": save.parent if save else None}.items():
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            parser.error(f"--{name}: the folder {folder} cannot be made ({err.strerror})")


def flags(options: argparse.Namespace, *, free: Collection[str]) -> dict[str, Any]:
    """What a run must share with a checkpoint to go on from it: every flag but the free ones.

    Example:
        >>> flags(argparse.Namespace(batch_size=8, save="run.pt"), free={"save"})
        {'batch-size': 8}
    """
    return {k.replace("_", "-"): v for k, v in vars(options).items() if k not in free}


# -- checkpoints -------------------------------------------------------------------------------


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; a crash or Ctrl-C while writing leaves the file before it intact."""
    with written_whole(path) as file:
        torch.save(dict(state), file)


def load_state(
    path: Path, kind: Mapping[str, Any], keys: Collection[str], *, name: str
) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU and without running code that it may contain.

    Args:
        path: The file.
        kind: Values it must have, such as a version.
        keys: The keys it must have besides.
        name: What messages call it, such as ``"--resume run.pt"``.

    Raises:
        CheckpointError: The file is missing, cannot be read or is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise CheckpointError(f"{name}: there is no such file.") from err
    except OSError as err:
        raise CheckpointError(f"{name}: cannot be read ({err.strerror}).") from err
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as err:
        raise CheckpointError(f"{name}: this is not a checkpoint file.") from err
    is_ours = isinstance(state, dict) and set(state) == {*kind, *keys}
    if not is_ours or any(state[key] != value for key, value in kind.items()):
        raise CheckpointError(f"{name}: this is not a checkpoint that --save wrote.")
    known: dict[str, Any] = state
    return known


def check_flags(saved: Mapping[str, Any], given: Mapping[str, Any], *, name: str) -> None:
    """Refuse a checkpoint of a run with other arguments.

    Args:
        saved: Flags and values it was written with.
        given: Those of this run.
        name: What messages call the file.

    Raises:
        CheckpointError: Says what the file has and what this run has.
    """
    others = [flag for flag in given if saved.get(flag) != given[flag]]
    if others:
        then, now = (
            ", ".join(_shown(flag, values.get(flag)) for flag in others)
            for values in (saved, given)
        )
        raise CheckpointError(
            f"{name}: the file was saved with {then} and this run has {now}; go on with the "
            "arguments it began with."
        )


def random_state() -> dict[str, Any]:
    """Where torch's generators of random numbers are."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where `random_state` found them."""
    torch.set_rng_state(state["cpu"])
    # A run may go on on a machine with fewer GPUs, or none; it is then not the same to the bit.
    for index, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, index)


def _shown(flag: str, value: object) -> str:
    if value is None or value is False:
        return f"no --{flag}"
    return f"--{flag}" if value is True else f"--{flag} {value}"
