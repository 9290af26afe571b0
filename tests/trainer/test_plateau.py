"""The schedule `plateau`: torch's numbers, what it hears, and that a run goes on with it."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import make
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dni.errors import ConfigError
from dni.trainer.callbacks import Metrics
from dni.trainer.evaluators import Entry, Evaluator, attach_evaluators
from dni.trainer.events import Callback
from dni.trainer.phases import ValidationPhase
from dni.trainer.plateau import Plateau
from dni.trainer.schedules import make_schedule
from dni.trainer.trainer import Trainer

LOSS, LR = "validation/loss/classify/ce", "optimizer/classify/lr"


class Rates(Callback):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_optimizer_begin(self, trainer: Any, phase: Any) -> None:
        (optimizer,) = trainer.steps["classify"].strategy.optimizers.values()
        self.seen.append(optimizer.param_groups[0]["lr"])


class Scores(Callback):
    """Reports given numbers, one in each validation of the split `validation`."""

    writes = ("record/score",)

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def on_validate_end(self, trainer: Any, phase: Any) -> None:
        if phase.name == "validation":
            trainer.record.scalar("validation/score", next(self.values))


def plateau(**options: Any) -> dict[str, Any]:
    return {"type": "plateau", "start_value": 0.01, "monitor": LOSS, **options}


def torchs(values: list[float], **options: Any) -> list[float]:
    """The learning rate after each of the values."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler, rates = ReduceLROnPlateau(optimizer, eps=0.0, **options), []
    for value in values:
        scheduler.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 0, "factor": 0.25, "threshold": 0.0},
        {"patience": 2, "cooldown": 3, "factor": 0.7},
        {"patience": 1, "mode": "max"},
        {"patience": 1, "threshold": 0.2, "threshold_mode": "abs"},
        {"patience": 1, "threshold": 0.2, "threshold_mode": "abs", "mode": "max"},
        {"patience": 0, "min_lr": 1e-3},
    ],
)
def test_it_is_torchs(options: dict[str, Any]) -> None:
    draw = random.Random(0)
    values = [draw.gauss(3.0 - 0.02 * k, 0.3) for k in range(60)]
    values[7] = float("nan")
    ours = {("end_value" if key == "min_lr" else key): v for key, v in options.items()}
    schedule, rates = Plateau(0.01, LOSS, **ours), []
    for value in values:
        schedule.hear(value)
        rates.append(schedule(0))
    assert rates == torchs(values, **options)
    assert len(set(rates)) > 1


def test_a_run_has_the_rates_of_torchs_fed_with_what_it_validates() -> None:
    values = [3.0, 2.0, 2.5, 2.4, 1.0, 1.5]
    seen = Rates()
    schedules = {LR: plateau(monitor="validation/score", patience=0, factor=0.5)}
    trainer = make(Scores(values), seen, schedules=schedules, max_epochs=6)
    trainer.fit()
    # Five steps of an epoch, and then the next rate.
    expected = [0.01, *torchs(values[:-1], patience=0, factor=0.5)]
    assert seen.seen[::5] == expected
    assert seen.seen == [rate for rate in expected for _ in range(5)]


def test_it_is_told_once_by_validations_of_several_splits() -> None:
    seen = Rates()
    schedules = {LR: plateau(monitor="validation/score", patience=1, factor=0.5)}
    trainer = make(Scores([1.0, 2.0, 2.0, 2.0]), seen, schedules=schedules, max_epochs=4)
    trainer.data["other"] = trainer.data["validation"]
    trainer.phases.insert(1, ValidationPhase("other"))
    trainer.phases.append(ValidationPhase("other"))
    trainer.fit()
    assert seen.seen[::5] == [0.01, 0.01, 0.01, 0.005]


