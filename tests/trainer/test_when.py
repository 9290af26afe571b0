"""When something happens: windows, distances, growth, seconds."""

from __future__ import annotations

from typing import Any

import pytest

from dni.errors import ConfigError
from dni.trainer.when import When


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ({"every": 4}, [0, 4, 8]),
        ({"every": 4, "at_zero": False}, [4, 8]),
        ({"every": 4, "after": 1}, [1, 5, 9]),
        ({"every": 4, "after": 1, "before": 5}, [1, 5]),
        ({"after": 9}, [9, 10, 11]),
        ({"every": 10, "growth": 2}, [0, 1, 2, 4, 8, 10]),
        ({"every": 10, "growth": 3, "after": 1}, [1, 2, 4, 10, 11]),
        ({"every": 5, "growth": 1.5}, [0, 1, 2, 3, 5, 10]),
    ],
)
def test_it_fires_at_the_right_steps(options: dict[str, Any], steps: list[int]) -> None:
    assert [step for step in range(12) if When(**options).fires(step)] == steps


def test_growth_reaches_every_and_goes_on_from_there() -> None:
    fired = [step for step in range(201) if When(every=50, growth=2).fires(step)]
    assert fired == [0, 1, 2, 4, 8, 16, 32, 50, 100, 150, 200]


def test_seconds_count_from_the_last_firing() -> None:
    now = [0.0]
    when = When(seconds=2, clock=lambda: now[0])
    fired = []
    for step in range(7):
        now[0] = step * 0.9
        if when.fires(step):
            fired.append(step)
    assert fired == [0, 3, 6]


def test_of_a_config() -> None:
    assert When.of({"every": 2, "until": 8}) == When(every=2, before=8)
    with pytest.raises(ConfigError, match="'evry' says no times. Did you mean 'every'"):
        When.of({"evry": 2})
    with pytest.raises(ConfigError, match="says no times; give a number"):
        When.of("often")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"every": 0}, {"every": 1.5}, {"every": True}, {"after": -1}, {"growth": 1}, {"seconds": -1}],
)
def test_numbers_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(options))}` is "):
        When(**options)
