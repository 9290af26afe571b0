"""Metrics and losses: means over samples, the same as computed at once over everything."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_task import make, validated
from torch.nn import functional

from dni.errors import ConfigError
from dni.trainer.callbacks import Metrics
from dni.trainer.callbacks.tally import FunctionTally, Metric, accuracy
from dni.trainer.events import Callback
from dni.trainer.terms import Injection, LossTerm

ACCURACY = {"type": "accuracy", "input": "logits", "target": "label"}
F1 = {
    "type": "torchmetrics.classification.MulticlassF1Score",
    "input": "logits",
    "target": "label",
    "num_classes": 2,
}


def test_validation_is_the_mean_over_samples_not_over_batches() -> None:
    trainer = make(Metrics({"accuracy": ACCURACY}))
    trainer.fit()
    logits, label = validated(trainer)
    assert len(label) % 8  # the last batch is smaller
    found = trainer.evaluate()
    right = (logits.argmax(1) == label).double().mean().item()
    assert found["accuracy"] == pytest.approx(right, abs=1e-6)
    loss = functional.cross_entropy(logits, label).item()
    assert found["loss/classify/ce"] == pytest.approx(loss, rel=1e-5)
    assert trainer.shared["metrics"]["validation/accuracy"].item() == found["accuracy"]


def test_torchmetrics_by_import_path_give_their_own_value() -> None:
    trainer = make(Metrics({"f1": F1}))
    trainer.fit()
    logits, label = validated(trainer)
    from torchmetrics.functional.classification import multiclass_f1_score

    expected = multiclass_f1_score(logits, label, num_classes=2).item()
    assert trainer.evaluate()["f1"] == pytest.approx(expected, abs=1e-6)


class Losses(Callback):
    """Every loss and batch size of the training, as they were."""

    def __init__(self) -> None:
        self.all: list[tuple[float, int]] = []

    def on_step_end(self, trainer: Any, phase: Any) -> None:
        if phase.training:
            value = trainer.step["loss/classify/ce"].item()
            self.all.append((value, trainer.batch_size))


class Reports(Callback):
    def __init__(self) -> None:
        self.all: list[tuple[int, dict[str, float]]] = []

    def on_fit_begin(self, trainer: Any, phase: Any) -> None:
        trainer.record.sinks.append(self)

    def write(self, entries: Any, step: int, epoch: int) -> None:
        self.all.append((step, entries.scalars))

    def of(self, name: str) -> list[tuple[int, float]]:
        return [(step, scalars[name]) for step, scalars in self.all if name in scalars]


class Saved(Callback):
    """The state at the last event ``checkpoint``."""

    def on_checkpoint(self, trainer: Any, phase: Any) -> None:
        self.state = copy.deepcopy(trainer.state_dict())


def test_training_reports_the_mean_since_the_last_report_and_of_the_epoch() -> None:
    losses, reports = Losses(), Reports()
    trainer = make(Metrics({"accuracy": ACCURACY}), losses, reports, max_epochs=2, log=3)
    trainer.fit()
    values = [value for value, _ in losses.all]
    windows = {0: values[:1], 3: values[1:4], 6: values[5:7], 9: values[7:10]}
    for step, value in reports.of("train/loss/classify/ce"):
        assert value == pytest.approx(sum(windows[step]) / len(windows[step]), rel=1e-5)
    assert [step for step, _ in reports.of("train/loss/classify/ce")] == list(windows)
    epochs = reports.of("train/epoch/loss/classify/ce")
    assert [step for step, _ in epochs] == [5, 10]
    for (_, value), part in zip(epochs, (values[:5], values[5:]), strict=True):
        assert value == pytest.approx(sum(part) / 5, rel=1e-5)


def test_a_metric_can_be_left_out_of_training() -> None:
    reports = Reports()
    trainer = make(Metrics({"accuracy": {**ACCURACY, "train": False}}, losses=False), reports)
    trainer.fit()
    assert {name for _, scalars in reports.all for name in scalars} == {"validation/accuracy"}


@pytest.mark.parametrize("stop", [1, 5, 7, 12])
def test_sums_resume_bit_for_bit(stop: int) -> None:
    metrics = {"accuracy": ACCURACY, "f1": F1}
    whole = make(Metrics(metrics), reports := Reports(), log=4)
    whole.fit()
    make(Metrics(metrics), saved := Saved(), log=4, max_steps=stop).fit()
    rest = make(Metrics(metrics), late := Reports(), log=4)
    rest.load_state_dict(saved.state)
    rest.fit()
    for name in ("train/accuracy", "train/f1", "train/loss/classify/ce", "train/epoch/f1"):
        after = [(step, value) for step, value in reports.of(name) if step >= stop]
        assert [point for point in late.of(name) if point[0] > stop or after[0] == point] == after


def test_accuracy_of_the_likeliest_and_of_soft_labels() -> None:
    logits, label = torch.randn(50, 7), torch.randint(7, (50,))
    ranks = (logits > logits[torch.arange(50), label, None]).sum(1)
    for top in (1, 2, 5):
        assert accuracy(logits, label, top=top) == (ranks < top).float().mean()
    soft = functional.one_hot(label, 7).float()
    assert accuracy(logits, soft) == accuracy(logits, label)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**ACCURACY, "type": "acuracy"}, "Did you mean 'accuracy'"),
        ({**ACCURACY, "tops": 2}, "tops"),
        ({"type": "accuracy", "input": "logits"}, "target"),
        ({**F1, "num_classes": -1}, "num_classes"),
        ({**F1, "type": "torchmetrics.classification.MulticlassF2Score"}, "MulticlassF1Score"),
    ],
)
def test_what_cannot_be_made_is_an_error_at_once(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Metrics({"mine": spec})


def test_a_key_that_nothing_writes_is_named() -> None:
    trainer = make(Metrics({"mine": {**ACCURACY, "input": "logit"}}))
    with pytest.raises(ConfigError, match="'mine' reads 'logit'.*Did you mean 'logits'"):
        trainer.fit()


def test_a_users_function_and_a_users_class() -> None:
    class Largest:
        def reset(self) -> None:
            self.value = torch.tensor(-1.0)

        __init__ = reset

        def update(self, logits: torch.Tensor) -> None:
            self.value = torch.maximum(self.value, logits.max())

        def compute(self) -> torch.Tensor:
            return self.value

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.value = state["value"]

    def share(input: torch.Tensor) -> torch.Tensor:
        return (input > 0).float()

    trainer = make(
        Metrics(
            {
                "largest": Metric("largest", Largest, input="logits"),
                "share": Metric("share", share, input="logits"),
            }
        )
    )
    trainer.fit()
    logits, _ = validated(trainer)
    found = trainer.evaluate()
    assert found["largest"] == pytest.approx(logits.max().item(), rel=1e-5)
    assert found["share"] == pytest.approx((logits > 0).float().mean().item(), rel=1e-5)


def test_nothing_keeps_a_graph() -> None:
    tally = FunctionTally(lambda x: x)
    weight = torch.tensor(1.0, requires_grad=True)
    tally.update([weight * 2], 1)
    assert not tally.window().requires_grad


def test_a_loss_whose_window_has_closed_is_not_reported_again() -> None:
    trainer = make(Metrics(), reports := Reports(), log=1)
    term = LossTerm("early", {"type": "direct", "input": "logits", "before": 6})
    trainer.steps["classify"].losses["early"] = term
    trainer.fit()
    name = "loss/classify/early"
    assert [step for step, _ in reports.of(f"train/{name}")] == list(range(7))
    assert [step for step, _ in reports.of(f"train/epoch/{name}")] == [5, 10]
    assert [step for step, _ in reports.of(f"validation/{name}")] == [5]
    assert not [key for key in trainer.shared["metrics"] if key.endswith(name)]


def test_a_metric_of_keys_that_come_later_is_measured_from_then_on() -> None:
    trainer = make(
        Metrics({"late": {"type": "mean", "input": "later"}}), reports := Reports(), log=1
    )
    spec = {"type": "direct", "in": "logits", "out": "later", "after": 3}
    step = trainer.steps["classify"]
    step.injections.append(Injection("later", spec))
    step.writes |= {"later"}
    trainer.fit()
    assert [step for step, _ in reports.of("train/late")] == list(range(3, 15))


def by_labels(input: torch.Tensor) -> float:
    return input.mean().item()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**ACCURACY, "input": "label"}, r"'mine' cannot be computed of 'label' of shape \(8,\)"),
        ({**F1, "num_classes": 5}, r"'mine' cannot be computed of .*'label' of shape \(8,\)"),
        ({"type": by_labels, "input": "logits"}, "'mine' cannot be computed of .*AttributeError"),
    ],
)
def test_a_metric_that_cannot_be_computed_is_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(Metrics({"mine": spec})).fit()
