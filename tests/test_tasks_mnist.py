"""The scripts of tasks/mnist, run as a user runs them, for a few steps on the digits."""

from __future__ import annotations

import importlib
import math
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from task_scripts import ENVIRONMENT, PNG, ROOT, Scripts, assert_equal

MNIST = Scripts("mnist")
REAL_DATA = ROOT.parent / "shared" / "data"
SMALL = ["--units", "24", "--hidden-size", "8", "--batch-size", "256"]  # 5 batches an epoch


@pytest.mark.parametrize(
    ("script", "flags", "sites"),
    [
        ("fcn.py", ["--method", "backprop", "--layers", "1"], 0),
        ("fcn.py", [], 3),
        ("fcn.py", ["--lambda", "0", "--context", "--dni-network", "linear_batchnorm"], 3),
        ("conv.py", ["--filters", "8", "--layers", "3"], 3),
        ("conv.py", ["--filters", "8", "--lambda", "0", "--context"], 2),
    ],
    ids=["fcn-backprop", "fcn-dni", "fcn-dni-labels", "conv-dni", "conv-dni-labels"],
)
def test_script_trains_and_draws(tmp_path: Path, script: str, flags: list[str], sites: int) -> None:
    done = MNIST.run(tmp_path, script, "--max-steps", "4", "--output", "out", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    _, header, row, note, *_ = done.stdout.splitlines()
    assert header.count("cos hidden") == sites
    loss = float(row.split()[1])
    assert 0 < loss < 2 * math.log(10)
    assert note == "stopped within epoch 1, after 4 batches"
    (plot,) = (tmp_path / "out").iterdir()
    assert plot.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "flags",
    [["--method", "backprop", *SMALL[:2], *SMALL[4:]], ["--lambda", "0.3", "--context", *SMALL]],
    ids=["backprop", "dni"],
)
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, flags: list[str]) -> None:
    def train(*words: str) -> None:
        done = MNIST.run(tmp_path, "fcn.py", "--epochs", "3", *flags, *words)
        assert done.returncode == 0, done.stderr

    train("--save", "whole.pt")
    train("--save", "part.pt", "--max-steps", "7")  # within the second epoch
    part = torch.load(tmp_path / "part.pt", weights_only=True)
    assert (part["progress"]["epoch"], part["progress"]["step"]) == (1, 2)
    train("--save", "part.pt", "--resume", "part.pt")

    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert_equal(torch.load(tmp_path / "part.pt", weights_only=True), whole)
    assert len(whole["progress"]["history"]) == 3
    assert not list(tmp_path.glob("*.tmp"))


def test_interrupt_leaves_the_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    state = MNIST.interrupt(tmp_path, "fcn.py", *SMALL, "--epochs", "100000")
    assert state["progress"]["epoch"] >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.pt", "runs"]


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    small = [*SMALL, "--max-steps", "2"]
    saved = MNIST.run(tmp_path, "fcn.py", *small, "--save", "run.pt")
    assert saved.returncode == 0, saved.stderr
    (tmp_path / "text.pt").write_text("no checkpoint", encoding="utf-8")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    cases = {
        "fcn.py": [
            (["--layers", "4", "--resume", "run.pt"], "--layers 3 and this run has --layers 4"),
            (
                ["--context", "--resume", "run.pt"],
                "--dni-lr 0.0001, no --context and this run has --dni-lr 0.01",
            ),
            (["--resume", "absent.pt"], "no such file"),
            (["--resume", "."], "cannot be read"),
            (["--resume", "text.pt"], "not a checkpoint"),
            (["--resume", "other.pt"], "not a checkpoint"),
        ],
        "conv.py": [(["--resume", "run.pt"], "of fcn.py")],
    }
    for script, words in cases.items():
        if script == "conv.py":
            small = ["--max-steps", "2"]
        results = MNIST.run_all(tmp_path, script, [[*small, *flags] for flags, _ in words])
        for (code, _, errors), (_, expected) in zip(results, words, strict=True):
            assert code == 2, errors
            assert expected in errors
            assert len(errors.strip().splitlines()) == 1


