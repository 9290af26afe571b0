"""Which keys of the state two injectors may both write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from dni.trainer.build import build_trainer
from dni.trainer.config import load_config
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
    injectors: {}
    losses: {ce: {type: cross_entropy, input: logits, target: label}}
log: {tensorboard: false, csv: false, progress: false}
train: {max_epochs: 2}
"""
FORWARD = "forward: {type: call, network: net, in: x, out: logits}"


@pytest.fixture
def build(tmp_path: Path) -> Any:
    def build_(*injectors: str) -> Trainer:
        lines = "".join(f"      {line}\n" for line in (*injectors, FORWARD))
        (tmp_path / "base.yaml").write_text(BASE.replace(" {}\n", f"\n{lines}"))
        return build_trainer(load_config([tmp_path / "base.yaml"]))

    return build_


@pytest.mark.parametrize(
    "other",
    [
        ("{type: add_noise, in: image, out: x, eval: false}", "{in: image, out: x, train: false}"),
        ("{type: add_noise, in: image, out: x, before: 1}", "{in: image, out: x, after: 2}"),
    ],
)
def test_two_that_never_meet_may_write_one_key(build: Any, other: tuple[str, str]) -> None:
    first, second = other
    trainer = build(f"noisy: {first}", f"plain: {second.replace('{', '{type: direct, ', 1)}")
    trainer.fit()
    assert trainer.counters.step == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("eval: false", "eval: false"),
        ("train: false", "eval: true"),
        ("before: 2", "after: 2"),
        ("every: 2", "after: 1"),
    ],
)
def test_two_that_may_meet_may_not(build: Any, first: str, second: str) -> None:
    with pytest.raises(ConfigError) as info:
        build(
            f"noisy: {{type: add_noise, in: image, out: x, {first}}}",
            f"plain: {{type: direct, in: image, out: x, {second}}}",
        )
    assert "writes 'x', which injector 'noisy' of step 's' has written already" in str(info.value)


def test_a_function_of_c_may_be_an_injector(build: Any) -> None:
    trainer = build(
        "halves: {type: torch.chunk, in: image, chunks: 2, dim: 2, out: [a, b]}",
        "whole: {type: concatenate, in: [b, a], dim: 2, out: x}",
    )
    trainer.fit()
    assert trainer.counters.step == 4
