"""The benchmark of the time of a window writes a row for every method."""

from __future__ import annotations

from pathlib import Path

from test_benchmarks import cells, run


def test_window_time_writes_a_row_for_every_method(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = run("window_time.py", "--output", page, "--cases", "copy-64")
    assert done.returncode == 0, done.stderr
    rows = cells(page, "bits")
    assert [row[1] for row in rows] == ["DNI", "DNI, hidden layer of 64", "DNI + aux"]
    for _, _, bptt, dni, ratio, _ in rows:
        assert min(float(bptt), float(dni), float(ratio)) > 0
    assert "python benchmarks/window_time.py --quick" in page.read_text(encoding="utf-8")
