"""The recurrent benchmark's real script, run for a few updates."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
FLAGS = ["--tasks", "copy", "repeat_copy", "--windows", "3", "--methods", "bptt", "cdni"]


def run(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark, its page and runs beside it in a folder of its own."""
    words = [sys.executable, str(BENCHMARKS / "recurrent.py"), "--quick", "--seeds", "0"]
    return subprocess.run(
        [*words, "--output", str(page), *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_runs_are_made_once_and_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    empty = run(page, "--report")
    assert empty.returncode != 0
    assert "No run is finished yet" in empty.stderr
    done = run(page, *FLAGS)
    assert done.returncode == 0, done.stderr
    lines = page.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    made = [(each["settings"]["task"], each["row"]) for each in runs]
    assert sorted(made) == [(t, m) for t in ("copy", "repeat_copy") for m in ("bptt", "cdni")]
    assert all(each["settings"]["updates"] == 60 for each in runs)
    assert [bool(each["cosines"]) for each in runs] == [row == "cdni" for _, row in made]
    assert all(each["errors"] and each["seconds"] > 0 for each in runs)

    again = run(page, *FLAGS[:-3], "--methods", "bptt")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") == 2
    assert page.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines() == lines
    text = page.read_text(encoding="utf-8")
    for title in ("## Copy", "## Repeat copy"):
        table = text.split(title)[1].split("\n\n")[1]
        assert [row.split("|")[2].strip() for row in table.splitlines()[2:]] == ["bptt", "cdni"]
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "copy", "--methods", "bpt"], "copy have no 'bpt'; choose from bptt, cdni"),
        (["--methods", "bptt", "nothing", "--report"], "have no 'nothing'; choose from"),
        (["--windows", "3", "0"], "--windows: steps from 1 up"),
    ],
)
def test_rows_that_are_not_there_are_refused(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["recurrent.py", *words])
    with pytest.raises(SystemExit) as left:
        importlib.import_module("recurrent").arguments()
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_pattern_follows_from_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("recurrent_copy")
    results = doctest.testmod(module)
    assert (results.failed, results.attempted) == (0, 1)
    lattice = {0: 0, 5: 1, 7: 2, 9: 2, 12: 3, 15: 3, 19: 4, 23: 4, 28: 5, 33: 5, 75: 8}
    assert {steps: module.pattern("repeat_copy", steps) for steps in lattice} == lattice
