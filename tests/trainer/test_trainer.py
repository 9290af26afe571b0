"""The trainer: what it is given, counters, modes, errors, and what it leaves as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loops
import pytest
import torch
from torch import nn

from dni.errors import ConfigError
from dni.trainer.data import Source
from dni.trainer.datasets import Tensors
from dni.trainer.events import Callback, CancelEpoch, CancelFit
from dni.trainer.phases import Phase, TrainingPhase, ValidationPhase
from dni.trainer.state import State
from dni.trainer.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent.parent


def counters(trainer: Trainer) -> tuple[int, int, int]:
    return trainer.counters.step, trainer.counters.epoch, trainer.counters.batch


def test_it_learns() -> None:
    class Report(Callback):
        def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
            trainer.record.scalar("validation/loss", trainer.step["loss/regress/square"])

    trainer = loops.make([Report()], samples=64, max_epochs=20)
    before = trainer.evaluate()["loss"]
    trainer.fit()
    assert trainer.evaluate()["loss"] < before / 10


def test_counters_before_and_after_each_event() -> None:
    notes = loops.Notes(counters)
    loops.make([notes], samples=8, checkpoint_steps=1).fit()
    seen = {line: count for line, count in reversed(notes.lines)}
    assert seen["train step_begin"] == seen["train log"] == (0, 0, 0)
    assert seen["train checkpoint"] == (1, 0, 1)
    assert seen["validation validate_end"] == seen["train epoch_end"] == (2, 0, 2)
    assert seen["train fit_end"] == (2, 1, 0)


@pytest.mark.parametrize(
    ("options", "reason", "steps"),
    [
        ({"max_epochs": 3}, "max_epochs", 6),
        ({"max_epochs": None, "max_steps": 5}, "max_steps", 5),
        ({"max_epochs": 2, "max_steps": 50}, "max_epochs", 4),
        ({"max_epochs": 2, "max_steps": 4}, "max_steps", 4),
        ({"max_epochs": 0}, "max_epochs", 0),
    ],
)
def test_it_ends_where_it_should(options: dict[str, Any], reason: str, steps: int) -> None:
    trainer = loops.make(**options)
    assert trainer.fit() == reason
    assert trainer.counters.step == steps
    assert trainer.counters.samples == 4 * steps


def test_validation_and_checkpoints_when_they_are_due() -> None:
    notes = loops.Notes(counters)
    options = {"validate_epochs": 2, "validate_steps": 3, "checkpoint_epochs": None}
    loops.make([notes], max_epochs=4, checkpoint_steps=4, **options).fit()
    steps = {
        event: [count[0] for line, count in notes.lines if line.endswith(event)]
        for event in ("validate_end", "checkpoint")
    }
    assert steps == {"validate_end": [3, 4, 6, 8], "checkpoint": [4, 8]}


def test_it_validates_and_saves_at_the_end_of_a_run_cut_by_steps() -> None:
    notes = loops.Notes(counters)
    options = {"validate_epochs": 5, "checkpoint_epochs": 5}
    loops.make([notes], max_epochs=None, max_steps=3, **options).fit()
    ends = [line for line, _ in notes.lines][-4:]
    assert ends == [
        "validation validate_end",
        "train checkpoint",
        "train epoch_end",
        "train fit_end",
    ]


def test_a_seed_makes_the_run_the_same_whatever_was_drawn_before() -> None:
    runs = []
    for seed in (0, 0, 1):
        torch.rand(7)
        trainer = loops.make(samples=16, seed=seed)
        torch.rand(len(runs))
        trainer.fit()
        runs.append(loops.parameters(trainer))
    assert loops.equal(runs[0], runs[1])
    assert not loops.equal(runs[0], runs[2])


def test_modes_and_gradients_in_both_phases() -> None:
    seen = []

    def step(trainer: Trainer, batch: State, phase: Phase) -> None:
        modes = [m.training for m in trainer.networks["net"].modules()]
        seen.append((phase.training, modes, torch.is_grad_enabled()))

    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    net[1].eval()
    source = Source(Tensors(x=torch.ones(2, 1)))
    data = {"train": source, "validation": source}
    Trainer({"net": net}, {"step": step}, data, max_epochs=1).fit()
    # The part that its user froze stays frozen.
    assert seen == [
        (True, [True, True, False], True),
        (False, [False, False, False], False),
    ]
    assert [m.training for m in net.modules()] == [True, True, False]


def test_networks_that_no_step_trains_are_evaluated() -> None:
    def step(trainer: Trainer, batch: State, phase: Phase) -> None:
        batch.modes = {name: net.training for name, net in trainer.networks.items()}

    step.training = ("a",)  # type: ignore[attr-defined]
    networks = {"a": nn.Linear(1, 1).eval(), "b": nn.Linear(1, 1)}
    data = {"train": Source(Tensors(x=torch.ones(2, 1)))}
    trainer = Trainer(networks, {"step": step}, data, max_epochs=1)
    trainer.fit()
    assert trainer.step.modes == {"a": True, "b": False}


def test_a_network_is_called_through_the_strategy_that_trains_it() -> None:
    wrapped = nn.Identity()
    strategy = SimpleNamespace(wrap=lambda name: wrapped)

    class Step:
        def __init__(self, *training: str) -> None:
            self.training, self.strategy = training, strategy

        def __call__(self, trainer: Trainer, batch: State, phase: Phase) -> None:
            batch[self.training[0]] = [trainer.call("a"), trainer.call("b")]

    networks = {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}
    data = {"train": Source(Tensors(x=torch.ones(2, 1)))}
    data["validation"] = data["train"]
    seen: list[Any] = []

    class See(Callback):
        def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
            seen.append((trainer.step["a"], trainer.step["b"]))

    steps = {"first": Step("a"), "second": Step("b")}
    trainer = Trainer(networks, steps, data, [See()], max_epochs=1)
    trainer.fit()
    a, b = networks["a"], networks["b"]
    assert seen == [([wrapped, b], [a, wrapped]), ([a, b], [a, b])]
    with pytest.raises(ConfigError, match="There is no network 'c'"):
        trainer.call("c")


def test_two_training_phases_in_an_epoch() -> None:
    class Other(TrainingPhase):
        name, split = "other", "more"

    notes = loops.Notes()
    trainer = loops.make([notes], phases=[TrainingPhase(), Other()], max_epochs=2, log=7)
    trainer.data["more"] = Source(Tensors(x=torch.ones(4, 3)), batch_size=4)
    trainer.fit()
    names = [line for line in notes.lines if line.endswith("epoch_end")]
    assert names == ["train epoch_end", "other epoch_end"] * 2
    assert trainer.counters.step == 6


def test_one_phase_without_a_fit() -> None:
    notes = loops.Notes()
    trainer = loops.make([notes])
    trainer.run_phase(TrainingPhase())
    assert counters(trainer) == (2, 1, 0)
    trainer.run_phase(ValidationPhase())
    assert not [line for line in notes.lines if "fit" in line]
    assert notes.lines[-1] == "validation validate_end"


def test_evaluate_returns_what_was_reported() -> None:
    class Report(Callback):
        def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
            trainer.record.scalar(f"{phase.name}/loss", trainer.step["loss/regress/square"])

    trainer = loops.make([Report()])
    trainer.data["test"] = trainer.data["validation"]
    before = loops.parameters(trainer)
    assert trainer.evaluate("test").keys() == {"loss"}
    assert loops.equal(loops.parameters(trainer), before)
    with pytest.raises(ConfigError, match="Did you mean 'test'"):
        trainer.evaluate("tests")


def test_an_error_is_heard_and_raised_once_all_is_closed() -> None:
    notes = loops.Notes()
    error = RuntimeError("the graphics card fell out")
    broken = loops.Raise("exception", ValueError("a second one"))
    broken.step = 1
    raising = loops.Raise("backward_begin", error, step=1)
    trainer = loops.make([broken, notes, raising])
    with pytest.raises(RuntimeError, match="fell out"):
        trainer.fit()
    assert notes.lines[-3:] == ["train backward_begin", "train exception", "train fit_end"]
    assert trainer.exception is error
    # The step that failed is not counted, and its batch comes again.
    assert counters(trainer) == (1, 0, 1)


def test_an_error_after_the_update_leaves_it_counted() -> None:
    trainer = loops.make([loops.Raise("step_end", RuntimeError("late"), step=1)])
    with pytest.raises(RuntimeError):
        trainer.fit()
    assert counters(trainer) == (2, 0, 2)


def test_cancel_ends_after_the_step() -> None:
    class Stop(Callback):
        def on_backward_begin(self, trainer: Trainer, phase: Phase) -> None:
            trainer.cancel("that will do")

    notes = loops.Notes()
    trainer = loops.make([Stop(), notes])
    assert trainer.fit() == trainer.stop_reason == "that will do"
    assert counters(trainer) == (1, 0, 1)
    assert notes.lines[-3:] == ["train step_end", "train log", "train fit_end"]


def test_cancel_while_validating_ends_after_the_checkpoint() -> None:
    class Stop(Callback):
        def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
            trainer.cancel("no better")

    notes = loops.Notes()
    trainer = loops.make([Stop(), notes], max_epochs=5)
    assert trainer.fit() == "no better"
    assert counters(trainer) == (2, 0, 0)
    assert notes.lines[-3:] == ["train checkpoint", "train epoch_end", "train fit_end"]


def test_all_callbacks_hear_the_end_that_one_of_them_cancels() -> None:
    notes = loops.Notes()
    stop = loops.Raise("epoch_end", CancelFit("enough"), step=2)
    trainer = loops.make([stop, notes], max_epochs=5)
    assert trainer.fit() == "enough"
    assert notes.lines[-2:] == ["train epoch_end", "train fit_end"]


def test_a_validation_can_be_cut_short() -> None:
    class Cut(Callback):
        def on_step_begin(self, trainer: Trainer, phase: Phase) -> None:
            if not phase.training:
                raise CancelEpoch

    notes = loops.Notes()
    trainer = loops.make([Cut(), notes])
    trainer.fit()
    assert counters(trainer) == (2, 1, 0)
    assert notes.lines.count("validation validate_end") == 1
    assert "validation step_end" not in notes.lines


def test_a_run_in_another_thread_leaves_signals_alone() -> None:
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(loops.make().fit()))
    thread.start()
    thread.join()
    assert reasons == ["max_epochs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: setattr(t, "max_epochs", None), "would not end"),
        (lambda t: t.phases.clear(), "None of the phases"),
        (lambda t: t.data.pop("train"), "for the data 'train', which is not there"),
        (lambda t: t.data.update(train=Source([])), "'train' has not one batch"),
    ],
)
def test_what_cannot_run_is_told(change: Any, message: str) -> None:
    trainer = loops.make()
    change(trainer)
    with pytest.raises(ConfigError, match=message):
        trainer.fit()


def test_an_epoch_in_which_every_step_is_cancelled_does_not_go_on_for_ever() -> None:
    class Never(Callback):
        def on_step_begin(self, trainer: Trainer, phase: Phase) -> None:
            raise CancelEpoch

    trainer = loops.make([Never()], max_epochs=None, max_steps=3)
    assert trainer.fit() == "an epoch without one complete step"


def test_the_benchmark_of_its_overhead_has_a_row_for_every_loop(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    script = ROOT / "benchmarks" / "trainer_overhead.py"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--threads", "1", "--output", str(page)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    for name in ("bare loop", "dni", "dni, bar and mean loss"):
        assert rows.count(name) == 2
