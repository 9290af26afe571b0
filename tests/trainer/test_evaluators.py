"""Evaluators from a config, beside and instead of validation, and what they may not do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dni.errors import ConfigError
from dni.trainer.build import build_trainer
from dni.trainer.config import load_config
from dni.trainer.evaluation import StoredOutputs, evaluations
from dni.trainer.evaluators import Evaluator
from dni.trainer.findings import Findings
from dni.trainer.phases import ValidationPhase
from dni.trainer.registry import EVALUATORS
from dni.trainer.trainer import Trainer

BASE = """\
data:
  train: {type: digits, split: train, batch_size: 500}
  validation: {type: digits, split: test, batch_size: 100}
networks: {net: {type: fcn, image: [1, 8, 8], hidden: [8]}}
optimizer: {type: sgd, lr: 0.1}
steps:
  s:
    training: net
    injectors: {forward: {type: call, network: net, in: image, out: logits}}
    losses: {ce: {type: cross_entropy, input: logits, target: label}}
metrics: {accuracy: {type: accuracy, input: logits, target: label}}
log: {tensorboard: false, csv: false, progress: false}
train: {max_epochs: 4}
"""
CALLS: list[str] = []


@EVALUATORS.register("notes")
class Notes(Evaluator):
    """Takes notes, and counts; `reads` and `calls` as told."""

    def __init__(
        self,
        reads: str | tuple[str, ...] = (),
        calls: str | tuple[str, ...] = (),
        needs_data: bool = True,
    ) -> None:
        self.reads, self.calls, self.needs_data = reads, calls, needs_data
        self.total = 0

    def begin(self, trainer: Trainer) -> None:
        CALLS.append(f"begin {trainer.counters.epoch}")
        self.seen, self.keys = 0, set()

    def update(self, trainer: Trainer, state: Any) -> None:
        assert not trainer.networks["net"].training
        assert not torch.is_grad_enabled()
        self.seen += len(state["image"])
        self.keys |= set(state)

    def result(self, trainer: Trainer) -> dict[str, Any]:
        self.total += 1
        weight = next(trainer.networks["net"].parameters()).detach()
        return {
            "seen": self.seen,
            "logits": "logits" in self.keys,
            "weight": weight.sum(),
            "picture": torch.zeros(4, 5, dtype=torch.uint8),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: Any) -> None:
        self.total = state["total"]


def build(folder: Path, text: str) -> Trainer:
    CALLS.clear()
    (folder / "base.yaml").write_text(BASE)
    (folder / "more.yaml").write_text(text)
    trainer = build_trainer(load_config([folder / "base.yaml", folder / "more.yaml"]))
    trainer.run = SimpleNamespace(path=folder / "run")
    return trainer


def test_point_08_an_evaluator_class_from_a_config(tmp_path: Path) -> None:
    trainer = build(
        tmp_path, f"evaluators: {{own: {{type: {__name__}.Notes, reads: [logits, label]}}}}"
    )
    trainer.fit()
    found = trainer.record.latest
    assert found["validation/own/seen"] == 360
    assert found["validation/own/logits"] == 1
    assert "validation/accuracy" in found
    assert CALLS == ["begin 0", "begin 1", "begin 2", "begin 3"]
    pictures = sorted((tmp_path / "run" / "images" / "validation" / "own" / "picture").iterdir())
    assert [picture.name for picture in pictures] == [f"{2 * n:07d}.png" for n in (1, 2, 3, 4)]
    assert trainer.evaluate()["own/seen"] == 360


def test_instead_of_validation(tmp_path: Path) -> None:
    trainer = build(tmp_path, "evaluators: {own: {type: notes, alone: true, reads: label}}")
    trainer.fit()
    found = trainer.record.latest
    assert found["validation/own/seen"] == 360
    assert found["validation/own/logits"] == 0  # no step was run
    assert "validation/accuracy" not in found
    assert trainer.evaluate()["own/seen"] == 360


def test_one_alone_and_one_beside(tmp_path: Path) -> None:
    text = "evaluators: {one: {type: notes, alone: true}, two: {type: notes}}"
    found = build(tmp_path, text).evaluate()
    assert (found["one/logits"], found["two/logits"]) == (0, 1)
    assert "accuracy" in found


def test_another_split_is_validated_for_it(tmp_path: Path) -> None:
    text = (
        "data: {more: {type: digits, split: test}}\nevaluators: {own: {type: notes, split: more}}"
    )
    trainer = build(tmp_path, text)
    trainer.fit()
    assert trainer.record.latest["more/own/seen"] == 360
    assert "more/accuracy" in trainer.record.latest


class Twice(ValidationPhase):
    """A validation of one's own, of which evaluators see the batches."""

    def step(self, trainer: Trainer, batch: Any) -> None:
        super().step(trainer, batch)
        batch["twice"] = 2 * batch["logits"]


