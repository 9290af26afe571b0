"""What users of the three trainers expect of loop, events and checkpoints, point by point.

The numbers are those of the list of acceptance points that the trainer was designed by.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import loops
import pytest
import small_task
import torch
from torch import nn

from dni.errors import CheckpointError, ConfigError
from dni.trainer.checkpoint import Checkpoints, load
from dni.trainer.curves import OneCycle
from dni.trainer.data import Source, Tensors
from dni.trainer.events import (
    Callback,
    CancelEpoch,
    CancelFit,
    CancelStep,
    throttle,
)
from dni.trainer.ordering import Callbacks
from dni.trainer.phases import Phase, TrainingPhase
from dni.trainer.state import State
from dni.trainer.trainer import Trainer

GOLDEN = [
    "train fit_begin",
    "train epoch_begin",
    "train step_begin",
    "train loss_begin",
    "train backward_begin",
    "train backward_end",
    "train step_end",
    "train log",
    "train step_begin",
    "train loss_begin",
    "train backward_begin",
    "train backward_end",
    "train step_end",
    "validation validate_begin",
    "validation step_begin",
    "validation loss_begin",
    "validation step_end",
    "validation validate_end",
    "train checkpoint",
    "train epoch_end",
    "train fit_end",
]


class Save(Callback):
    """Saves whenever it is time, and when something goes wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_checkpoint(self, trainer: Trainer, phase: Phase) -> None:
        trainer.save(self.path)

    on_exception = on_checkpoint


def test_point_13_a_ramped_weight_of_a_loss() -> None:
    weights = []

    class Loss:
        weight = 5.0

    class Step:
        training = ()
        losses = {"kl": Loss()}

        def __call__(self, trainer: Trainer, batch: State, phase: Phase) -> None:
            weights.append(self.losses["kl"].weight)

    data = {"train": Source(Tensors(x=torch.zeros(6, 1)), batch_size=1)}
    ramp = {"ramp": [2, 0, 4, 1]}
    trainer = Trainer(
        {}, {"main": Step()}, data, schedules={"losses/main/kl/weight": ramp}, max_epochs=1
    )
    trainer.fit()
    assert weights == [0, 0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("number", "raised", "code"), [(signal.SIGINT, KeyboardInterrupt, None), (15, SystemExit, 143)]
)
def test_point_18_an_interrupt_leaves_a_checkpoint_that_goes_on(
    number: int, raised: type[BaseException], code: int | None, tmp_path: Path
) -> None:
    whole = loops.make(samples=24, max_epochs=2)
    whole.fit()

    class Interrupt(Callback):
        def on_backward_begin(self, trainer: Trainer, phase: Phase) -> None:
            if trainer.counters.step == 3:
                os.kill(os.getpid(), number)

    path = tmp_path / "last.pt"
    cut = loops.make([Interrupt(), Save(path)], samples=24, max_epochs=2)
    handler = signal.getsignal(number)
    with pytest.raises(raised) as info:
        cut.fit()
    assert code is None or info.value.code == code
    assert signal.getsignal(number) == handler
    assert load(path)["counters"]["step"] == 4

    resumed = loops.make(samples=24, max_epochs=2)
    resumed.load(path)
    resumed.fit()
    assert loops.equal(loops.parameters(resumed), loops.parameters(whole))


