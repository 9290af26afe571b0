"""The benchmarks' real scripts, run for a few steps."""

from __future__ import annotations

import argparse
import dataclasses
import doctest
import importlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"

PEER = """\
import torch

class DNI(torch.nn.Module):
    def __init__(self, network, grad_optim, grad_lr, hidden_size):
        super().__init__()
        self.network = network

    def forward(self, value):
        {body}
"""


Helper = Callable[[str], ModuleType]
"""Imports a file of the benchmarks' folder by its name."""


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Helper:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def run(script: str, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a benchmark with the package of this working tree."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--quick", "--threads", "1", *map(str, flags)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def cells(page: Path, start: str) -> list[list[str]]:
    """The cells of the page's table rows whose first cell begins with `start`."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in found if row[0].startswith(start)]


def write_wheel(folder: Path, body: str) -> Path:
    """A package that pip installs without a build and whose import name is `dni`."""
    wheel = folder / "rival-1.0-py3-none-any.whl"
    info = "rival-1.0.dist-info"
    files = {
        "dni/__init__.py": PEER.format(body=body),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return wheel


def write_mnist(folder: Path, count: int = 300) -> None:
    """Random images in MNIST's files."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count * 28 * 28,), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator, dtype=torch.uint8)
    for part in ("train", "t10k"):
        images = struct.pack(">IIII", 2051, count, 28, 28) + bytes(pixels.tolist())
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        classes = struct.pack(">II", 2049, count) + bytes(labels.tolist())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(classes)


def test_step_time_writes_a_row_for_every_contender(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = run("step_time.py", "--output", page, "--cases", "fcn-3", "cnn", "lstm")
    assert done.returncode == 0, done.stderr
    for case, kinds in {
        "FCN": ["linear"],
        "CNN": ["linear", "conv2d"],
        "LSTM": ["linear", "rnn"],
    }.items():
        rows = cells(page, case)
        expected = [(f"{kind}, 10", mixing) for kind in kinds for mixing in ("0.5", "0")]
        if case == "FCN":  # one label per sample at every site
            names = ["critic", "critic, `train_every=2`", "critic, `train_every=4`"]
            names.append("by hand, fixed heads")
            expected += [(name, mixing) for name in names for mixing in ("0", "0, unlocked")]
        assert [(row[1], row[2]) for row in rows] == expected
        for _, kind, _, backprop, dni, ratio, _, floor in rows:
            assert min(float(backprop), float(dni), float(ratio)) > 0
            assert floor == "" if kind.startswith("by hand") else float(floor) > 1
    text = page.read_text(encoding="utf-8")
    assert "python benchmarks/step_time.py --quick" in text
    assert f"torch: {torch.__version__}" in text


def test_step_time_measures_a_peer_of_the_same_name(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    wheel = write_wheel(tmp_path, "return self.network(value)")
    done = run("step_time.py", "--output", page, "--cases", "fcn-3", "--peer", wheel)
    assert done.returncode == 0, done.stderr
    peer = cells(page, "FCN")[-1]
    assert peer[1] == "10"
    assert float(peer[4]) > 0


@pytest.mark.parametrize("fault", ["crash", "absent"])
def test_a_peer_that_fails_is_reported(fault: str, tmp_path: Path, helper: Helper) -> None:
    wheel = write_wheel(tmp_path, "raise RuntimeError('it is broken')")
    if fault == "absent":
        wheel.unlink()
    paragraphs = helper("peer").peer_paragraphs(
        str(wheel),
        ["fcn-3"],
        torch.device("cpu"),
        hidden_sizes=[10, 40],
        repeats=2,
        block_seconds=0.01,
    )
    text = "\n".join(paragraphs)
    if fault == "crash":
        assert "- fcn-3 fails: RuntimeError: it is broken" in text
        assert text.count(" fails |") == text.count("FCN") == 1
    else:
        assert "Not measured: " in text


def test_mnist_fcn_makes_only_the_runs_that_are_missing(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    page, results = tmp_path / "page.md", tmp_path / "page.jsonl"
    flags = ("--output", page, "--data-dir", tmp_path)
    first = run("mnist_fcn.py", *flags)
    assert first.returncode == 0, first.stderr
    kinds = ["DNI, λ = 0.5", "DNI, λ = 0, labels", "DNI, λ = 0, critic"]
    assert [row[0] for row in cells(page, "DNI")] == kinds
    assert (tmp_path / "page.png").stat().st_size > 10_000

    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 1 + len(kinds)
    results.write_text(lines[0] + lines[1][:50], encoding="utf-8")
    second = run("mnist_fcn.py", *flags)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("finished before") == 1
    again = results.read_text(encoding="utf-8").splitlines()
    assert again[0] == lines[0].strip()
    errors = [json.loads(line)["errors"] for line in (*again[2:], *lines[1:])]
    assert errors[: len(kinds)] == errors[len(kinds) :]


def test_mnist_fcn_says_so_when_the_data_is_absent(tmp_path: Path) -> None:
    done = run("mnist_fcn.py", "--output", tmp_path / "page.md", "--data-dir", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"MNIST is not in `{tmp_path / 'MNIST' / 'raw'}`" in done.stderr
    assert "--data-dir" in done.stderr


def test_the_table_of_mnist_and_the_page_of_depths_share_their_runs(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    table, depth = tmp_path / "mnist.md", tmp_path / "depth.md"
    flags = ("--data-dir", tmp_path, "--output")
    first = run("mnist_table.py", *flags, table, "--layers", "3", "--networks", "FCN")
    assert first.returncode == 0, first.stderr
    [row] = cells(table, "FCN 3")
    assert len(row) == 11
    assert "-" not in row  # each of the seven methods, and three differences
    assert cells(table, "CNN 3")[0][1:] == ["-"] * 10
    runs = [json.loads(line) for line in (tmp_path / "mnist.jsonl").read_text().splitlines()]
    assert [len(some["errors"]) for some in runs] == [len(some["validation"]) for some in runs]

    second = run("depth.py", *flags, depth, "--layers", "3", "1", "--methods", "backprop", "critic")
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("finished before") == 2
    assert cells(depth, "3")[0][1] == row[2]
    assert (tmp_path / "depth.png").stat().st_size > 10_000

    (tmp_path / "mnist.jsonl").unlink()
    third = run("mnist_table.py", *flags, table, "--report")
    assert third.returncode == 0, third.stderr
    assert cells(table, "FCN 3")[0][1:] == ["-"] * 10


def test_a_killed_page_of_runs_loses_the_run_in_progress_alone(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "page.jsonl"
    flags = ("--output", page, "--layers", "3", "--methods", "backprop", "critic")
    first = run("small_data.py", *flags)
    assert first.returncode == 0, first.stderr
    names = ["digits", "patches", "breast cancer", "wine", "iris"]
    assert all(len(cells(page, name)) == 3 for name in names)
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 2 * len(names)
    results.write_text("".join(lines[:-1]) + lines[-1][:70], encoding="utf-8")
    second = run("small_data.py", *flags)
    assert second.stdout.count("finished before") == len(lines) - 1
    again = results.read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(again)["errors"] == json.loads(lines[-1])["errors"]


def test_unlocking_has_a_row_for_every_way_of_training(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    page = tmp_path / "page.md"
    flags = ("--output", page, "--data-dir", tmp_path)
    done = run("unlocking.py", *flags)
    assert done.returncode == 0, done.stderr
    rows = cells(page, "backprop") + cells(page, "critic")
    settings = ["", "", "`unlock='forward'`", "`update_probability=0.2`"]
    assert [row[1] for row in rows] == settings
    assert all(0 < float(row[2].split()[0]) < 100 for row in rows)
    assert [len(row[-1].split(", ")) for row in rows] == [1, 4, 4, 4]
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_wide_has_errors_beside_the_times_of_a_step(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    page = tmp_path / "page.md"
    done = run("wide.py", "--output", page, "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    backprop, *critics = cells(page, "backprop") + cells(page, "linear critic")
    assert backprop[3:] == ["", ""]
    assert [row[0].removeprefix("linear critic") for row in critics] == [
        "",
        ", every 2nd",
        ", every 4th",
    ]
    for row in critics:
        assert 0 < float(row[1].split()[0]) < 100
        assert all(float(ratio.split()[0]) > 0 for ratio in row[3:])
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_label_free_gives_images_and_no_labels(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    page = tmp_path / "page.md"
    done = run("label_free.py", "--output", page, "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [*cells(page, "linear"), *cells(page, "label_free_critic")]
    assert [row[0] for row in rows] == ["linear", "linear_batchnorm", "label_free_critic"]
    assert all(len(row[-1].split(", ")) == 3 for row in rows)
    lines = page.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    contexts = [json.loads(line)["settings"].get("context") for line in lines]
    assert contexts == [None, False, "image", "image"]


@pytest.mark.slow
def test_resnet_shows_memory_and_learning(tmp_path: Path) -> None:
    write_mnist(tmp_path, 100)
    page = tmp_path / "page.md"
    done = run("resnet.py", "--output", page, "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    backprop, checkpointing, critic, unlocked, fitted = (
        *cells(page, "backprop"),
        *cells(page, "checkpointing"),
        *cells(page, "critic"),
    )
    assert float(unlocked[1]) < float(checkpointing[1]) < float(backprop[1]) < float(critic[1])
    assert float(fitted[1]) < float(checkpointing[1])
    assert min(float(row[4]) for row in (backprop, unlocked, fitted)) > 0
    assert checkpointing[4:] == critic[4:] == ["-"] * 3
    assert (tmp_path / "page.png").stat().st_size > 10_000
    [line, *_] = (tmp_path / "page.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(json.loads(line)["losses"]) == len(json.loads(line)["errors"]) == 1


def test_the_epoch_is_chosen_on_validation(helper: Helper) -> None:
    run = helper("runs").Run(
        row="critic",
        seed=0,
        settings={},
        errors=[3.0, 2.5, 1.0],
        validation=[2.0, 1.5, 1.5],
        seconds=1.0,
        cosines={},
        commit="",
    )
    assert helper("trials").selected(run) == 2.5
    anew = {"renewed": [1.0, 2.0, 3.0], "renewed_validation": [2.0, 3.0, 1.0]}
    assert helper("trials").renewed(dataclasses.replace(run, **anew)) == 3.0


def test_statistics_are_taken_anew_for_an_evaluation_alone(helper: Helper) -> None:
    norm = torch.nn.BatchNorm1d(2)
    samples = torch.randn(200, 2) * 3 + 1
    norm(samples + 5)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with helper("trials").renewed_statistics(norm, samples):
        norm.eval()
        output = norm(samples)
        norm.train()
    assert output.mean(0).abs().max() < 1e-4
    assert (output.std(0) - 1).abs().max() < 0.02
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.momentum == 0.1


def test_a_depth_that_no_run_has_is_refused(helper: Helper, tmp_path: Path) -> None:
    plans = [("critic", 0, {"layers": 3}), ("critic", 0, {"layers": 5})]
    options = argparse.Namespace(layers=[3, 4], report=True, output=tmp_path / "page.md")
    with pytest.raises(SystemExit, match=r"--layers 4: no run has that; choose from 3, 5\."):
        helper("trial_tables").finish_and_read(plans, options, None)


def test_without_backprop_the_output_layer_alone_learns(helper: Helper) -> None:
    trials = helper("trials")
    part = (torch.randn(20, 784), torch.arange(20) % 10)
    data = trials.Data(train=part, valid=part, test=part)
    settings = trials.settings_of(trials.NO_BACKPROP, network="CNN", layers=2, units=2)
    network, learn = trials.learner(trials.NO_BACKPROP, trials.build(settings, data), settings)
    before = {name: value.clone() for name, value in network.named_parameters()}
    learn(*part)
    moved = {n for n, value in network.named_parameters() if not torch.equal(value, before[n])}
    assert moved == {"output.weight", "output.bias"}


def test_the_memory_of_a_step_is_measured_for_every_method(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = helper("memory")
    monkeypatch.setattr(memory, "BATCH", 64)
    saved = {
        (method, depth): memory.measure(method, depth, torch.device("cpu")).saved
        for method in memory.METHODS
        for depth in (2, 6)
    }
    growth = {method: saved[method, 6] - saved[method, 2] for method in memory.METHODS}
    assert growth[memory.UNLOCKED] < 0.05 * growth[memory.CHECKPOINT] < growth[memory.BACKPROP]
    # What waits between two sites counts as well: two activations at least.
    assert saved[memory.UNLOCKED, 2] > 2 * 64 * memory.UNITS * 4 / memory.MIB


@pytest.mark.parametrize("case", ["fcn-3", "cnn"])
def test_multiply_adds_agree_with_torchs_count(case: str, helper: Helper) -> None:
    workloads = helper("workloads")
    network, value, target = workloads.WORKLOADS[case].on(torch.device("cpu"))
    learn = workloads.backprop(network)
    oracle = FlopCounterMode(display=False)
    with oracle, helper("multiply_adds").multiply_adds(network.modules()) as count:
        learn(value, target)
    assert 2 * count.total == oracle.get_total_flops()


@pytest.mark.parametrize("name", ["report", "multiply_adds"])
def test_doctests(name: str, helper: Helper) -> None:
    result = doctest.testmod(helper(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_what_a_head_says_by_hand_is_the_gradient_of_its_loss(helper: Helper) -> None:
    head, seen = torch.randn(10, 6).double(), torch.randn(5, 6).double().requires_grad_()
    target = torch.arange(5)
    torch.nn.functional.cross_entropy(seen @ head.t(), target).backward()
    labels = torch.nn.functional.one_hot(target, 10).t().double()
    said = helper("by_hand").synthetic(head, seen.detach(), labels)
    torch.testing.assert_close(said, seen.grad)


def test_steps_by_hand_learn_the_same_locked_and_unlocked(helper: Helper) -> None:
    workload, networks = helper("workloads").WORKLOADS["fcn-3"], []
    for is_unlocked in (False, True):
        torch.manual_seed(0)
        network = workload.build()
        batch = workload.batch()
        given = dataclasses.replace(
            workload, build=lambda made=network: made, batch=lambda made=batch: made
        )
        learn = helper("by_hand").step_by_hand(given, torch.device("cpu"), is_unlocked=is_unlocked)
        before = network.output.weight.detach().clone()
        for _ in range(2):
            learn()
        assert not torch.equal(before, network.output.weight)
        networks.append(network.state_dict())
    for name, value in networks[0].items():
        torch.testing.assert_close(networks[1][name], value, rtol=0, atol=1e-6)
