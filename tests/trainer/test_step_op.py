"""A class with ``step_op`` as a step."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from standin import VALIDATION, Standin
from torch import Tensor, nn

from dni.trainer.step_op import StepOp
from dni.trainer.when import When


class Iterator:
    def __init__(self, model: nn.Module) -> None:
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        self.logged: list[float] = []

    def step_op(self, model: nn.Module, x: Tensor, **rest: Any) -> dict[str, Callable[[], Any]]:
        loss = model(x).square().mean()

        def train() -> None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

        def log() -> dict[str, Any]:
            self.logged.append(loss.item())
            return {"scalars": {"loss": loss.detach()}}

        return {"train_op": train, "log_op": log, "eval_op": lambda: {"loss": loss.detach()}}

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


def make(**options: Any) -> tuple[Standin, Iterator, nn.Module]:
    model = nn.Linear(3, 1)
    iterator = Iterator(model)
    return Standin({"net": model}, StepOp("op", iterator, model="net", **options)), iterator, model


def test_it_trains_logs_and_evaluates() -> None:
    trainer, iterator, model = make(log_every=2)
    before = model.weight.detach().clone()
    for _ in range(5):
        trainer.run(x=torch.ones(4, 3), other=1)
    assert not torch.equal(model.weight, before)
    assert [key for key, _ in trainer.scalars] == ["train/log_op/loss"] * 3
    after = model.weight.detach().clone()
    with torch.no_grad():
        state = trainer.run(VALIDATION, x=torch.ones(4, 3))
    assert torch.equal(model.weight, after)
    assert state["eval/loss"] < iterator.logged[0]


def test_it_logs_when_the_trainer_does() -> None:
    trainer, iterator, _ = make()
    trainer.log = When(every=4, growth=2)  # type: ignore[attr-defined]
    for _ in range(7):
        trainer.run(x=torch.ones(4, 3))
    assert len(iterator.logged) == 4  # at 0, 1, 2 and 4


def test_a_function_is_given_what_it_names_only() -> None:
    model, seen = nn.Linear(1, 1), []

    def step_op(model: nn.Module, x: Tensor) -> dict[str, Callable[[], Any]]:
        seen.append(x)
        return {"train_op": lambda: None}

    trainer = Standin({"net": model}, StepOp("op", step_op, model="net", log_every=1))
    trainer.run(x=torch.ones(1), label=torch.ones(1))
    trainer.run(VALIDATION, x=torch.ones(1))
    assert len(seen) == 2


def test_its_state_is_its_owners() -> None:
    trainer, _, model = make(log_every=10)
    trainer.run(x=torch.ones(4, 3))
    state = trainer.steps["op"].state_dict()
    other = Iterator(model)
    StepOp("op", other, model="net").load_state_dict(state)
    assert other.optimizer.state_dict()["state"].keys() == {0, 1}
    stateless = StepOp("op", SimpleNamespace(step_op=lambda model: {}), model="net")
    assert stateless.state_dict() == {}
