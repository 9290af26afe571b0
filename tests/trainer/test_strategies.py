"""Strategies: any torch optimizer, groups, clipping, schedulers; and DNI beside backprop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from standin import Standin
from torch import nn

from dni.errors import ConfigError
from dni.trainer.backprop import Backprop
from dni.trainer.dni_strategy import DNIStrategy
from dni.trainer.steps import Step
from dni.trainer.strategies import make_strategy

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
        assert nn.functional.cross_entropy(network(X), Y) < 0.8  # by chance: 1.1


def test_unlocked_dni_updates_in_forward_and_refuses_accumulation() -> None:
    spec = {"type": "dni", "lambda": 0.0, "unlock": "update"}
    assert not equal(classify(mlp(), spec), mlp())
    with pytest.raises(ConfigError, match="unlock: update"):
        classify(mlp(), spec, accumulate=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "spec",
    [
        {"type": "adamw", "lr": 1e-2},
        {"type": "dni", "lambda": 0.5},
        {"type": "dni", "dni_network": "critic", "context": "label", "lambda": 0.0},
        {"type": "dni", "dni_network": "critic", "context": "label", "lambda": 0.0}
        | {"unlock": "update"},
    ],
)
def test_compiled_networks_train_as_they_do_uncompiled(
    fresh_compiler: None, spec: dict[str, Any]
) -> None:
    compiled = classify(mlp(), {**spec, "compile": {"backend": "eager"}})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for mine, other in zip(compiled.parameters(), classify(mlp(), spec).parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "adamv"}, "Did you mean 'adam"),
        ({"type": "dni", "lambd": 0}, "Did you mean 'lambda'"),
        ({"type": "adamw", "weight_decy": 0}, "Did you mean 'weight_decay'"),
        ({"type": "adamw", "clip": -1}, "above 0"),
        ({"type": "adamw", "compile": "yes"}, "true, false or arguments of `torch.compile`"),
        ({"type": "dni", "compile": {"bakend": "eager"}}, "Did you mean 'backend'"),
        ({"type": "adamw", "compile": {"backend": "nope"}}, "Invalid backend: 'nope'"),
        ({"type": "dni", "compile": {"mode": "nope"}}, "Unrecognized mode=nope"),
        (
            {"type": "temporal_dni", "compile": {"mode": "max-autotune"}},
            "its recurrent network is not compiled",
        ),
        ({"type": "temporal_dni", "optim": {"type": "sgd", "compile": True}}, "beside `optim`"),
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


def two() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"a": nn.Linear(4, 8), "b": nn.Linear(8, 3)}


@pytest.mark.parametrize("kind", [{"type": "sgd"}, {"type": "dni", "lambda": 1.0, "optim": "sgd"}])
def test_gradients_are_clipped_for_each_network(kind: dict[str, Any]) -> None:
    networks = two()
    strategy = make_strategy({**kind, "clip": 0.01}, networks)
    step = Step(
        "s",
        training=networks,
        strategy=strategy,
        injectors={
            "h": {"type": "call", "network": "a", "in": "x"},
            "y": {"type": "call", "network": "b", "in": "h"},
        },
        losses={"ce": {"type": "cross_entropy", "input": "y", "target": "label"}},
    )
    Standin(networks, step).run(x=X, label=Y)
    for network in networks.values():
        norm = torch.stack(
            [p.grad.norm() for p in network.parameters() if p.grad is not None]
        ).norm()
        assert norm.item() == pytest.approx(0.01, rel=1e-3)


class Wrapped(nn.Module):
    """Blocks in a list, beside what does not learn, all of it in another module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.layers = nn.ModuleList([mlp(), nn.LayerNorm(3), nn.Dropout()])
        self.inner.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.inner.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.inner.layers:
            x = layer(x)
        return self.inner.head(self.inner.frozen(x))


LEAVES = ["inner.layers.0.0", "inner.layers.0.2", "inner.layers.1", "inner.head"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["inner.layers.0", "inner.layers.1"]),
        ({"sites": ["inner.layers.0.?", "inner.h*"]}, [f"inner.layers.0.{i}" for i in range(3)]),
        ({"recursive": True}, LEAVES),
        ({"skip_last_layer": True}, LEAVES),
    ],
)
def test_sites_are_the_blocks_but_the_last_unless_told(
    options: dict[str, Any], expected: list[str]
) -> None:
    strategy = make_strategy({"type": "dni", **options}, {"net": Wrapped()})
    assert isinstance(strategy, DNIStrategy)
    head = ["inner.head"] if "sites" in options else []
    assert list(strategy.wrappers["net"].interfaces.sites) == [*expected, *head]


def test_a_network_of_one_block_has_its_leaves() -> None:
    strategy = make_strategy({"type": "dni"}, {"net": nn.Linear(4, 3)})
    assert isinstance(strategy, DNIStrategy)
    assert list(strategy.wrappers["net"].interfaces.sites) == [""]


def test_a_synthesizer_of_ones_own_by_import_path() -> None:
    for given in ("dni.LinearSigmoidDNI", {"0": "dni:LinearSigmoidDNI"}):
        network = mlp()
        strategy = make_strategy({"type": "dni", "dni_network": given}, {"net": network})
        assert isinstance(strategy, DNIStrategy)
        strategy.wrap("net")(X).sum().backward()
        made = strategy.wrappers["net"].interfaces["0"].synthesizer
        assert type(made).__name__ == "LinearSigmoidDNI"


def test_the_context_may_be_written_by_the_step_itself() -> None:
    network = mlp()
    spec = {"type": "dni", "dni_network": "critic", "context": "classes", "lambda": 0.0}
    step = Step(
        "s",
        training=["net"],
        strategy=make_strategy(spec, {"net": network}, num_classes=3),
        injectors={
            "classes": {"type": "direct", "in": "label"},
            "y": {"type": "call", "network": "net", "in": "x"},
        },
        losses={"ce": {"type": "cross_entropy", "input": "y", "target": "label"}},
    )
    before = copy.deepcopy(network)
    trainer = Standin({"net": network}, step)
    for _ in range(3):
        trainer.run(x=X, label=Y)
    assert not torch.equal(network[0].weight, before[0].weight)
    del step.injections[0]
    with pytest.raises(ConfigError, match=r"strategy 'dni' \(`context`\) reads 'classes'"):
        trainer.run(x=X, label=Y)