def test_point_18_an_interrupt_while_validating(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_step_begin(self, trainer: Trainer, phase: Phase) -> None:
            if not phase.training and trainer.counters.step == 6:
                torch.rand(1)
                os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "last.pt"
    notes, whole = loops.Notes(), loops.make(samples=24, max_epochs=2)
    whole.fit()
    with pytest.raises(KeyboardInterrupt):
        loops.make([Interrupt(), Save(path)], samples=24, max_epochs=2).fit()
    resumed = loops.make([notes], samples=24, max_epochs=2)
    resumed.load(path)
    resumed.fit()
    assert loops.equal(loops.parameters(resumed), loops.parameters(whole))
    # The validation that was broken off is made again, before anything else is learned.
    assert notes.lines[:3] == [
        "train fit_begin",
        "train epoch_begin",
        "validation validate_begin",
    ]


def test_point_20_a_phase_of_ones_own_in_ten_lines() -> None:
    class Twice(TrainingPhase):
        name = "twice"

        def step(self, trainer: Trainer, batch: State) -> None:
            for _ in range(2):
                batch.y = trainer.networks["net"](batch.x)
                trainer.handle("mine", self)
                batch.y.square().mean().backward()
            trainer.steps["regress"].optimizer.step()

    notes = loops.Notes()
    trainer = loops.make([notes], phases=[Twice()], validates=False)
    before = loops.parameters(trainer)
    trainer.fit()
    assert trainer.counters.step == 2
    assert not loops.equal(loops.parameters(trainer), before)
    step = ["twice step_begin", "twice mine", "twice mine", "twice step_end"]
    assert notes.lines[2:11] == [*step, "twice log", *step]


def test_point_21_the_golden_trace_of_events() -> None:
    notes = loops.Notes()
    loops.make([notes]).fit()
    # At step 0 it logs, so `log` follows the first step alone.
    assert notes.lines == GOLDEN


@pytest.mark.parametrize("optimizer", [small_task.ADAM, small_task.DNI])
def test_point_21_the_golden_trace_of_a_step_from_a_config(optimizer: dict[str, Any]) -> None:
    notes = loops.Notes()
    small_task.make(
        notes, optimizer=optimizer, max_epochs=None, max_steps=1, validation=False
    ).fit()
    assert [line.removeprefix("train ") for line in notes.lines] == [
        "fit_begin",
        "epoch_begin",
        "step_begin",
        "loss_begin",
        "backward_begin",
        "backward_end",
        "optimizer_begin",
        "optimizer_end",
        "step_end",
        "log",
        "checkpoint",
        "epoch_end",
        "fit_end",
    ]


def test_point_22_cancel_step_epoch_fit() -> None:
    def run(
        error: Exception, event: str, *, step: int = 1, **options: Any
    ) -> tuple[Trainer, list[str]]:
        notes = loops.Notes()
        options |= {"samples": 12, "max_epochs": 2, "validates": False}
        trainer = loops.make([notes, loops.Raise(event, error, step=step)], **options)
        trainer.fit()
        return trainer, [line.removeprefix("train ") for line in notes.lines]

    trainer, lines = run(CancelStep(), "backward_begin")
    assert (trainer.counters.step, lines.count("step_end"), lines.count("step_cancelled")) == (
        5,
        5,
        1,
    )
    assert lines[lines.index("step_cancelled") + 1] == "step_begin"

    trainer, lines = run(CancelEpoch(), "backward_begin")
    assert (trainer.counters.step, trainer.counters.epoch) == (4, 2)
    cancelled = lines.index("step_cancelled")
    assert lines[cancelled + 1 : cancelled + 4] == ["checkpoint", "epoch_end", "epoch_begin"]

    trainer, lines = run(CancelEpoch(), "epoch_end", step=3)
    assert lines.count("epoch_end") == lines.count("epoch_begin") == 2
    assert trainer.counters.step == 6

    trainer, lines = run(CancelFit("enough"), "backward_begin")
    assert trainer.stop_reason == "enough"
    assert (trainer.counters.step, lines[-2:]) == (1, ["step_cancelled", "fit_end"])

    with pytest.raises(CancelFit, match="enough"):
        run(CancelFit("enough"), "backward_begin", raise_on_cancel=True)

    trainer, lines = run(CancelFit("enough"), "step_end")
    assert (trainer.counters.step, lines[-2:]) == (2, ["step_end", "fit_end"])
    assert trainer.fit() == "max_epochs"


def test_point_22_a_cancelled_step_updates_nothing() -> None:
    stop = loops.Raise("backward_end", CancelFit())
    trainer = loops.make([stop])
    before = {k: p.clone() for k, p in trainer.networks["net"].named_parameters()}
    trainer.fit()
    for name, parameter in trainer.networks["net"].named_parameters():
        assert torch.equal(parameter, before[name])


def test_point_22_a_step_is_cancelled_only_within_a_step() -> None:
    notes = loops.Notes()
    with pytest.raises(CancelStep):
        loops.make([notes, loops.Raise("epoch_begin", CancelStep())]).fit()
    assert notes.lines[-2:] == ["train exception", "train fit_end"]


class Writer(Callback):
    writes = ("value",)

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        trainer.shared["value"] = trainer.counters.step


class Middle(Callback):
    reads, writes = ("value",), ("double",)

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        trainer.shared["double"] = 2 * trainer.shared["value"]


class Reader(Callback):
    reads = ("double", "step/y")

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        trainer.shared.setdefault("seen", []).append(trainer.shared["double"])


def test_point_23_callbacks_in_any_order_do_the_same() -> None:
    for kinds in itertools.permutations([Writer, Middle, Reader]):
        trainer = loops.make([kind() for kind in kinds], validates=False)
        trainer.fit()
        assert trainer.shared["seen"] == [0, 2]


def test_point_23_two_that_write_the_same_clash() -> None:
    class Other(Callback):
        writes = ("value/part",)

    with pytest.raises(ConfigError, match=r"`Writer` and `Other` both write 'value'"):
        Callbacks([Writer(), Other()])
    Other.run_after = (Writer,)
    assert [c.name for c in Callbacks([Other(), Writer()])] == ["Writer", "Other"]


def test_point_23_what_nobody_writes_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"`Reader` reads 'double', which no callback writes"):
        Callbacks([Reader(), Writer()])


