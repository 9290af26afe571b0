"""A run that is cut and goes on ends where the uninterrupted one does, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import loops
import pytest
import small_task
import torch
from torch.utils.data import Dataset

from dni.errors import CheckpointError
from dni.trainer.callbacks import Metrics
from dni.trainer.data import Source
from dni.trainer.events import Callback, CancelFit
from dni.trainer.phases import Phase
from dni.trainer.trainer import Trainer

HERE = Path(__file__).parent
STEPS = 18  # three epochs of six batches


class SaveAt(Callback):
    """Saves when it is time and the counter says so, then ends the run."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_checkpoint(self, trainer: Trainer, phase: Phase) -> None:
        if trainer.counters.step == self.step:
            trainer.save(self.path)
            raise CancelFit("saved")


class Sum(Callback):
    """Has a state: how often it heard of each event that it counts."""

    def __init__(self) -> None:
        self.counts = {"step_end": 0, "validate_end": 0, "epoch_end": 0}
        for event in self.counts:
            setattr(self, f"on_{event}", self._counting(event))

    def _counting(self, event: str) -> Any:
        def count(trainer: Trainer, phase: Phase) -> None:
            self.counts[event] += 1

        return count

    def state_dict(self) -> dict[str, Any]:
        return dict(self.counts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = dict(state)


def make(*callbacks: Callback, **options: Any) -> Trainer:
    return loops.make(
        callbacks, samples=24, max_epochs=3, checkpoint_steps=1, validate_steps=4, **options
    )


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_it_goes_on_from_any_step(step: int, tmp_path: Path) -> None:
    heard = Sum()
    whole = make(heard)
    whole.fit()
    assert whole.counters.step == STEPS

    path = tmp_path / "cut.pt"
    cut = make(SaveAt(path, step), Sum())
    assert cut.fit() == "saved"
    again = Sum()
    resumed = make(again)
    resumed.load(path)
    resumed.fit()
    assert resumed.counters == whole.counters
    assert loops.equal(loops.parameters(resumed), loops.parameters(whole))
    assert again.counts == heard.counts
    steps = whole.steps["regress"], resumed.steps["regress"]
    moments = [[s["exp_avg"] for s in step.optimizer.state.values()] for step in steps]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))


OPTIMIZERS = {
    "adamw": small_task.ADAM,
    "scheduled": small_task.ADAM | {"scheduler": {"type": "StepLR", "step_size": 3, "gamma": 0.5}},
    "dni": small_task.DNI,
    "dni, critic": small_task.DNI
    | {"dni_network": "critic", "context": "label", "context_size": 2},
    "dni, unlocked": small_task.DNI | {"unlock": "update"},
}


@pytest.mark.parametrize("step", [1, 5, 8])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_strategy_goes_on(kind: str, step: int, tmp_path: Path) -> None:
    def made(*callbacks: Any) -> Trainer:
        return small_task.make(
            *callbacks, Metrics(), optimizer=OPTIMIZERS[kind], checkpoint_steps=1, max_epochs=2
        )

    whole = made()
    whole.fit()
    made(SaveAt(tmp_path / "cut.pt", step)).fit()
    resumed = made()
    resumed.load(tmp_path / "cut.pt")
    resumed.fit()
    assert resumed.counters.step == whole.counters.step == 10
    assert loops.equal(loops.parameters(resumed), loops.parameters(whole))
    assert resumed.record.latest == whole.record.latest


class Noisy(Dataset[dict[str, torch.Tensor]]):
    """Samples with a random transform."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((3,), index / 24) + 0.1 * torch.rand(3)}


class NoisyBatches:
    """Batches that draw from the global generator; one is reached only through those before it."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        order = torch.randperm(24)
        for start in range(0, 24, 4):
            yield {"x": order[start : start + 4, None] / 24 + torch.rand(4, 3)}


@pytest.mark.parametrize("step", [2, 6, 9])
@pytest.mark.parametrize("kind", ["dataset", "workers", "batches"])
def test_it_goes_on_where_the_data_itself_is_random(kind: str, step: int, tmp_path: Path) -> None:
    def noisy(*callbacks: Callback) -> Trainer:
        trainer = make(*callbacks)
        source = {
            "dataset": lambda: Source(Noisy(), batch_size=4, seed=0),
            "workers": lambda: Source(Noisy(), batch_size=4, seed=0, workers=1),
            "batches": lambda: Source(NoisyBatches()),
        }[kind]()
        trainer.data["train"] = source
        trainer.max_epochs = 2
        return trainer

    whole = noisy()
    whole.fit()
    path = tmp_path / "cut.pt"
    noisy(SaveAt(path, step)).fit()
    resumed = noisy()
    resumed.load(path)
    resumed.fit()
    assert resumed.counters.step == 12
    assert loops.equal(loops.parameters(resumed), loops.parameters(whole))


def test_validation_changes_nothing_that_is_learned() -> None:
    class Draw(Callback):
        def on_validate_begin(self, trainer: Trainer, phase: Phase) -> None:
            torch.rand(3)

    often, never = make(Draw()), make(Draw(), validates=False)
    often.fit()
    never.fit()
    assert loops.equal(loops.parameters(often), loops.parameters(never))


def test_more_steps_later_are_as_many_at_once(tmp_path: Path) -> None:
    whole = loops.make(samples=24, max_epochs=None, max_steps=15)
    whole.fit()
    part = loops.make(samples=24, max_epochs=None, max_steps=4)
    part.fit()
    part.save(tmp_path / "part.pt")
    more = loops.make(samples=24, max_epochs=None, max_steps=15)
    more.load(tmp_path / "part.pt")
    assert more.fit() == "max_steps"
    assert loops.equal(loops.parameters(more), loops.parameters(whole))


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    saved = loops.make(config={"networks": {"net": {"hidden": 8}}, "seed": 0})
    saved.save(tmp_path / "saved.pt")
    other = loops.make(config={"networks": {"net": {"hidden": 9}}, "seed": 0})
    other.networks["net"][3] = torch.nn.Linear(9, 1)
    before = loops.parameters(other)
    with pytest.raises(CheckpointError) as info:
        other.load(tmp_path / "saved.pt")
    assert "networks/net/3.weight: saved [1, 8], now [1, 9]" in str(info.value)
    assert "config networks/net/hidden: saved 8, now 9" in str(info.value)
    assert loops.equal(loops.parameters(other), before)


def test_it_goes_on_after_the_last_batch_of_an_epoch(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_epochs": None, "max_steps": 12, "checkpoint_steps": 6}
    path = tmp_path / "cut.pt"
    loops.make([SaveAt(path, 6)], samples=24, **limits).fit()  # of 6 batches
    resumed = loops.make(samples=24, **limits)
    resumed.load(path)
    assert (resumed.counters.batch, resumed.counters.stage) == (6, "batches")
    assert resumed.fit() == "max_steps"
    assert resumed.counters.step == 12


def test_within_an_epoch_the_batches_must_be_the_same(tmp_path: Path) -> None:
    saved = loops.make([SaveAt(tmp_path / "cut.pt", 1)], samples=24, checkpoint_steps=1)
    saved.fit()
    other = loops.make(samples=32)
    with pytest.raises(CheckpointError, match="data/train/samples: saved 24, now 32"):
        other.load(tmp_path / "cut.pt")


def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    same, places, left = done.stdout.split(maxsplit=2)
    assert same == "True"
    assert int(places) > 3, "the kills are to be at different places"
    assert left.strip() == "[]"
