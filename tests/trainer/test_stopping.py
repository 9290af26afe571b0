"""A run ends early when nothing gets better, and before a loss that is no number does harm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import make

from dni.errors import ConfigError
from dni.trainer.callbacks import Checkpointing, EarlyStopping, Metrics, StopOnNaN
from dni.trainer.evaluators import Entry, Evaluator, attach_evaluators
from dni.trainer.events import Callback
from dni.trainer.phases import ValidationPhase
from dni.trainer.trainer import Trainer


class Scores(Callback):
    """Reports given values, one at each validation."""

    writes = ("record/score",)

    def __init__(self, values: list[float]) -> None:
        self.values = list(values)

    def on_validate_end(self, trainer: Any, phase: Any) -> None:
        trainer.record.scalar("validation/score", self.values[trainer.counters.epoch])


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ([1, 2, 1.5, 1.4, 1.3, 9], {"mode": "max", "patience": 3}, 5),
        ([5, 4, 3, 2, 1, 0], {"mode": "min", "patience": 1}, 6),
        ([5, 4.9, 4.8, 4.7, 3, 0], {"mode": "min", "patience": 3, "min_delta": 0.5}, 4),
        ([1, math.nan, math.nan, 2, 2, 2], {"mode": "max", "patience": 2}, 3),
        ([1, 1, 1, 1, 1, 1], {"mode": "max", "patience": 1}, 2),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_it_stops_after_its_patience(
    values: list[float], options: dict[str, Any], epochs: int, reverse: bool
) -> None:
    callbacks = [Scores(values), EarlyStopping("validation/score", **options)]
    trainer = make(*(callbacks[::-1] if reverse else callbacks), max_epochs=6)
    reason = trainer.fit()
    assert trainer.counters.epoch == epochs or "has not got better" in reason
    assert trainer.counters.step == 5 * epochs
    assert reason == "max_epochs" if epochs == 6 else "validation/score has not" in reason


def test_what_made_it_stop_is_still_saved(tmp_path: Path) -> None:
    trainer = make(
        Scores([1.0, 0.5, 0.4]),
        EarlyStopping("validation/score", mode="max", patience=1),
        Checkpointing(monitor="validation/score", mode="max"),
        folder=tmp_path,
        max_epochs=6,
    )
    trainer.fit()
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000005_1.0.pt", "step-00000010_0.5.pt"]


def test_patience_resumes() -> None:
    values = [3.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    first = make(Scores(values), EarlyStopping("validation/score", mode="max", patience=3))
    first.max_epochs = 2
    first.fit()
    rest = make(Scores(values), EarlyStopping("validation/score", mode="max", patience=3))
    rest.load_state_dict(first.state_dict())
    rest.max_epochs = 6
    rest.fit()
    assert rest.counters.step == 20


@pytest.mark.parametrize("where", [0, 2])
def test_validations_of_several_splits_count_once(where: int, tmp_path: Path) -> None:
    stop = EarlyStopping("validation/loss/classify/ce", patience=2, min_delta=99.0)
    saving = Checkpointing(monitor="validation/loss/classify/ce", keep_last=9)
    trainer = make(Metrics(), stop, saving, folder=tmp_path, max_epochs=9)
    trainer.data["other"] = trainer.data["validation"]
    trainer.phases.insert(where, ValidationPhase("other"))
    assert "in 2 validations" in trainer.fit()
    assert trainer.counters.step == 15
    # An evaluation of another split says nothing of what it goes by.
    fresh = make(Metrics(), EarlyStopping("validation/loss/classify/ce"))
    fresh.data["other"] = trainer.data["other"]
    assert "loss/classify/ce" in fresh.evaluate("other")
    assert fresh.callbacks.find(EarlyStopping).waited == 0


def test_a_value_of_an_evaluator_is_taken_when_its_turn_has_come(tmp_path: Path) -> None:
    class Counting(Evaluator):
        count = 0

        def result(self, trainer: Trainer) -> dict[str, float]:
            self.count += 1
            return {"count": self.count}

    name = "validation/late/count"
    saving = Checkpointing(monitor=name, keep_last=9)
    trainer = make(EarlyStopping(name, patience=1), saving, folder=tmp_path, max_epochs=5)
    attach_evaluators(trainer, [Entry("late", Counting(), every_epochs=2)])
    assert "in 1 validations" in trainer.fit()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    # After the epochs 2 and 4; the others have no score.
    assert names == [
        *("step-00000005.pt", "step-00000010_1.0.pt"),
        *("step-00000015.pt", "step-00000020_2.0.pt"),
    ]


def test_a_misspelt_value_and_a_wrong_mode_are_named() -> None:
    trainer = make(Metrics(), EarlyStopping("validation/loss/classify/cee"))
    with pytest.raises(ConfigError, match="Did you mean 'validation/loss/classify/ce'"):
        trainer.fit()
    with pytest.raises(ConfigError, match="'min' .* or 'max'"):
        EarlyStopping("x", mode="best")
    with pytest.raises(ConfigError, match="`patience` is 0"):
        EarlyStopping("x", patience=0)


class Poison(Callback):
    def __init__(self, at: int, value: float = math.nan) -> None:
        self.at, self.value = at, value

    def on_step_begin(self, trainer: Any, phase: Any) -> None:
        if phase.training and trainer.counters.step == self.at:
            trainer.step["image"] = trainer.step["image"] * self.value


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_before_its_update(
    value: float, accumulate: int, tmp_path: Path
) -> None:
    good = make(max_steps=7)
    good.steps["classify"].accumulate = accumulate  # type: ignore[union-attr]
    good.fit()
    trainer = make(StopOnNaN(), Poison(7, value), Checkpointing(), folder=tmp_path)
    trainer.steps["classify"].accumulate = accumulate  # type: ignore[union-attr]
    reason = trainer.fit()
    assert "'classify/ce' is not finite at step 7" in reason
    assert trainer.counters.step == 7
    for ours, theirs in zip(
        trainer.networks["net"].parameters(), good.networks["net"].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    # Batch statistics did take in the poison: nothing of this is saved.
    assert [p.name[:13] for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_losses_elsewhere_are_looked_at_now_and_then_and_before_a_checkpoint() -> None:
    class Elsewhere:
        """A loss on a device whose values must not be asked for at every step."""

        def __init__(self, value: float) -> None:
            self.value = torch.tensor(value)
            self.device = torch.device("meta")

        def detach(self) -> torch.Tensor:
            return self.value

    trainer = make()
    stop = StopOnNaN(every=10)
    trainer.step["loss/s/x"] = Elsewhere(math.nan)
    stop.on_optimizer_begin(trainer, trainer.phase)
    trainer.step["loss/s/x"] = Elsewhere(1.0)
    stop.on_optimizer_begin(trainer, trainer.phase)
    with pytest.raises(Exception, match="'s/x' is not finite"):
        stop.on_checkpoint(trainer, trainer.phase)
    assert stop.has_stopped
