"""Strategies: any torch optimizer, groups, clipping, schedulers; and DNI beside backprop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from standin import Standin
from torch import nn

from dni.errors import ConfigError
from dni.trainer.steps import Step
from dni.trainer.strategies import Backprop, DNIStrategy, make_strategy

X, Y = torch.linspace(-1, 1, 24).view(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def classify(network: nn.Module, spec: dict[str, Any], steps: int = 5, **step: Any) -> nn.Module:
    strategy = make_strategy(spec, {"net": network}, num_classes=3)
    made = Step(
        "classify",
        training=["net"],
        strategy=strategy,
        injectors={"forward": {"type": "call", "network": "net", "in": "x", "out": "logits"}},
        losses={"ce": {"type": "cross_entropy", "input": "logits", "target": "label"}},
        **step,
    )
    trainer = Standin({"net": network}, made)
    for _ in range(steps):
        trainer.run(x=X, label=Y)
    return network


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["adamw", "sgd", "torch.optim.RMSprop"])
def test_dni_at_lambda_one_is_backprop_bit_for_bit(name: str, clip: float | None) -> None:
    optim = {"type": name, "lr": 0.01}
    backprop = classify(mlp(), {**optim, "clip": clip})
    spec = {"type": "dni", "lambda": 1.0, "optim": optim, "clip": clip}
    assert equal(backprop, classify(mlp(), spec))
    assert not equal(backprop, mlp())


def test_dni_takes_context_and_a_critic_and_learns() -> None:
    spec = {"type": "dni", "lambda": 0.0, "dni_network": "critic", "context": "label"}
    network = classify(mlp(), {**spec, "optim": {"type": "adamw", "lr": 1e-2}}, steps=200)
    with torch.no_grad():
        assert nn.functional.cross_entropy(network(X), Y) < 0.5


def test_unlocked_dni_updates_in_forward_and_refuses_accumulation() -> None:
    spec = {"type": "dni", "lambda": 0.0, "unlock": "update"}
    assert not equal(classify(mlp(), spec), mlp())
    with pytest.raises(ConfigError, match="unlock: update"):
        classify(mlp(), spec, accumulate=2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "adamv"}, "Did you mean 'adam"),
        ({"type": "dni", "lambd": 0}, "Did you mean 'lambda'"),
        ({"type": "adamw", "weight_decy": 0}, "Did you mean 'weight_decay'"),
        ({"type": "adamw", "clip": -1}, "above 0"),
        ({"type": "torch.nn.ReLU"}, "neither"),
        ({"type": "adamw", "no_decay": ["net.nothing*"]}, "No trainable parameter"),
    ],
)
def test_bad_strategies_are_explained(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_strategy(spec, {"net": mlp()})


def test_context_without_a_number_of_classes_is_explained() -> None:
    with pytest.raises(ConfigError, match="context_size"):
        DNIStrategy({"net": mlp()}, context="label")


def test_a_torch_scheduler_steps_once_per_update() -> None:
    scheduler = {"type": "StepLR", "step_size": 2, "gamma": 0.1}
    strategy = Backprop({"net": mlp()}, optimizer="sgd", lr=1.0, scheduler=scheduler)
    rates = []
    for _ in range(4):
        rates.append(strategy.optimizers["optimizer"].param_groups[0]["lr"])
        strategy.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["adamw", "dni"])
def test_mixed_precision_trains_and_saves_its_scaler(kind: str, precision: str) -> None:
    spec = {"type": kind, "precision": precision}
    assert not equal(classify(mlp(), spec), mlp())
    state = make_strategy(spec, {"net": mlp()}).state_dict()
    assert (state["scaler"] is not None) == (precision == "float16")


@pytest.mark.parametrize("kind", [{"type": "adamw"}, {"type": "dni", "lambda": 0.5}])
def test_training_goes_on_bit_for_bit_from_a_state(kind: dict[str, Any]) -> None:
    def step(network: nn.Module) -> tuple[Standin, Step]:
        made = Step(
            "classify",
            training=["net"],
            strategy=make_strategy(kind, {"net": network}),
            injectors={"f": {"type": "call", "network": "net", "in": "x", "out": "logits"}},
            losses={"ce": {"type": "cross_entropy", "input": "logits", "target": "label"}},
        )
        return Standin({"net": network}, made), made

    trainer, first = step(mlp())
    for _ in range(3):
        trainer.run(x=X, label=Y)
    saved = copy.deepcopy((trainer.networks["net"].state_dict(), first.state_dict()))
    again, second = step(mlp())
    again.networks["net"].load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    for _ in range(3):
        trainer.run(x=X, label=Y)
        again.run(x=X, label=Y)
    assert equal(trainer.networks["net"], again.networks["net"])