def test_beside_a_validation_of_ones_own(tmp_path: Path) -> None:
    text = (
        f"phases: {{validation: {{type: {__name__}.Twice}}}}\nevaluators: {{own: {{type: notes}}}}"
    )
    trainer = build(tmp_path, text)
    assert sorted(type(phase).__name__ for phase in trainer.phases) == ["TrainingPhase", "Twice"]
    found = trainer.evaluate()
    assert found["own/seen"] == 360
    assert "twice" in trainer.callbacks.find("Evaluators").entries[0].evaluator.keys


@pytest.mark.parametrize("alone", ["true", "false"])
def test_every_so_many_epochs(tmp_path: Path, alone: str) -> None:
    text = f"evaluators: {{own: {{type: notes, every_epochs: 3, alone: {alone}}}}}"
    trainer = build(tmp_path, text)
    trainer.fit()
    assert CALLS == ["begin 2"]
    trainer.evaluate()  # whoever asks gets an answer
    assert CALLS == ["begin 2", "begin 4"]


def test_also_when_the_run_ends_by_its_steps(tmp_path: Path) -> None:
    trainer = build(
        tmp_path, "train: {max_steps: 3}\nevaluators: {own: {type: notes, every_epochs: 9}}"
    )
    trainer.fit()
    assert CALLS == ["begin 1"]


@pytest.mark.parametrize("alone", ["true", "false"])
def test_one_without_data_sees_the_average_of_the_weights(tmp_path: Path, alone: str) -> None:
    trainer = build(
        tmp_path,
        f"evaluators: {{own: {{type: notes, needs_data: false, alone: {alone}}}}}\n"
        "ema: {rate: 0.5}\ntrain: {max_epochs: 1}",
    )
    trainer.fit()
    found = trainer.record.latest
    assert found["validation/own/seen"] == 0
    averages = trainer.callbacks.find("EMA").averages
    average, last = (
        float(next(network.parameters()).detach().sum())
        for network in (averages["net"].module, trainer.networks["net"])
    )
    assert average != pytest.approx(last)
    assert found["validation/own/weight"] == pytest.approx(average)


def test_their_state_is_in_checkpoints(tmp_path: Path) -> None:
    text = "evaluators: {own: {type: notes}}"
    trainer = build(tmp_path, text)
    trainer.fit()
    other = build(tmp_path, text)
    other.load_state_dict(trainer.state_dict())
    assert other.callbacks.find("Evaluators").entries[0].evaluator.total == 4
    assert other.counters.step == 8
    anew = build(tmp_path, text)
    anew.load_state_dict(trainer.state_dict(), restart=True)
    assert anew.callbacks.find("Evaluators").entries[0].evaluator.total == 4
    assert anew.counters.step == 0
    for name, value in trainer.networks["net"].state_dict().items():
        assert torch.equal(anew.networks["net"].state_dict()[name], value)


class TestBadInput:
    """One clear sentence each."""

    def test_a_key_that_nothing_writes_is_told_before_training(self, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError,
            match=r"more.yaml:1: evaluators/own: it reads 'logit'.*Did you mean 'logits'",
        ):
            build(tmp_path, "evaluators: {own: {type: notes, reads: [logit]}}")

    def test_alone_it_has_the_keys_of_the_data_only(self, tmp_path: Path) -> None:
        text = "evaluators: {own: {type: notes, reads: [logits], alone: true}}"
        with pytest.raises(ConfigError, match="yaml:1: evaluators/own: it reads 'logits'"):
            build(tmp_path, text)

    def test_a_network_that_is_not_there_is_told_before_training(self, tmp_path: Path) -> None:
        text = "evaluators: {own: {type: notes, calls: nte}}"
        with pytest.raises(ConfigError, match="'own' calls the network 'nte'.*mean 'net'"):
            build(tmp_path, text)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("evaluators: {own: {type: notes, split: validatoin}}", "Did you mean 'validation'"),
            ("evaluators: {own: {type: notes}}\nvalidate: {every_epochs: null}", "never run"),
            ("evaluators: {own: {type: torch.nn.ReLU}}", "no `Evaluator`"),
            ("evaluators: {own: {type: note}}", "Did you mean 'notes'"),
            ("evaluators: {own: {type: notes, red: [label]}}", "Did you mean 'reads'"),
            ("evaluation: {keys: [logit]}", "evaluation/keys: it reads 'logit'"),
            ("evaluation: {key: logits}", "Did you mean 'keys'"),
            ("steps: {s: {log_op: {every: 2}}}", "steps/s/log_op: only a class with `step_op`"),
            (
                "steps: {s: {losses: {ce: {weight: {ramp: [10, 0, 5, 1]}}}}}",
                "more.yaml:1: .*starts at step 10 and ends at 5, before it",
            ),
        ],
    )
    def test_in_the_config(self, tmp_path: Path, text: str, match: str) -> None:
        with pytest.raises(ConfigError, match=match):
            build(tmp_path, text)

    @pytest.mark.parametrize(
        ("result", "match"),
        [
            (3, "returned a int; a mapping"),
            ({"x": torch.zeros(3)}, r"'x' as a Tensor of shape \(3,\)"),
            ({"x": [1, 2]}, "'x' as a list"),
            ({"x": torch.zeros(4, 4, 3, dtype=torch.uint8)}, r"\[3, H, W\]"),
        ],
    )
    def test_a_result_that_cannot_be_reported(self, result: Any, match: str) -> None:
        with pytest.raises(ConfigError, match=f"evaluator 'own' .*{match}"):
            Findings.of(result, by="evaluator 'own'")


