"""Checkpoint files: whole or not at all, plain values alone, and errors that say what is wrong."""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from dni.errors import CheckpointError
from dni.trainer.checkpoint import Checkpoints, differences, latest, load, save
from dni.trainer.randomness import random_state, seed_all, set_random_state

STATE = {"version": 1, "counters": {"step": 3}}


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values = {"tensor": torch.arange(3.0), "tuple": (1, None, "a"), "list": [True, 0.5], 3: {4}}
    save(tmp_path / "new" / "a.pt", STATE | {"values": values})
    back = load(tmp_path / "new" / "a.pt")["values"]
    assert torch.equal(back.pop("tensor"), values.pop("tensor"))
    assert back == values


def test_numpy_and_paths_become_plain(tmp_path: Path) -> None:
    odd = {"a": numpy.float64(0.5), "b": numpy.arange(2), "c": Path("x"), "d": OrderedDict(e=1)}
    save(tmp_path / "a.pt", STATE | odd)
    back = load(tmp_path / "a.pt")
    assert (back["a"], back["b"].tolist(), back["c"], back["d"]) == (0.5, [0, 1], "x", {"e": 1})


def test_what_cannot_be_read_back_is_refused_before_it_is_written(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", STATE)
    with pytest.raises(CheckpointError, match=r"callbacks/Mine/1 is a function"):
        save(tmp_path / "a.pt", STATE | {"callbacks": {"Mine": [0, lambda: 1]}})
    assert load(tmp_path / "a.pt") == STATE


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    save(tmp_path / "a.pt", STATE)
    monkeypatch.setattr(os, at, fail)
    with pytest.raises(CheckpointError, match=r"could not be written: .*No space left"):
        save(tmp_path / "a.pt", STATE | {"more": 1})
    monkeypatch.undo()
    assert load(tmp_path / "a.pt") == STATE
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="choose another folder"):
        save(tmp_path / "file" / "a.pt", STATE)


def test_files_that_are_no_checkpoints_are_told(tmp_path: Path) -> None:
    save(tmp_path / "good.pt", STATE)
    with pytest.raises(CheckpointError, match="there are: good.pt"):
        load(tmp_path / "goood.pt")
    data = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"is a folder, and .* one of .*good\.pt\."):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "cut.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint that this trainer wrote"):
        load(tmp_path / "other.pt")
    save(tmp_path / "old.pt", STATE | {"version": 0})
    with pytest.raises(CheckpointError, match="has version 0"):
        load(tmp_path / "old.pt")


def test_the_newest_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep_last=2)
    (tmp_path / ".step-00000001.pt.99.tmp").write_bytes(b"half")
    (tmp_path / "mine.pt").write_bytes(b"")
    for step in (5, 10, 15):
        kept.add(STATE, step=step)
    kept.add(STATE, step=15, score=-0.5)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step-00000010.pt", "step-00000015_-0.5.pt", "mine.pt"}
    assert latest(tmp_path) == kept.newest()[0] == kept.best()[0]
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        latest(tmp_path / "other")


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep_best=1)
    for step, score in enumerate([1e-7, float("nan"), float("-inf")]):
        kept.add(STATE, step=step, score=score)
    assert [path.name for path in kept.best()] == ["step-00000000_1e-07.pt"]


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_best": -1}, {"mode": "most"}])
def test_policies_that_cannot_be_are_told(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="are needed"):
        Checkpoints(tmp_path, **options)


def test_random_generators_go_back_to_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), numpy.random.rand()

    seed_all(5)
    random.gauss(0, 1)
    numpy.random.randn()
    save(tmp_path / "a.pt", STATE | {"random": random_state()})
    first = draw()
    draw()
    set_random_state(load(tmp_path / "a.pt")["random"])
    assert draw() == first
    seed_all(5)
    second = draw()
    seed_all(5)
    assert draw() == second


def test_differences_name_the_path() -> None:
    assert differences({"a": [1], "b": {"c": 1}}, {"a": [1], "b": {"c": 1}}) == []
    assert differences({"a": {"b": [1]}}, {"a": {"b": [2]}, "c": 1}) == [
        "a/b: saved [1], now [2]",
        "c: saved absent, now 1",
    ]
