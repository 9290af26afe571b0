"""Statistics of synthesizers in the record, and their heat map."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy
import pytest
from small_task import DNI, make

from dni.errors import ConfigError
from dni.trainer.callbacks import DNIStatistics
from dni.trainer.callbacks.dni_statistics import VALUES, heat_map
from dni.trainer.events import Callback


def test_every_site_is_reported_at_every_log(tmp_path: Path) -> None:
    class Truth(Callback):
        def __init__(self) -> None:
            self.all: dict[str, dict[int, dict[str, Any]]] = {}

        def on_log(self, trainer: Any, phase: Any) -> None:
            for site, values in trainer.steps["classify"].strategy.statistics().items():
                self.all.setdefault(site, {})[trainer.counters.step] = dict(values)

    trainer = make(
        truth := Truth(), statistics := DNIStatistics(VALUES), optimizer=DNI, folder=tmp_path
    )
    trainer.fit()
    assert len(truth.all) >= 2
    for site, points in truth.all.items():
        last = points[max(points)]
        for value in VALUES:
            assert trainer.record.value(f"dni/classify/{site}/{value}") == last[value]
        cosines = [(step, values["cosine"]) for step, values in points.items()]
        assert statistics.cosines["classify"][site] == cosines
    assert trainer.shared["dni"] is statistics.cosines
    assert (tmp_path / "dni_classify.png").read_bytes()[:4] == b"\x89PNG"


def test_backprop_has_none(tmp_path: Path) -> None:
    trainer = make(DNIStatistics(), folder=tmp_path)
    trainer.fit()
    assert not any(name.startswith("dni/") for name in trainer.record.latest)
    assert list(tmp_path.iterdir()) == []


def test_the_map_holds_every_value_at_its_step_and_site() -> None:
    curves = {"a": [(0, 0.5), (10, -1.0)], "b": [(10, 0.25)], "": [(0, 1.0), (30, 0.0)]}
    axes = heat_map(curves).axes[0]
    nan = numpy.nan
    expected = [[0.5, -1.0, nan], [nan, 0.25, nan], [1.0, nan, 0.0]]
    found = numpy.ma.filled(axes.collections[0].get_array(), nan)
    numpy.testing.assert_array_equal(found.reshape(3, 3), expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "(network)"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first site is on top
    with pytest.raises(ConfigError, match="no point"):
        heat_map({"a": []})


def test_the_history_resumes() -> None:
    class Saved(Callback):
        def on_checkpoint(self, trainer: Any, phase: Any) -> None:
            self.state = copy.deepcopy(trainer.state_dict())

    make(whole := DNIStatistics(), optimizer=DNI).fit()
    make(DNIStatistics(), saved := Saved(), optimizer=DNI, max_steps=7).fit()
    rest = make(late := DNIStatistics(), optimizer=DNI)
    rest.load_state_dict(saved.state)
    rest.fit()
    assert late.cosines == whole.cosines


def test_a_misspelt_statistic_is_named() -> None:
    with pytest.raises(ConfigError, match="'cosin' of a site. Did you mean 'cosine'"):
        DNIStatistics(["cosin"])
