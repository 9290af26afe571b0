"""Schedules, and the places that they set."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import loops
import pytest
import small_task
import torch

from dni.errors import ConfigError
from dni.trainer.curves import Cosine, Piecewise, Ramp
from dni.trainer.events import Callback
from dni.trainer.phases import Phase
from dni.trainer.schedules import Constant, make_schedule
from dni.trainer.targets import Target
from dni.trainer.terms import LossTerm
from dni.trainer.trainer import Trainer


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.1)
    ours = Cosine(0.5, 0.1, steps=9)
    for step in range(10):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_a_warm_up_arrives_where_the_cosine_begins() -> None:
    values = [Cosine(1.0, steps=8, warmup=3)(step) for step in range(10)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values == sorted(values[:4]) + sorted(values[4:], reverse=True)
    assert values[8:] == [0.0, 0.0]


@pytest.mark.parametrize("step", [0, 3, 7, 50])
def test_ramp_and_piecewise_agree(step: int) -> None:
    assert Ramp(3, 1.0, 7, -1.0)(step) == Piecewise([[3, 1.0], [7, -1.0]])(step)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (2, 2.0),
        ({"type": "constant", "value": 3}, 3.0),
        ({"constant": 3}, 3.0),
        ({"ramp": [0, 0.0, 10, 1.0]}, 0.5),
        ({"ramp": {"start": 0, "start_value": 0, "end": 10, "end_value": 1}}, 0.5),
        ({"piecewise": {"points": [[0, 1], [5, 2]]}}, 2.0),
        (lambda step: step * 2, 10.0),
        ({"type": "math.sqrt"}, math.sqrt(5)),
    ],
)
def test_made_from_a_config(spec: Any, value: float) -> None:
    if isinstance(spec, dict) and spec.get("type") == "math.sqrt":
        spec = math.sqrt
    assert make_schedule(spec)(5) == pytest.approx(value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fast", "is no schedule"),
        (True, "is no schedule"),
        ({"type": "cosin"}, "Did you mean 'cosine'"),
        ({"type": "cosine", "start_value": 1, "step": 3}, "no argument 'step'. Did you mean"),
        ({"type": "cosine", "start_value": 1}, "takes start_value, end_value, steps"),
        ({"value": 1, "start": 2}, "has no `type`"),
        ({"type": "constant", "value": "1e"}, "`value` is '1e'; a number"),
        ({"ramp": [5, 0, 1, 1]}, "starts at step 5 and ends at 1"),
        ({"piecewise": {"points": [[5, 0], [5, 1]]}}, "increasing ones"),
        ({"piecewise": {"points": [[5, 0]], "between": "lines"}}, "Did you mean 'line'"),
        ({"type": "onecycle", "max": 1, "steps": 0}, "`steps` from 1"),
        ({"type": "cosine", "start_value": 1, "steps": 3, "warmup": 3}, "`warmup` is 3"),
    ],
)
def test_bad_configs_are_told(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_schedule(spec)


def test_a_target_reaches_what_a_path_names() -> None:
    values: dict[str, float] = {}
    strategy = SimpleNamespace(set=values.__setitem__)
    loss = SimpleNamespace(weight=lambda step: 1.0)
    step = SimpleNamespace(strategy=strategy, losses={"kl": loss}, clip=1.0)
    trainer: Any = SimpleNamespace(steps={"s": step}, shared={"temperature": 1.0})
    for path in ("optimizer/s/lr", "dni/s/lambda", "losses/s/kl/weight", "steps/s/clip"):
        Target(trainer, path).set(0.25)
    Target(trainer, "shared/new").set(0.25)
    assert values == {"lr": 0.25, "lambda": 0.25}
    assert isinstance(loss.weight, Constant)
    assert (loss.weight(7), step.clip, trainer.shared["new"]) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("optimizer/regres/lr", "steps has no 'regres'. Did you mean 'regress'"),
        ("losses/regress/kl/weight", "steps/regress has no 'losses'"),
        ("max_step", "has no 'max_step'. Did you mean 'max_steps'"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loops.make(schedules={path: 1.0}).fit()


def test_step_k_has_the_value_of_k() -> None:
    class See(Callback):
        def __init__(self) -> None:
            self.rates: list[float] = []

        def on_step_begin(self, trainer: Trainer, phase: Phase) -> None:
            step: Any = trainer.steps["regress"]
            self.rates.append(step.optimizer.param_groups[0]["lr"])

    see = See()
    trainer = loops.make([see], samples=16, validates=False)
    step: Any = trainer.steps["regress"]
    step.strategy = SimpleNamespace(
        set=lambda name, value: step.optimizer.param_groups[0].update({name: value})
    )
    trainer.schedules["optimizer/regress/lr"] = Ramp(0, 0.0, 4, 0.4)
    trainer.fit()
    assert see.rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        (
            {"losses/classify/ce/weight": 1, "steps/classify/losses/ce/weight": 2},
            "'losses/classify/ce/weight' and 'steps/classify/losses/ce/weight' set the same",
        ),
        (
            {"optimizer/classify/lr": 1, "dni/classify/lr": 2},
            "'optimizer/classify/lr' and 'dni/classify/lr' set the same",
        ),
        (
            {"losses/classify/late/weight": 1},
            "'losses/classify/late/weight' sets what the `Ramp` at steps/classify/losses/late/w",
        ),
        (
            {"optimizer/tuned/lr": 1},
            "'optimizer/tuned/lr' sets what the `scheduler` of steps/tuned/strategy sets",
        ),
    ],
)
def test_two_schedules_on_one_number_are_told(schedules: Any, message: str) -> None:
    trainer = small_task.make(schedules=schedules)
    step: Any = trainer.steps["classify"]
    late = {"type": "direct", "input": "logits", "weight": {"ramp": [0, 0.0, 9, 1.0]}}
    step.losses["late"] = LossTerm("late", late)
    tuned = {**small_task.ADAM, "scheduler": {"type": "StepLR", "step_size": 3}}
    trainer.steps["tuned"] = small_task.classify(trainer.networks["net"], tuned)
    with pytest.raises(ConfigError, match=message):
        trainer.fit()
    assert trainer.counters.step == 0


def test_a_fit_may_follow_another() -> None:
    trainer = small_task.make(schedules={"losses/classify/ce/weight": {"ramp": [0, 0, 9, 1]}})
    trainer.fit()
    trainer.max_epochs = 4
    assert trainer.fit() == "max_epochs"
