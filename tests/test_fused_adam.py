"""A plain step of fused Adam is torch's to the last bit, and all others are torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

from dni import fused_adam

Make = Callable[[list[nn.Parameter]], optim.Optimizer]

MAKES: dict[str, Make] = {
    "adam": lambda p: optim.Adam(p, lr=0.1, fused=True),
    "adam, options": lambda p: optim.Adam(
        p, lr=0.1, fused=True, betas=(0.5, 0.7), eps=1e-3, weight_decay=0.1, maximize=True
    ),
    "adamw": lambda p: optim.AdamW(p, lr=0.1, fused=True, weight_decay=0.3),
    "two groups": lambda p: optim.Adam(
        [{"params": p[:1], "lr": 0.5}, {"params": p[1:]}], lr=0.1, fused=True
    ),
    "amsgrad": lambda p: optim.Adam(p, lr=0.1, fused=True, amsgrad=True),
    "not fused": lambda p: optim.Adam(p, lr=0.1),
    "sgd": lambda p: optim.SGD(p, lr=0.1, fused=True),
}


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (7,), (2, 2)]
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def train(
    params: list[nn.Parameter],
    optimizer: optim.Optimizer,
    step: Callable[[optim.Optimizer], Any],
    steps: int = 5,
) -> None:
    generator = torch.Generator().manual_seed(1)
    for number in range(steps):
        for index, p in enumerate(params):
            grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            p.grad = None if (index + number) % 3 == 1 else grad
        step(optimizer)


def count_calls(optimizer: optim.Optimizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often torch's own step is taken, told by its class, which is no reason to take it."""
    calls: list[int] = []
    own = type(optimizer).step

    def step(self: optim.Optimizer, closure: Any = None) -> Any:
        calls.append(1)
        return own(self, closure)

    step.hooked = True  # type: ignore[attr-defined]
    monkeypatch.setattr(type(optimizer), "step", step)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_it_steps_as_torch_does(make: Make, dtype: torch.dtype) -> None:
    mine, theirs = parameters(dtype), parameters(dtype)
    optimizer, other = make(mine), make(theirs)
    train(mine, optimizer, fused_adam.step)
    train(theirs, other, lambda o: o.step())
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    a, b = optimizer.state_dict(), other.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for index, state in a["state"].items():
        assert state.keys() == b["state"][index].keys()
        assert all(
            torch.equal(torch.as_tensor(state[k]), torch.as_tensor(b["state"][index][k]))
            for k in state
        )


def test_only_first_steps_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters()
    optimizer = MAKES["adam"](params)
    calls = count_calls(optimizer, monkeypatch)
    train(params, optimizer, fused_adam.step)
    assert len(calls) == 2  # in the first a parameter had no gradient


def test_a_loaded_state_goes_on() -> None:
    mine = parameters()
    optimizer = MAKES["adam"](mine)
    train(mine, optimizer, fused_adam.step)
    theirs = copy.deepcopy(mine)
    other = MAKES["adam"](theirs)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(mine, optimizer, fused_adam.step)
    train(theirs, other, lambda o: o.step())
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_whoever_listens_is_told() -> None:
    params = parameters()
    optimizer = MAKES["adam"](params)
    told: list[str] = []
    train(params, optimizer, fused_adam.step)
    optimizer.register_step_pre_hook(lambda *_: told.append("pre"))
    optimizer.register_step_post_hook(lambda *_: told.append("post"))
    train(params, optimizer, fused_adam.step, steps=2)
    assert told == ["pre", "post"] * 2


def test_a_schedule_of_the_learning_rate_counts_the_steps(recwarn: pytest.WarningsRecorder) -> None:
    mine, theirs = parameters(), parameters()
    for params, step in ((mine, fused_adam.step), (theirs, lambda o: o.step())):
        optimizer = MAKES["adam"](params)
        train(params, optimizer, step)
        schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        train(params, optimizer, step)
        schedule.step()
        train(params, optimizer, step)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]


def test_tensors_of_two_types_are_left_to_torch() -> None:
    def mixed() -> list[nn.Parameter]:
        return [*parameters(), *parameters(torch.float64)]

    mine, theirs = mixed(), mixed()
    train(mine, MAKES["adam"](mine), fused_adam.step)
    train(theirs, MAKES["adam"](theirs), lambda o: o.step())
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_learning_rate_may_be_changed_between_steps() -> None:
    mine, theirs = parameters(), parameters()
    for params, step in ((mine, fused_adam.step), (theirs, lambda o: o.step())):
        optimizer = MAKES["adam"](params)
        train(params, optimizer, step)
        optimizer.param_groups[0]["lr"] = 0.01
        train(params, optimizer, step)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_sparse_gradients_meet_torchs_error() -> None:
    params = parameters()
    optimizer = MAKES["adam"](params)
    train(params, optimizer, fused_adam.step)
    for p in params:
        p.grad = torch.zeros_like(p).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        fused_adam.step(optimizer)


def fill(params: list[nn.Parameter]) -> None:
    for p in params:
        p.grad = torch.ones_like(p)


def train_all(params: list[nn.Parameter], optimizer: optim.Optimizer, steps: int) -> list[float]:
    """Step every parameter; their numbers of steps."""
    for _ in range(steps):
        fill(params)
        fused_adam.step(optimizer)
    return [optimizer.state[p]["step"].item() for p in params]


def test_numbers_of_steps_lie_side_by_side() -> None:
    params = parameters()
    optimizer = MAKES["adam"](params)
    assert train_all(params, optimizer, 3) == [3, 3, 3]
    steps = [optimizer.state[p]["step"] for p in params]
    assert len({s.untyped_storage().data_ptr() for s in steps}) == 1


@pytest.mark.parametrize("what", ["state", "entry", "steps", "averages", "squares"])
def test_what_is_replaced_in_the_state_counts(what: str) -> None:
    mine, theirs = parameters(), parameters()
    for params, step in ((mine, fused_adam.step), (theirs, lambda o: o.step())):
        optimizer = MAKES["adam"](params)
        for number in range(6):
            fill(params)
            step(optimizer)
            state = optimizer.state[params[0]]
            if number == 3 and what == "state":
                optimizer.state = copy.deepcopy(optimizer.state.__class__(dict))  # warm restart
            elif number == 3 and what == "entry":
                optimizer.state[params[0]] = {k: torch.zeros_like(v) for k, v in state.items()}
            elif number == 3:
                key = {"steps": "step", "averages": "exp_avg", "squares": "exp_avg_sq"}[what]
                state[key] = torch.zeros_like(state[key])
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_copy_steps_by_itself() -> None:
    mine = parameters()
    optimizer = MAKES["adam"](mine)
    assert train_all(mine, optimizer, 3) == [3, 3, 3]
    theirs, other = copy.deepcopy((mine, optimizer))
    assert train_all(theirs, other, 2) == [5, 5, 5]
    assert train_all(mine, optimizer, 0) == [3, 3, 3]


def test_few_sets_of_parameters_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_adam, "MOST", 2)
    mine, theirs = parameters(), parameters()
    optimizer = MAKES["adam"](mine)
    train(mine, optimizer, fused_adam.step, steps=12)
    train(theirs, MAKES["adam"](theirs), lambda o: o.step(), steps=12)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert 0 < len(fused_adam._known[optimizer]) <= 2