def test_bad_arguments_give_one_sentence(tmp_path: Path) -> None:
    cases = [
        (["--lambda", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--lambda", "nan"], "'nan' is not a number from 0 to 1"),
        (["--layers", "0"], "'0' is not a whole number from 1 up"),
        (["--epochs", "two"], "'two' is not a whole number from 1 up"),
        (["--lr", "0"], "'0' is not a number above 0"),
        (["--seed", "-1"], "'-1' is not a whole number from 0"),
        (["--batch-size", "1"], "--batch-size 1 must be from 2 to 1437"),
        (["--batch-size", "1438"], "--batch-size 1438 must be from 2 to 1437"),
        (["--device", "abacus"], "'abacus' cannot be used here"),
        (["--dataset", "letters"], "invalid choice: 'letters'"),
        (["--dni-network", "lineal"], "linear"),
        (["--method", "backprop", "--context"], "needs --method dni"),
        (["--method", "backprop", "--lambda", "0"], "needs --method dni"),
        (["--method", "backprop", "--unlock", "update"], "needs --method dni"),
        (["--unlock", "update"], "pass `λ=0`"),
        (["--save", "."], "is a folder"),
        (["--output", "file.txt/plots"], "cannot be made"),
    ]
    (tmp_path / "file.txt").touch()
    results = MNIST.run_all(tmp_path, "fcn.py", [words for words, _ in cases])
    for (code, _, errors), (words, expected) in zip(results, cases, strict=True):
        assert code == 2, (words, errors)
        assert expected in errors, words
        assert errors.strip().splitlines()[-1].startswith("fcn.py: error: "), errors


def test_unlocked_and_compiled_runs_read_as_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No compiler is needed so; what is compiled has tests of its own.
    monkeypatch.setitem(ENVIRONMENT, "TORCH_COMPILE_DISABLE", "1")
    words = ["--max-steps", "4", "--lambda", "0", "--context", "--dni-network", "critic", *SMALL]
    rows = []
    for more in ([], ["--unlock", "update"], ["--unlock", "update", "--compile"]):
        done = MNIST.run(tmp_path, "fcn.py", *words, *more)
        assert done.returncode == 0, done.stderr
        rows.append(done.stdout.splitlines()[2].split()[:3])
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["Backprop", "Decoupled"])
def test_what_is_to_be_compiled_is(
    name: str, monkeypatch: pytest.MonkeyPatch, fresh_compiler: None
) -> None:
    monkeypatch.syspath_prepend(MNIST.folder)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    modules = ("learners", "data")  # as other tasks call theirs
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    learners = importlib.import_module("learners")
    for module in modules:
        monkeypatch.setitem(sys.modules, module, sys.modules.pop(module))
    network = nn.Sequential(OrderedDict(hidden=nn.Linear(4, 8), output=nn.Linear(8, 10)))
    own = {"sites": ["hidden"], "synthesis": learners.Synthesis()} if name == "Decoupled" else {}
    learner = getattr(learners, name)(network, lr=1e-3, compiles=True, **own)
    for _ in range(5):
        learner.learn(torch.randn(6, 4), torch.arange(6))
    assert counters["stats"]["unique_graphs"] > 0


@pytest.mark.parametrize("dataset", ["mnist", "fashion"])
def test_missing_data_offline_gives_one_sentence(tmp_path: Path, dataset: str) -> None:
    done = MNIST.run(tmp_path, "fcn.py", "--dataset", dataset, "--data-dir", "absent")
    assert done.returncode == 2
    (sentence,) = done.stderr.strip().splitlines()
    assert "`absent` does not hold" in sentence
    assert "--data-dir" in sentence


@pytest.mark.skipif(not (REAL_DATA / "MNIST").exists(), reason="no MNIST beside the repository")
def test_mnist_is_read_from_its_folder(tmp_path: Path) -> None:
    words = ["--dataset", "mnist", "--data-dir", str(REAL_DATA), "--max-steps", "3"]
    done = MNIST.run(tmp_path, "fcn.py", *words, "--units", "16")
    assert done.returncode == 0, done.stderr
    assert "60,000 + 10,000 images" in done.stdout


def test_demo_compares_the_methods(tmp_path: Path) -> None:
    done = MNIST.run(tmp_path, "demo.py", "--epochs", "1", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (top,) = [number for number, text in enumerate(lines) if text.startswith("method ")]
    rows = lines[top + 1 : top + 4]
    assert [row.split("  ")[0] for row in rows] == [
        "backprop",
        "DNI, λ = 0.5",
        "DNI, λ = 0, sees labels",
    ]
    assert len({len(row) for row in lines[top : top + 4]}) == 1  # aligned
    assert (tmp_path / "runs" / "demo.png").read_bytes().startswith(PNG)


def test_docstring_examples_run() -> None:
    assert MNIST.python(MNIST.folder, "-m", "doctest", "memory.py").returncode == 0
