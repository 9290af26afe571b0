"""Callbacks: who hears what, names and states, adding and removing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import loops
import pytest

from dni.errors import ConfigError, DNIWarning
from dni.trainer.events import EVENTS, Callback, throttle
from dni.trainer.ordering import Callbacks
from dni.trainer.phases import Phase
from dni.trainer.trainer import Trainer


class Count(Callback):
    def __init__(self) -> None:
        self.count = 0

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


def test_an_event_that_nobody_hears_has_no_handlers() -> None:
    callbacks = Callbacks([Count()])
    heard = [event for event in EVENTS if callbacks.handlers[event]]
    assert heard == ["step_end"]


def test_events_of_ones_own_carry_values() -> None:
    class Ear(Callback):
        def on_update(self, trainer: Trainer, phase: Phase, site: str) -> None:
            trainer.shared["site"] = (phase.name, site)

    trainer = loops.make([Ear()])
    trainer.handle("update", site="0")
    assert trainer.shared["site"] == ("train", "0")


def test_a_misspelt_method_draws_a_warning_with_the_nearest_event() -> None:
    class Deaf(Callback):
        def on_step_ended(self, trainer: Trainer, phase: Phase) -> None:
            """Never called."""

    with pytest.warns(DNIWarning, match="`Deaf` has a method `on_step_ended`.*mean 'step_end'"):
        callbacks = Callbacks([Deaf()])
    callbacks.add(Count())  # the same callback is not told of again
    callbacks.remove(callbacks.find(Deaf))
    with pytest.warns(DNIWarning, match="'step_end'"):
        callbacks.add(Deaf())


def test_an_event_of_ones_own_draws_none_where_it_is_declared() -> None:
    class Ear(Callback):
        events = ("mine",)

        def on_mine(self, trainer: Trainer, phase: Phase) -> None:
            trainer.shared["heard"] = trainer.shared.get("heard", 0) + 1

    trainer = loops.make([throttle(Ear(), "mine", every=2)])
    for _ in range(4):
        trainer.handle("mine")
    assert trainer.shared == {"heard": 2}


def test_callbacks_come_and_go() -> None:
    first, second = Count(), Count()
    trainer = loops.make([first], validates=False)
    trainer.fit()
    trainer.callbacks.add(second)
    trainer.callbacks.remove(first)
    trainer.max_epochs = 2
    trainer.fit()
    assert (first.count, second.count) == (2, 2)
    assert trainer.callbacks.find(Count) is trainer.callbacks.find("Count") is second
    assert trainer.callbacks.find("Other") is None


def test_states_go_by_name_and_number() -> None:
    class Silent(Callback):
        pass

    counts = [Count(), Silent(), Count(), throttle(Count(), "step_end", every=2)]
    callbacks = Callbacks(counts)
    for index, callback in enumerate(counts):
        if isinstance(callback, Count):
            callback.count = index
    counts[3].on_step_end(None, None)  # type: ignore[attr-defined]
    state = callbacks.state_dict()
    assert state == {
        "Count": {"count": 0},
        "Count-2": {"count": 2},
        "Count-3": {"count": 1, "callback": {"count": 1}},
    }
    again = Callbacks([Count(), Count(), throttle(Count(), "step_end", every=2)])
    again.load_state_dict(state)
    assert again.state_dict() == state
    Callbacks([Silent()]).load_state_dict(state)


def test_run_after_names_a_class_or_is_passed_over() -> None:
    class Last(Callback):
        run_after = (Count, "Nobody")

    class Very(Callback):
        run_after = ("Last",)

    ordered = Callbacks([Very(), Last(), throttle(Count(), "step_end", every=2)])
    assert [callback.name for callback in ordered] == ["Count", "Last", "Very"]


def test_a_reader_that_says_so_runs_before_the_writer() -> None:
    class Writer(Callback):
        writes = ("a",)
        run_after = ("Reader",)

    class Reader(Callback):
        reads = ("a",)

    assert [callback.name for callback in Callbacks([Writer(), Reader()])] == ["Reader", "Writer"]


def test_what_the_trainer_provides_needs_no_writer() -> None:
    class Reader(Callback):
        reads = ("step/logits", "networks", "record/loss")

    assert len(Callbacks([Reader()])) == 1
    Reader.reads = ("logits",)
    with pytest.raises(ConfigError, match="current batch is 'step/logits'"):
        Callbacks([Reader()])
