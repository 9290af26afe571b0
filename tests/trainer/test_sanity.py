"""What cannot work is told before the first step, all at once; looking changes nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from small_task import classify, make, tensors
from torch import nn

from dni.errors import ConfigError
from dni.trainer.callbacks import Metrics, SanityCheck
from dni.trainer.data import Source
from dni.trainer.evaluators import Entry, Evaluator, attach_evaluators
from dni.trainer.phases import ValidationPhase
from dni.trainer.state import State
from dni.trainer.steps import Step
from dni.trainer.trainer import Trainer


def refused(trainer: Trainer) -> str:
    with pytest.raises(ConfigError, match="The run would not work") as error:
        trainer.fit()
    assert trainer.counters.step == 0
    return str(error.value)


def test_looking_changes_nothing() -> None:
    plain, checked = make(Metrics()), make(Metrics(), SanityCheck())
    plain.fit()
    checked.fit()
    assert plain.record.latest == checked.record.latest
    for ours, theirs in zip(
        checked.networks["net"].state_dict().values(),
        plain.networks["net"].state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_missing_data_is_told() -> None:
    trainer = make(SanityCheck())
    trainer.data["trian"] = trainer.data.pop("train")
    assert "no training data: add 'train' to `data`. Did you mean 'trian'?" in refused(trainer)


def test_missing_validation_data_is_a_warning_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dni.trainer"):
        make(SanityCheck(), validation=False).fit()
    assert "no validation data" in caplog.text


def test_data_without_a_batch_is_told() -> None:
    trainer = make(SanityCheck())
    trainer.data["validation"] = Source(tensors(0, 1))
    assert "The data 'validation' gives no batch" in refused(trainer)


def test_a_batch_that_is_no_dictionary_is_told() -> None:
    trainer = make(SanityCheck())
    trainer.data["train"] = Source([[torch.zeros(2, 6)]], keys=["image", "label"])
    assert "'train' gives no batch" in refused(trainer)


def test_nothing_that_steps_an_optimizer_is_told() -> None:
    trainer = make(SanityCheck())
    trainer.steps = {"look": Step("look", injectors={})}
    assert "Nothing steps an optimizer" in refused(trainer)


@pytest.mark.parametrize(
    ("injector", "loss", "said"),
    [
        ({"in": "imgae"}, {}, "injector 'forward' reads 'imgae'"),
        ({}, {"target": "lable"}, "loss 'ce' reads 'lable'"),
        ({"out": "y"}, {}, "loss 'ce' reads 'logits'"),
    ],
)
def test_a_key_that_nothing_writes_is_told(
    injector: dict[str, Any], loss: dict[str, Any], said: str
) -> None:
    trainer = make(SanityCheck())
    net = trainer.networks["net"]
    made = classify(net)
    trainer.steps = {
        "classify": Step(
            "classify",
            training=["net"],
            strategy=made.strategy,
            injectors={
                "forward": {
                    "type": "call",
                    "network": "net",
                    "in": "image",
                    "out": "logits",
                    **injector,
                }
            },
            losses={"ce": {"type": "cross_entropy", "input": "logits", "target": "label", **loss}},
        )
    }
    found = refused(trainer)
    assert said in found
    assert "Did you mean" in found or "Valid: 'image', 'label', 'y'" in found


def test_a_step_that_fails_is_told_with_the_shapes() -> None:
    trainer = make(SanityCheck())
    wrong = nn.Linear(5, 2)
    trainer.networks["net"], trainer.steps["classify"] = wrong, classify(wrong)
    found = refused(trainer)
    assert "does not go through the step 'classify'" in found
    assert "'image': (8, 6)" in found
    assert wrong.training


def test_everything_is_told_at_once() -> None:
    trainer = make(SanityCheck())
    trainer.steps = {"look": Step("look", injectors={"a": {"type": "direct", "in": "b"}})}
    trainer.data["validation"] = Source(tensors(0, 1))
    assert refused(trainer).count("\n  - ") == 3


def test_a_resumed_run_is_not_checked_again() -> None:
    first = make(SanityCheck(), max_epochs=1)
    first.fit()
    rest = make(SanityCheck(), max_epochs=2)
    rest.load_state_dict(first.state_dict())
    rest.data["extra"] = Source(tensors(0, 1))
    rest.fit()
    assert "The data 'extra' gives no batch" in refused_with_extra()


def refused_with_extra() -> str:
    trainer = make(SanityCheck())
    trainer.data["extra"] = Source(tensors(0, 1))
    return refused(trainer)


class Writing(ValidationPhase):
    """Writes a key that no step knows of."""

    def step(self, trainer: Trainer, batch: State) -> None:
        batch.logit = batch.image
        super().step(trainer, batch)


def test_an_evaluator_that_reads_what_a_step_of_python_does_not_write_is_told() -> None:
    class Look(Evaluator):
        reads = ("logit",)

        def result(self, trainer: Trainer) -> dict[str, Any]:
            return {}

    def classify_(trainer: Any, batch: Any, phase: Any) -> None:
        batch.logits = trainer.networks["net"](batch.image)

    trainer = make(SanityCheck())
    trainer.steps = {"classify": classify_}
    attach_evaluators(trainer, [Entry("look", Look())])
    assert "evaluator 'look' reads 'logit'" in (found := refused(trainer))
    assert "Did you mean 'logits'" in found
    trainer.phases[1] = Writing()
    trainer.fit()
    Look.reads = ("logits",)
    trainer.phases[1] = ValidationPhase()
    trainer.max_epochs = 4
    assert trainer.fit() == "max_epochs"
