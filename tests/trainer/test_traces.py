"""Traces: any function of the trainer over the steps."""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import torch
from small_task import make

from dni.errors import ConfigError
from dni.trainer.callbacks import Traces
from dni.trainer.events import Callback


def first(trainer: Any) -> torch.Tensor:
    """The live weight, which the next step changes in place."""
    return trainer.networks["net"][0].weight[0, 0]


def step(trainer: Any) -> int:
    return trainer.counters.step


def test_values_are_those_of_their_step() -> None:
    class Truth(Callback):
        def __init__(self) -> None:
            self.all: list[tuple[int, float]] = []

        def on_step_end(self, trainer: Any, phase: Any) -> None:
            if phase.training:
                self.all.append((trainer.counters.step, first(trainer).item()))

    trainer = make(truth := Truth(), Traces({"first": first, "step": step}))
    trainer.fit()
    history = trainer.shared["traces"]
    assert history["first"] == truth.all
    assert history["step"] == [(k, float(k)) for k in range(15)]
    last = max(k for k in range(15) if trainer.log.fires(k))
    assert trainer.record.value("trace/first") == dict(truth.all)[last]


def test_only_when_it_is_time_and_in_the_phases_it_is_for() -> None:
    trainer = make(Traces({"step": step}, when={"every": 4, "after": 2}))
    trainer.fit()
    assert [k for k, _ in trainer.shared["traces"]["step"]] == [2, 6, 10, 14]
    trainer = make(Traces({"size": lambda t: t.batch_size}, training=False), max_epochs=1)
    trainer.fit()
    assert [value for _, value in trainer.shared["traces"]["size"]] == [8, 8, 5]


def test_an_import_path_is_found_and_a_wrong_one_named() -> None:
    assert Traces({"x": "operator.truth"}).functions["x"] is operator.truth
    with pytest.raises(ConfigError, match="Did you mean 'truth'"):
        Traces({"x": "operator.trutt"})
    with pytest.raises(ConfigError, match="empty"):
        Traces({})


@pytest.mark.parametrize("value", [torch.zeros(3), "text", None])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="The trace 'x' is to return one number"):
        make(Traces({"x": lambda _: value})).fit()


def test_the_history_resumes() -> None:
    class Saved(Callback):
        def on_checkpoint(self, trainer: Any, phase: Any) -> None:
            self.state = copy.deepcopy(trainer.state_dict())

    (whole := make(Traces({"first": first}))).fit()
    make(Traces({"first": first}), saved := Saved(), max_steps=7).fit()
    rest = make(Traces({"first": first}))
    rest.load_state_dict(saved.state)
    rest.fit()
    assert rest.shared["traces"] == whole.shared["traces"]