def test_results_are_sorted() -> None:
    image = np.zeros((3, 4, 5), np.uint8)
    found = Findings.of(
        {"scalars": {"a": np.float32(0.5)}, "images": {"b": image}, "c": {"d": torch.tensor([2])}},
        by="x",
    )
    assert found.scalars == {"a": 0.5, "c/d": 2.0}
    assert found.images["b"].shape == (3, 4, 5)
    assert Findings.of(None, by="x") == Findings()


def errors(folder: Path, outputs: StoredOutputs, data: Any, config: dict[str, Any]) -> Any:
    wrong = [outputs[i]["logits"].argmax() != data[i]["label"] for i in range(len(outputs))]
    assert config["evaluation"]["keys"] == ["logits", "label"]
    assert folder == outputs.folder
    return {"error": np.mean(wrong)}


class TestStoring:
    """Outputs of a run on disk."""

    TEXT = f"""\
evaluation:
  keys: [logits, label]
  every_epochs: 2
  functions: {{wrong: "{__name__}:errors"}}
"""

    def test_at_the_end_of_epochs_with_functions_on_them(self, tmp_path: Path) -> None:
        trainer = build(tmp_path, self.TEXT)
        trainer.fit()
        folders = evaluations(tmp_path / "run")
        assert [folder.name for folder in folders] == [
            "validation_step-00000004",
            "validation_step-00000008",
        ]
        found = trainer.record.latest
        assert found["validation/wrong/error"] == pytest.approx(1 - found["validation/accuracy"])
        text = (folders[1] / "results" / "wrong.json").read_text()
        assert json.loads(text)["error"] == found["validation/wrong/error"]

    @pytest.mark.parametrize("shuffle", ["true", "false"])
    def test_rows_are_examples_also_where_they_were_shuffled(
        self, tmp_path: Path, shuffle: str
    ) -> None:
        text = self.TEXT + f"data: {{validation: {{shuffle: {shuffle}}}}}"
        trainer = build(tmp_path, text)
        trainer.evaluate()
        outputs = StoredOutputs(evaluations(tmp_path / "run")[0], trainer.data["validation"])
        labels = trainer.data["validation"].dataset.tensors["label"].numpy()
        assert np.array_equal(outputs.column("label"), labels)

    def test_data_that_leaves_examples_out_is_refused(self, tmp_path: Path) -> None:
        trainer = build(tmp_path, self.TEXT + "data: {validation: {drop_last: true}}")
        with pytest.raises(ConfigError, match="drop_last: false"):
            trainer.evaluate()

    def test_a_mean_is_refused(self, tmp_path: Path) -> None:
        build(tmp_path, self.TEXT).evaluate()
        trainer = build(tmp_path, "evaluation: {keys: loss/s/ce}")
        with pytest.raises(ConfigError, match="'instances/s/ce'"):
            trainer.evaluate()
        # What was stored before is still there, and whole.
        assert list(StoredOutputs(evaluations(tmp_path / "run")[0]).index["keys"]) == [
            "logits",
            "label",
        ]

    def test_a_loss_whose_window_is_closed_writes_nothing(self, tmp_path: Path) -> None:
        text = "evaluation: {keys: instances/s/ce}\nsteps: {s: {losses: {ce: {after: 99}}}}"
        trainer = build(tmp_path, text)
        with pytest.raises(ConfigError, match="'instances/s/ce', which nothing has .* at step 0"):
            trainer.evaluate()