def test_point_23_a_circle_is_named() -> None:
    class A(Callback):
        reads, writes = ("b",), ("a",)

    class B(Callback):
        reads, writes = ("a",), ("b",)

    with pytest.raises(ConfigError, match=r"A → B → A"):
        Callbacks([A(), B()])


def test_point_24_throttled_by_count_and_by_seconds() -> None:
    class Count(Callback):
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.ends = 0

        def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
            self.steps.append(trainer.counters.step)

        def on_epoch_end(self, trainer: Trainer, phase: Phase) -> None:
            self.ends += 1

    third, rarely = Count(), Count()
    slow = throttle(rarely, "step_end", seconds=10)
    times = iter([0.0, 4, 9.9, 10, 19, 20, 21, 29])
    slow.when.clock = lambda: next(times)
    callbacks = [throttle(third, "step_end", every=3), slow]
    loops.make(callbacks, samples=32, validates=False).fit()
    assert third.steps == [0, 3, 6]
    assert rarely.steps == [0, 3, 5]
    assert third.ends == rarely.ends == 1
    with pytest.raises(ConfigError, match="give one of the two"):
        throttle(third, "step_end", every=3, seconds=1)
    with pytest.raises(ConfigError, match="Did you mean 'step_end'"):
        throttle(third, "step_ned", every=3)


@pytest.mark.parametrize(("steps", "rise"), [(10, 0.3), (25, 0.25), (7, 0.5)])
def test_point_25_onecycle_is_torchs(steps: int, rise: float) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=steps, pct_start=rise, cycle_momentum=False
    )
    ours = OneCycle(max=3e-3, steps=steps, rise=rise)
    for step in range(steps):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


@pytest.mark.parametrize(("mode", "best"), [("min", [2, 4]), ("max", [3, 1])])
def test_point_26_the_best_and_the_newest_are_kept(
    mode: str, best: list[int], tmp_path: Path
) -> None:
    kept = Checkpoints(tmp_path, keep_best=2, mode=mode)
    for step, score in enumerate([0.4, 0.1, 0.9, 0.2, 0.3], start=1):
        kept.add({"counters": {"step": step}, "version": 1}, step=step, score=score)
    steps = [load(path)["counters"]["step"] for path in kept.best(2)]
    assert steps == best
    assert load(kept.newest()[0])["counters"]["step"] == 5
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_without_checkpoints_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load(tmp_path / "last.pt")
