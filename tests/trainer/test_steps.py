"""Steps: chunks, windows, freezing, what outlives them, functions as steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from standin import TRAINING, VALIDATION, Standin
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.trainer.function_step import FunctionStep
from dni.trainer.steps import Step
from dni.trainer.strategies import make_strategy

SGD = {"type": "sgd", "lr": 0.1}
FORWARD = {"type": "call", "network": "net", "in": "x", "out": "y"}
FIT = {"type": "l2", "input": "y", "target": "t"}


READS = {"input": "y", "target": "t"}


def pairs(input: Tensor, target: Tensor) -> Tensor:
    """One number for each feature of each sample, which is too many."""
    return (input - target).flatten()


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def batch(size: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(size)
    draw = lambda n: torch.randn(size, n, generator=generator, dtype=torch.float64)  # noqa: E731
    return {"x": draw(3), "t": draw(2)}


def step(network: nn.Module, optimizer: dict[str, Any] = SGD, **options: Any) -> Step:
    settings: dict[str, Any] = {"injectors": {"f": FORWARD}, "losses": {"fit": FIT}} | options
    strategy = make_strategy(optimizer, {"net": network})
    return Step("s", training=["net"], strategy=strategy, **settings)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("optimizer", [SGD, {"type": "dni", "lambda": 1.0, "optim": SGD}])
@pytest.mark.parametrize(("size", "chunks"), [(7, 4), (8, 4), (3, 5), (1, 2)])
def test_chunks_together_are_the_batch(size: int, chunks: int, optimizer: dict[str, Any]) -> None:
    found = []
    for accumulate in (1, chunks):
        network = net()
        trainer = Standin({"net": network}, step(network, optimizer, accumulate=accumulate))
        found.append((trainer.run(**batch(size)), trainer.run(**batch(size)), weights(network)))
    (_, whole, expected), (_, joined, got) = found
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert list(joined) == list(whole)
    for key, value in whole.items():
        torch.testing.assert_close(joined[key], value, rtol=0, atol=1e-6)
        assert not joined[key].requires_grad


def test_chunks_join_sequences_and_what_is_overwritten() -> None:
    network = net()
    injectors = {
        "f": FORWARD,
        "double": {"type": "torch.mul", "in": ["x", "x"], "out": "x", "overwrite": True},
        "parts": {"type": "torch.unbind", "in": "y", "out": "parts", "dim": 1},
    }
    given = batch(6)
    trainer = Standin({"net": network}, step(network, injectors=injectors, accumulate=3))
    state = trainer.run(**given)
    torch.testing.assert_close(state.x, given["x"] * given["x"])
    torch.testing.assert_close(torch.stack(state.parts, 1), state.y)


def two(**options: Any) -> tuple[Standin, nn.Module, nn.Module]:
    a, b = net(), nn.Linear(2, 2).double()
    injectors = {"f": FORWARD, "g": {"type": "call", "network": "b", "in": "y", "out": "z"}}
    made = step(a, injectors=injectors, losses={"fit": {**FIT, "input": "z"}}, **options)
    return Standin({"net": a, "b": b}, made), a, b


def test_networks_it_does_not_train_are_frozen_for_its_time() -> None:
    trainer, a, b = two()
    seen: list[bool] = []
    trainer.handle = lambda *_: seen.append(b.weight.requires_grad)  # type: ignore[method-assign]
    b.bias.requires_grad_(False)
    before, other = weights(a), weights(b)
    trainer.run(**batch())
    assert not any(seen)
    assert seen
    assert (b.weight.requires_grad, b.bias.requires_grad) == (True, False)
    assert b.weight.grad is None
    assert torch.equal(weights(b), other)
    assert not torch.equal(weights(a), before)


def test_networks_thaw_after_an_error() -> None:
    trainer, _, b = two()
    with pytest.raises(ConfigError, match="same shape"):
        trainer.run(x=batch()["x"], t=torch.zeros(7, 3))
    assert b.weight.requires_grad


def test_what_it_writes_is_detached_unless_kept_or_dropped() -> None:
    network = net()
    state = Standin({"net": network}, step(network)).run(**batch())
    assert not state.y.requires_grad
    assert set(state) == {"x", "t", "y", "loss/s/fit", "instances/s/fit", "loss/s/total"}
    assert state["instances/s/fit"].shape == (7,)
    torch.testing.assert_close(state["instances/s/fit"].mean(), state["loss/s/fit"])
    state = Standin({"net": network}, step(network, keep=["y"])).run(**batch())
    assert state.y.requires_grad
    state = Standin({"net": network}, step(network, step_outputs=[])).run(**batch())
    assert "y" not in state
    assert "loss/s/fit" in state


def test_a_later_step_learns_through_a_kept_key() -> None:
    network, plain = net(), net()
    forward = Step("forward", injectors={"f": FORWARD}, keep=["y"])
    trainer = Standin({"net": network}, forward, step(network, injectors={}))
    trainer.run(**batch())
    Standin({"net": plain}, step(plain)).run(**batch())
    assert torch.equal(weights(network), weights(plain))


def test_without_keep_there_is_nothing_to_learn_through() -> None:
    network = net()
    forward = Step("forward", injectors={"f": FORWARD})
    trainer = Standin({"net": network}, forward, step(network, injectors={}))
    with pytest.raises(ConfigError, match=r"step 's' depends on no parameter.*`keep`"):
        trainer.run(**batch())


def run_window(count: int = 8, **options: Any) -> list[str]:
    """Of each batch: T trained, F only forward, or - passed over."""
    network = net()
    trainer, found = Standin({"net": network}, step(network, **options)), []
    for _ in range(count):
        before = weights(network)
        state = trainer.run(**batch())
        moved = not torch.equal(weights(network), before)
        found.append("T" if moved else "F" if "y" in state else "-")
    return found


def test_windows_of_a_step_count_from_zero_with_both_ends() -> None:
    assert "".join(run_window(every=2, after=1, before=5)) == "-TFTFT--"
    assert "".join(run_window(requires=["nothing"])) == "-" * 8


def test_a_closed_loss_is_skipped_or_zero() -> None:
    assert "".join(run_window(losses={"fit": {**FIT, "after": 2, "before": 3}})) == "FFTTFFFF"
    network = net()
    second = {**FIT, "every": 2, "after": 1, "weight": 0.5, "closed": "zero"}
    trainer = Standin({"net": network}, step(network, losses={"fit": FIT, "more": second}))
    for is_open in (False, True, False):
        state = trainer.run(**batch())
        share = 1.5 if is_open else 1.0
        torch.testing.assert_close(state["loss/s/more"], state["loss/s/fit"])
        torch.testing.assert_close(state["loss/s/total"], state["loss/s/fit"] * share)


def test_windows_of_injectors() -> None:
    injectors = {
        "f": FORWARD,
        "odd": {"type": "direct", "in": "x", "out": "odd", "every": 2, "after": 1},
        "train": {"type": "direct", "in": "x", "out": "only_train", "eval": False},
        "eval": {"type": "direct", "in": "x", "out": "only_eval", "train": False},
    }
    network = net()
    trainer = Standin({"net": network}, step(network, injectors=injectors))
    assert ["odd" in trainer.run(**batch()) for _ in range(3)] == [False, True, False]
    assert trainer.run(**batch()).keys() & {"only_train", "only_eval"} == {"only_train"}
    found = trainer.run(VALIDATION, **batch())
    assert found.keys() & {"only_train", "only_eval"} == {"only_eval"}


def test_no_update_without_training() -> None:
    network = net()
    trainer, before = Standin({"net": network}, step(network)), weights(network)
    state = trainer.run(VALIDATION, **batch())
    assert torch.equal(weights(network), before)
    assert "loss/s/fit" in state
    assert trainer.events == ["loss_begin"]


def test_weights_by_a_schedule() -> None:
    network = net()
    losses = {"fit": {**FIT, "weight": {"ramp": [0, 0.0, 2, 1.0]}}}
    trainer = Standin({"net": network}, step(network, losses=losses))
    for share in (0.0, 0.5, 1.0):
        state = trainer.run(**batch())
        torch.testing.assert_close(state["loss/s/total"], state["loss/s/fit"] * share)


@pytest.mark.parametrize("returns", ["number", "instances", "mapping"])
def test_a_function_is_a_step(returns: str) -> None:
    network, plain = net(), net()

    def fit(trainer: Any, state: Any, phase: Any) -> Any:
        state.y = trainer.call("net")(state.x)
        each = (state.y - state.t).square().mean(1)
        return {"number": each.mean(), "instances": each, "mapping": {"a": each, "b": each * 0}}[
            returns
        ]

    strategy = make_strategy(SGD, {"net": network})
    made = FunctionStep("s", fit, training=["net"], strategy=strategy)
    trainer = Standin({"net": network}, made)
    state = trainer.run(TRAINING, **batch())
    Standin({"net": plain}, step(plain)).run(**batch())
    torch.testing.assert_close(weights(network), weights(plain), rtol=0, atol=1e-12)
    assert not state.y.requires_grad
    assert "loss/s/total" in state
    assert trainer.events == [
        "loss_begin",
        "backward_begin",
        "backward_end",
        "optimizer_begin",
        "optimizer_end",
    ]
    before = weights(network)
    trainer.run(VALIDATION, **batch())
    assert torch.equal(weights(network), before)


def test_a_step_goes_on_from_its_state() -> None:
    adam = {"type": "adamw", "lr": 0.1}
    first = net()
    trainer = Standin({"net": first}, step(first, adam))
    trainer.run(**batch())
    second = copy.deepcopy(first)
    other = Standin({"net": second}, step(second, adam))
    other.steps["s"].load_state_dict(trainer.steps["s"].state_dict())
    trainer.run(**batch())
    other.run(**batch())
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "`accumulate` of step 's' is 0"),
        ({"losses": {}}, "has no loss"),
        ({"losses": {"fit": {**FIT, "targt": "t"}}}, "'targt'.*'target'"),
        ({"losses": {"fit": {**FIT, "closed": "open"}}}, "'skip' or 'zero'"),
        ({"losses": {"fit": {"input": "y"}}}, "no `type`"),
    ],
)
def test_bad_steps_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        step(net(), **options)


@pytest.mark.parametrize(
    ("injectors", "message"),
    [
        ({"f": {**FORWARD, "network": "nett"}}, "calls network 'nett'.*'net'"),
        ({"f": {**FORWARD, "in": "xx"}}, "injector 'f' reads 'xx'"),
        ({"f": {**FORWARD, "out": "x"}}, "'x', which the data has written"),
        ({"f": {**FORWARD, "out": ["y", "z"]}}, "writes 2 keys and gave Tensor"),
    ],
)
def test_bad_keys_are_explained(injectors: dict[str, Any], message: str) -> None:
    network = net()
    with pytest.raises(ConfigError, match=message):
        Standin({"net": network}, step(network, injectors=injectors)).run(**batch())


def test_a_loss_that_is_neither_for_each_sample_nor_for_the_batch_is_named() -> None:
    network = net()
    trainer = Standin(
        {"net": network}, step(network, losses={"odd": {"type": f"{__name__}:pairs", **READS}})
    )
    with pytest.raises(ConfigError, match=r"loss 'odd' gave 14 numbers for a batch of 7.*\[7\]"):
        trainer.run(**batch())
