"""A class with ``step_op`` as a step, and what it may not return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from standin import VALIDATION, Standin
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.trainer.data import Source, Tensors
from dni.trainer.step_op import StepOp
from dni.trainer.strategies import make_strategy
from dni.trainer.template_iterator import (
    TemplateIterator,
    retrieve,
    update_loss_weights_inplace,
)
from dni.trainer.trainer import Trainer
from dni.trainer.when import When


class Iterator:
    def __init__(self, model: nn.Module) -> None:
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        self.logged: list[float] = []

    def step_op(self, model: nn.Module, x: Tensor, **rest: Any) -> dict[str, Callable[[], Any]]:
        losses = model(x).square().mean(1)
        loss = losses.mean()

        def train() -> None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

        def log() -> dict[str, Any]:
            self.logged.append(loss.item())
            return {"scalars": {"loss": loss.detach()}}

        return {
            "train_op": train,
            "log_op": log,
            "eval_op": lambda: {"loss": losses.detach(), "labels": {"double": 2 * losses.detach()}},
        }

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


def make(**options: Any) -> tuple[Standin, Iterator, nn.Module]:
    model = nn.Linear(3, 1)
    iterator = Iterator(model)
    return Standin({"net": model}, StepOp("op", iterator, model="net", **options)), iterator, model


def test_it_trains_logs_and_evaluates() -> None:
    trainer, iterator, model = make(every=2)
    before = model.weight.detach().clone()
    for _ in range(5):
        trainer.run(x=torch.ones(4, 3), other=1)
    assert not torch.equal(model.weight, before)
    assert [key for key, _ in trainer.scalars] == ["train/log_op/loss"] * 3
    after = model.weight.detach().clone()
    with torch.no_grad():
        state = trainer.run(VALIDATION, x=torch.ones(4, 3))
    assert torch.equal(model.weight, after)
    assert state["eval/loss"].shape == (4,)
    assert state["eval/loss"].mean() < iterator.logged[0]
    assert torch.equal(state["eval/labels/double"], 2 * state["eval/loss"])


def test_point_12_it_logs_at_0_2_4_and_then_every_so_often() -> None:
    trainer, iterator, _ = make()
    logged = []
    trainer.log = When(every=20, growth=2, start=2)  # type: ignore[attr-defined]
    for step in range(70):
        count = len(iterator.logged)
        trainer.run(x=torch.ones(4, 3))
        logged += [step] * (len(iterator.logged) - count)
    assert logged == [0, 2, 4, 8, 16, 20, 40, 60]


def test_a_function_is_given_what_it_names_only() -> None:
    model, seen = nn.Linear(1, 1), []

    def step_op(model: nn.Module, x: Tensor) -> dict[str, Callable[[], Any]]:
        seen.append(x)
        return {"train_op": lambda: None}

    trainer = Standin({"net": model}, StepOp("op", step_op, model="net", every=1))
    trainer.run(x=torch.ones(1), label=torch.ones(1))
    trainer.run(VALIDATION, x=torch.ones(1))
    assert len(seen) == 2


def test_its_state_is_its_owners() -> None:
    trainer, _, model = make(every=10)
    trainer.run(x=torch.ones(4, 3))
    state = trainer.steps["op"].state_dict()
    other = Iterator(model)
    StepOp("op", other, model="net").load_state_dict(state)
    assert other.optimizer.state_dict()["state"].keys() == {0, 1}
    stateless = StepOp("op", SimpleNamespace(step_op=lambda model: {}), model="net")
    assert stateless.state_dict() == {}


class Template(TemplateIterator):
    """Trains by whatever optimizer the config gives it, and takes notes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optimizer = self.strategy or torch.optim.Adam(self.model.parameters())  # type: ignore[union-attr]
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.notes: list[tuple[Any, ...]] = []

    def step_op(self, model: nn.Module, **batch: Any) -> dict[str, Any]:
        self.notes.append((self.get_split(), self.get_global_step(), model.training, self.root))
        loss = model(batch["x"]).square().mean()

        def train_op() -> None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

        def log_op() -> dict[str, Any]:
            image = batch["x"].reshape(-1, 1, 3, 1) / 4
            return {
                "scalars": {"loss": np.array([loss.item()]), "rows": len(image)},
                "images": {"float": image, "bytes": np.zeros((2, 4, 4, 3), np.uint8)},
                "text": {"note": "hello"},
            }

        return {"train_op": train_op, "log_op": log_op}


def trainer_of(step: StepOp, model: nn.Module, folder: Path | None = None) -> Trainer:
    data = {
        "train": Source(Tensors(x=torch.ones(8, 3)), batch_size=4),
        "validation": Source(Tensors(x=torch.arange(12.0).reshape(4, 3)), batch_size=2),
    }
    run = None if folder is None else SimpleNamespace(path=folder)
    return Trainer({"net": model}, {"op": step}, data, max_epochs=2, run=run, log=2)


