"""The benchmark of the time of a window writes a row for every method."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from dni import TemporalDNI
from test_benchmarks import BENCHMARKS, cells, run


def test_window_time_writes_a_row_for_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")  # a compiler takes a minute
    page = tmp_path / "page.md"
    done = run("window_time.py", "--output", page, "--cases", "copy-64", "task")
    assert done.returncode == 0, done.stderr
    rows = cells(page, "bits")
    methods = [
        "BPTT, torch.compile",
        "DNI",
        "DNI, compiled",
        "DNI, train_every 2",
        "DNI, train_every 4",
    ]
    methods += ["DNI, hidden layer of 64", "DNI + aux", "by hand, linear"]
    assert [row[1] for row in rows] == methods
    for _, _, bptt, dni, ratio, _ in rows:
        assert min(float(bptt), float(dni), float(ratio)) > 0
    methods = ["DNI", "DNI, compiled", "DNI that sees 16 answers"]
    assert [row[1] for row in cells(page, "tasks/copy")] == [*methods, f"{methods[2]}, compiled"]
    assert "python benchmarks/window_time.py --quick" in page.read_text(encoding="utf-8")


def test_window_quality_has_a_row_and_a_run_for_every_train_every(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    done = run("window_quality.py", "--output", file, "--seeds", "0")
    assert done.returncode == 0, done.stderr
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
    assert [f"train_every {k} |" in done.stdout for k in (1, 2, 4)] == [True] * 3


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_window_by_hand_learns_what_the_wrapper_does(
    kind: type[nn.RNNBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    window_time = importlib.import_module("window_time")
    by_hand = importlib.import_module("window_by_hand")
    case = window_time.Case(
        title="", core=lambda: kind(3, 4, 2), units=4, inputs=3, classes=2, window=2, batch=5
    )
    torch.manual_seed(0)
    batches = window_time.windows(case, torch.device("cpu"))
    mine = window_time.Model(case, lambda core: core)
    wrapped = copy.deepcopy(mine)
    wrapped.core = TemporalDNI(wrapped.core)
    with torch.no_grad():
        state = wrapped(batches[0][0], None)[1]
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-3)
    step = by_hand.step_by_hand(mine, batches)
    for window, targets in batches:
        step()
        logits, state = wrapped(window, state)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
    assert wrapped.core.statistics()["state"]["synthetic_norm"] > 0
    theirs = [*wrapped.core.network.parameters(), *wrapped.decoder.parameters()]
    ours = [*mine.core.parameters(), *mine.decoder.parameters()]
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