def test_the_warm_up_rises_in_a_line() -> None:
    schedule = Plateau(1.0, LOSS, warmup=3)
    assert [schedule(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("at", [("train", 9), ("train", 10), ("validation", 10), ("train", 17)])
def test_a_run_that_is_cut_goes_on_with_it(at: tuple[str, int], tmp_path: Path) -> None:
    class Cut(Callback):
        def on_step_end(self, trainer: Trainer, phase: Any) -> None:
            if (phase.name, trainer.counters.step + phase.training) == at:
                signal.raise_signal(signal.SIGINT)

    def made(*callbacks: Callback) -> Trainer:
        spec = plateau(patience=0, factor=0.5, threshold=0.5, warmup=2)
        settings = {"validate_steps": 5, "validate_epochs": None, "max_steps": 24}
        options = {**settings, "max_epochs": None, "schedules": {LR: spec}}
        return make(Metrics({}), *callbacks, **options)

    whole, seen = made(), Rates()
    whole.callbacks.add(seen)
    whole.fit()
    assert min(seen.seen) < 0.01 / 3  # it fell before and after each cut
    cut = made(Cut())
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    cut.save(tmp_path / "cut.pt")
    resumed, rest = made(), Rates()
    resumed.callbacks.add(rest)
    resumed.load(tmp_path / "cut.pt")
    resumed.fit()
    assert rest.seen == seen.seen[-len(rest.seen) :]
    for ours, theirs in zip(
        resumed.networks["net"].parameters(), whole.networks["net"].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_what_was_heard_makes_a_new_value_fall_as_often() -> None:
    first, second = (Plateau(value, LOSS, patience=0, factor=0.5) for value in (1.0, 8.0))
    for loss in (1.0, 2.0, 3.0):
        first.hear(loss)
    second.load_state_dict(first.state_dict())
    assert (first(0), second(0)) == (0.25, 2.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"patience": -1}, "`patience` is -1; a whole number from 0"),
        ({"patience": 1.5}, "`patience` is 1.5"),
        ({"cooldown": -1}, "`cooldown` is -1"),
        ({"warmup": True}, "`warmup` is True"),
        ({"factor": 1.0}, "`factor` is 1.0; a number between 0 and 1"),
        ({"factor": "half"}, "`factor` is 'half'; a number"),
        ({"threshold": -0.1}, "`threshold` is -0.1"),
        ({"threshold": 1.0}, "`threshold` is 1.0, and as a share of the best value"),
        ({"mode": "mix"}, "`mode` is 'mix'.*min"),
        ({"threshold_mode": "absolute"}, "`threshold_mode` is 'absolute'"),
        ({"end_value": 1.0}, "`end_value` is 1.0, above the `start_value` 0.01"),
        ({"monitor": None}, "`monitor` is None; the name of a value"),
        ({"monitr": LOSS}, "no argument 'monitr'. Did you mean 'monitor'"),
    ],
)
def test_bad_arguments_are_told(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_schedule(plateau(**spec), hears=True)


def test_where_it_cannot_hear_it_is_told() -> None:
    with pytest.raises(ConfigError, match="only in the block `schedules`.*losses/<step>/<loss>"):
        make_schedule(plateau())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": False}, "nothing is ever validated. Add data `validation`"),
        ({"validate_epochs": None}, "Set `validate/every_epochs` or `validate/every_steps`"),
    ],
)
def test_a_run_that_never_validates_is_told(settings: dict[str, Any], message: str) -> None:
    trainer = make(schedules={LR: plateau()}, **settings)
    with pytest.raises(ConfigError, match=message):
        trainer.fit()
    assert trainer.counters.step == 0


def test_a_value_that_no_validation_reports_is_told_with_the_nearest() -> None:
    trainer = make(Metrics({}), schedules={LR: plateau(monitor="validation/loss/clasify/ce")})
    with pytest.raises(ConfigError, match=f"did not report. Did you mean '{LOSS}'"):
        trainer.fit()


def test_an_evaluator_whose_turn_comes_later_is_waited_for() -> None:
    class Fixed(Evaluator):
        def result(self, trainer: Trainer) -> dict[str, float]:
            return {"score": 1.0}

    seen = Rates()
    schedules = {LR: plateau(monitor="validation/late/score", patience=0, factor=0.5)}
    trainer = make(seen, schedules=schedules, max_epochs=5)
    attach_evaluators(trainer, [Entry("late", Fixed(), every_epochs=2)])
    trainer.fit()
    # Heard after epochs 2 and 4: at first it is the best, then no better.
    assert seen.seen[::5] == [0.01, 0.01, 0.01, 0.01, 0.005]


def test_torchs_own_is_refused_with_the_way_to_say_it() -> None:
    with pytest.raises(ConfigError, match="'ReduceLROnPlateau'.*`plateau` does the same"):
        make(optimizer={"type": "sgd", "scheduler": {"type": "ReduceLROnPlateau"}})
