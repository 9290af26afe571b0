"""Phases of a config: which run, in which epochs, in which order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import loops
import pytest

from dni.errors import ConfigError
from dni.trainer.build import build_trainer
from dni.trainer.config import load_config
from dni.trainer.phases import Phase, TrainingPhase
from dni.trainer.trainer import Trainer

BASE = """\
data:
  train: {type: digits, split: train, batch_size: 700}
  validation: {type: digits, split: test, batch_size: 360}
networks: {net: {type: fcn, image: [1, 8, 8], hidden: [4]}}
optimizer: sgd
steps:
  s:
    training: net
    injectors: {forward: {type: call, network: net, in: image, out: logits}}
    losses: {ce: {type: cross_entropy, input: logits, target: label}}
metrics: {accuracy: {type: accuracy, input: logits, target: label}}
log: {tensorboard: false, csv: false, progress: false}
checkpoint: {every_epochs: null}
train: {max_epochs: 3}
"""


class Warmup(TrainingPhase):
    """Trains on the validation data."""

    split = "validation"


class Look(Phase):
    """Writes nothing that a metric reads."""

    def __init__(self, key: str = "seen") -> None:
        self.key = key

    def step(self, trainer: Trainer, batch: Any) -> None:
        seen = trainer.shared.setdefault(self.key, [])
        seen.append((trainer.counters.epoch, self.split, len(batch.image)))


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Any]:
    module = ModuleType("own_phases")
    module.Warmup, module.Look = Warmup, Look  # type: ignore[attr-defined]
    sys.modules["own_phases"] = module

    def build_(text: str, *words: tuple[str, str]) -> Trainer:
        (tmp_path / "base.yaml").write_text(BASE)
        (tmp_path / "more.yaml").write_text(text)
        files = [tmp_path / "base.yaml", tmp_path / "more.yaml"]
        return build_trainer(load_config(files, words))

    yield build_
    del sys.modules["own_phases"]


def order(trainer: Trainer) -> list[str]:
    """Which phase began in which epoch."""
    notes = loops.Notes(lambda trainer: trainer.counters.epoch)
    trainer.callbacks.add(notes)
    trainer.fit()
    begins = ("epoch_begin", "validate_begin")
    return [f"{epoch} {line.split()[0]}" for line, epoch in notes.lines if line.endswith(begins)]


def test_training_and_validation_are_there_without_being_named(build: Any) -> None:
    assert order(build("seed: 0"))[:2] == ["0 train", "0 validation"]


def test_a_phase_of_ones_own_comes_first_and_in_its_epochs(build: Any) -> None:
    trainer = build("""\
phases:
  warmup: {type: own_phases.Warmup, before: 1}
  look: {type: own_phases.Look, split: train, after: 1, key: mine}
""")
    assert order(trainer) == [
        *("0 warmup", "0 train", "0 validation"),
        *("1 warmup", "1 train", "1 look", "1 validation"),
        *("2 train", "2 look", "2 validation"),
    ]
    assert trainer.counters.step == 2 * 1 + 3 * 2
    assert trainer.shared["mine"] == [(1, "train", 700), (1, "train", 700), (1, "train", 37)] + [
        (2, "train", 700),
        (2, "train", 700),
        (2, "train", 37),
    ]


def test_the_order_is_that_of_the_file_and_null_takes_out(build: Any) -> None:
    trainer = build("""\
phases:
  train: training
  later: {type: own_phases.Warmup, every: 2}
  validation: null
""")
    assert order(trainer) == ["0 train", "0 later", "1 train", "2 train", "2 later"]


def test_an_interrupted_epoch_of_two_phases_goes_on_where_it_was(
    build: Any, tmp_path: Path
) -> None:
    text = "phases: {warmup: {type: own_phases.Warmup, every: 2}}"
    whole = build(text)
    whole.fit()
    half = build(text, ("train/max_epochs", "null"), ("train/max_steps", "5"))
    half.fit()  # 0: warmup, train, train; 1: train, train; 2: warmup, ...
    half.save(tmp_path / "half.pt")
    rest = build(text)
    rest.load(tmp_path / "half.pt")
    rest.fit()
    assert rest.counters == whole.counters
    assert loops.equal(loops.parameters(rest), loops.parameters(whole))


def test_a_metric_that_no_phase_can_measure_is_an_error(build: Any) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'logits'"):
        build("metrics: {accuracy: {input: logit}}")
    trainer = build("phases: {train: {type: own_phases.Look, split: train}, validation: null}")
    trainer.phases[0].training = True
    with pytest.raises(ConfigError, match="'accuracy' reads 'logits', which neither"):
        trainer.fit()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{a: {type: own_phases.Lok}}", ["phases/a", "Did you mean 'Look'?"]),
        ("{a: {type: own_phases.Look, kee: x}}", ["phases/a/kee", "Did you mean 'key'?"]),
        ("{a: {type: own_phases.Look, split: trian}}", ["phases/a/split", "Did you mean 'train'?"]),
        ("{a: {type: builtins.dict}}", ["phases/a", "made a dict", "`Phase`"]),
        ("{a: {type: trainin}}", ["phases/a", "Did you mean 'training'?"]),
        ("{a: {type: training, every: 0}}", ["phases/a/every"]),
    ],
)
def test_what_is_wrong_with_a_phase_is_told(build: Any, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as info:
        build(f"phases: {text}")
    for part in parts:
        assert part in str(info.value)