def test_where_it_is_and_a_batch_of_validation_at_each_log(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    iterator = Template({}, model=model)
    step = StepOp("op", iterator, model="net", validation_batch=True)
    trainer = trainer_of(step, model, tmp_path)
    trainer.phases = trainer.phases[:1]
    trainer.fit()
    assert iterator.notes == [
        ("train", 0, True, tmp_path),
        ("validation", 0, False, tmp_path),
        ("train", 1, True, tmp_path),
        ("train", 2, True, tmp_path),
        ("validation", 2, False, tmp_path),
        ("train", 3, True, tmp_path),
    ]
    assert set(iterator.datasets) == {"train", "validation"}
    assert trainer.record.latest.keys() >= {"train/log_op/loss", "validation/log_op/loss"}
    folder = tmp_path / "images" / "validation" / "log_op"
    assert sorted(f.name for f in (folder / "float").iterdir()) == ["0000000.png", "0000002.png"]
    assert (folder / "bytes").is_dir()
    assert list(iterator.state_dict()) == ["optimizer"]


@pytest.mark.parametrize(
    "optimizer",
    [{"type": "adamw", "lr": 0.1}, {"type": "dni", "lambda": 1.0, "optim": "sgd", "grad_lr": 0.1}],
    ids=["adamw", "dni"],
)
def test_the_optimizer_of_a_config_trains_it(optimizer: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    strategy = make_strategy(optimizer, {"net": model})
    iterator = Template({}, model=model, strategy=strategy)
    step = StepOp("op", iterator, model="net", strategy=strategy)
    trainer = trainer_of(step, model)
    before = [p.detach().clone() for p in model.parameters()]
    first = float(model(torch.ones(1, 3)).detach().square())
    trainer.fit()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert float(model(torch.ones(1, 3)).detach().square()) < first
    assert set(step.state_dict()) == {"strategy", "owner"}
    assert step.state_dict()["owner"] == {}
    step.load_state_dict(step.state_dict())


class TestBadInput:
    """One clear sentence each."""

    @pytest.mark.parametrize(
        ("returned", "match"),
        [
            ({"train_opp": print}, "returned 'train_opp', which is no op. Did you mean 'train_op'"),
            ({"train_op": 3}, "'train_op' as a int; a function is needed"),
            ({"log_op": dict}, "no 'train_op', which is what trains"),
            (None, "a NoneType; a dictionary"),
            ({"train_op": dict, "log_op": lambda: {"scalar": {}}}, "Did you mean 'scalars'"),
        ],
    )
    def test_what_step_op_returns(self, returned: Any, match: str) -> None:
        step = StepOp("op", lambda model: returned, model="net", every=1)
        with pytest.raises(ConfigError, match=rf"of step 'op' .*{match}"):
            Standin({"net": nn.Linear(1, 1)}, step).run(x=torch.ones(1))

    @pytest.mark.parametrize(
        "value", [torch.tensor(1.0), torch.zeros(3, 4), np.zeros(2), [1.0, 2.0, 3.0]]
    )
    def test_an_eval_op_without_the_batch_first(self, value: Any) -> None:
        step = StepOp("op", lambda model, x: {"eval_op": lambda: {"found": value}}, model="net")
        with pytest.raises(ConfigError, match=r"`eval_op` of step 'op' gave 'found'.* batch of 4"):
            Standin({"net": nn.Linear(1, 1)}, step).run(VALIDATION, x=torch.ones(4, 3))

    def test_a_validation_batch_without_validation_data(self) -> None:
        model = nn.Linear(3, 1)
        step = StepOp("op", Template({}, model=model), model="net", validation_batch=True)
        trainer = trainer_of(step, model)
        del trainer.data["validation"]
        trainer.phases = trainer.phases[:1]
        with pytest.raises(ConfigError, match="needs the data 'validation'"):
            trainer.fit()

    def test_a_ramp_that_ends_before_it_starts(self) -> None:
        kl = dict(start_ramp_it=2000, start_ramp_val=0, end_ramp_it=1000, end_ramp_val=1)
        with pytest.raises(ConfigError, match=r"loss 'KL': .*starts at step 2000 and ends at 1000"):
            update_loss_weights_inplace({"L1": {"weight": 1}, "KL": kl}, 0)
        del kl["end_ramp_it"]
        with pytest.raises(ConfigError, match="'KL' has no end_ramp_it"):
            update_loss_weights_inplace({"KL": kl}, 0)

    def test_a_path_that_leads_nowhere(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'losses'"):
            retrieve({"losses": {}}, "lossses/KL")


def test_point_13_the_ramp_of_a_weight_is_a_line_between_its_ends() -> None:
    kl = dict(start_ramp_it=20, start_ramp_val=0.5, end_ramp_it=30, end_ramp_val=1.5)
    losses: dict[str, Any] = {"KL": kl, "L1": {"weight": 2}}
    found = []
    for step in (0, 19, 20, 25, 30, 31, 1000):
        update_loss_weights_inplace(losses, step)
        found.append(losses["KL"]["weight"])
    assert found == [0.5, 0.5, 0.5, 1.0, 1.5, 1.5, 1.5]
    assert losses["L1"]["weight"] == 2
