"""What the scripts of tasks/ share: files that are whole, and checkpoints that are refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import CheckpointError
from dni.files import written_whole
from dni.scripts import above_zero, check_flags, load_state, number, positive, save_state

KIND, KEYS = {"version": 1}, ("weights",)


class Interrupted:
    """Ctrl-C comes while this is pickled."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def test_ctrl_c_while_a_state_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_state(path, {**KIND, "weights": torch.ones(2)})
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {**KIND, "weights": [torch.zeros(100_000), Interrupted()]})
    assert load_state(path, KIND, KEYS, name="run")["weights"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_an_error_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with written_whole(path) as file:
            file.write(b"half")
            raise RuntimeError("oh")

    with pytest.raises(RuntimeError, match="oh"):
        write()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"version": 2, "weights": 1}, "run: this is not a checkpoint that --save wrote"),
        ({"version": 1}, "not a checkpoint that --save wrote"),
        ({"version": 1, "weights": 1, "more": 1}, "not a checkpoint that --save wrote"),
        ([1], "not a checkpoint that --save wrote"),
    ],
)
def test_other_states_are_refused(state: Any, message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=message):
        load_state(tmp_path / "run.pt", KIND, KEYS, name="run")


def test_flags_that_differ_are_named_as_one_types_them() -> None:
    saved = {"units": 8, "tied": False, "clip": None, "seed": 0}
    check_flags(saved, dict(saved), name="run")
    with pytest.raises(CheckpointError) as info:
        check_flags(saved, {"units": 8, "tied": True, "clip": 0.5, "seed": 0}, name="run")
    assert "saved with no --tied, no --clip and this run has --tied, --clip 0.5;" in str(info.value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(positive, "0"), (positive, "1.5"), (above_zero, "nan"), (above_zero, "inf"), (number, "")],
)
def test_what_is_no_such_number_is_refused(parse: Any, text: str) -> None:
    if parse is number:
        parse = number(int, lambda value: value >= 0, "a whole number")
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a"):
        parse(text)
