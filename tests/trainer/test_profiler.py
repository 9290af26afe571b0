"""The profiler writes what torch saw, and times callbacks without changing what they hear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_task import make

from dni.errors import ConfigError
from dni.trainer.callbacks import Metrics, Profiler
from dni.trainer.events import Callback


def test_it_writes_operators_a_trace_and_the_callbacks(tmp_path: Path) -> None:
    trainer = make(Metrics(), profiler := Profiler(skip=1, warmup=1, steps=2), folder=tmp_path)
    trainer.fit()
    folder = tmp_path / "profile"
    assert "aten::addmm" in (folder / "operators.txt").read_text()
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(e.get("name", "").startswith("ProfilerStep#") for e in events) >= 2
    table = (folder / "callbacks.txt").read_text()
    assert "Metrics.on_step_end" in table
    calls, seconds = profiler.times["Metrics.on_step_end"]
    assert calls == 15 + 3 * 3  # of training and of validation
    assert 0 < seconds < 60


def test_callbacks_hear_the_same_and_the_clocks_go_with_the_run() -> None:
    class Ears(Callback):
        events = ("mine",)

        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_step_end(self, trainer: Any, phase: Any) -> None:
            self.heard.append(phase.name)
            trainer.handle("mine", phase, value=len(self.heard))

        def on_mine(self, trainer: Any, phase: Any, value: int) -> None:
            self.heard.append(str(value))

    make(plain := Ears()).fit()
    trainer = make(timed := Ears(), Profiler(steps=0))
    trainer.fit()
    assert timed.heard == plain.heard
    assert trainer.callbacks.handlers["step_end"][0] == timed.on_step_end


def test_a_run_shorter_than_the_recording_still_ends_well(tmp_path: Path) -> None:
    make(Profiler(skip=50), folder=tmp_path, max_steps=3).fit()
    assert [p.name for p in (tmp_path / "profile").iterdir()] == ["callbacks.txt"]


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="skip=-1"):
        Profiler(skip=-1)
