"""The benchmark of the time of a window writes a row for every method."""

from __future__ import annotations

from pathlib import Path

from test_benchmarks import cells, run


def test_window_time_writes_a_row_for_every_method(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = run("window_time.py", "--output", page, "--cases", "copy-64")
    assert done.returncode == 0, done.stderr
    rows = cells(page, "bits")
    methods = ["DNI", "DNI, train_every 2", "DNI, train_every 4"]
    assert [row[1] for row in rows] == [*methods, "DNI, hidden layer of 64", "DNI + aux"]
    for _, _, bptt, dni, ratio, _ in rows:
        assert min(float(bptt), float(dni), float(ratio)) > 0
    assert "python benchmarks/window_time.py --quick" in page.read_text(encoding="utf-8")


def test_window_quality_has_a_row_and_a_run_for_every_train_every(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    done = run("window_quality.py", "--output", file, "--seeds", "0")
    assert done.returncode == 0, done.stderr
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
    assert [f"train_every {k} |" in done.stdout for k in (1, 2, 4)] == [True] * 3
