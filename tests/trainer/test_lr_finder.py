"""The learning rate finder: what it suggests, and that the run does not notice it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import ADAM, DNI, make

from dni.errors import ConfigError
from dni.trainer.callbacks import LRFinder, Metrics
from dni.trainer.callbacks.lr_finder import LRCurve, find_lr

SGD = {"type": "sgd", "lr": 1e-3}


@pytest.mark.parametrize("optimizer", [ADAM, SGD, DNI], ids=["adamw", "sgd", "dni"])
def test_the_run_does_not_notice_it(optimizer: dict[str, Any]) -> None:
    plain = make(Metrics(), optimizer=optimizer)
    plain.fit()
    trainer = make(Metrics(), optimizer=optimizer)
    curve = find_lr(trainer, count=30, end=10.0)
    assert len(curve.rates) >= 10
    trainer.fit()
    assert trainer.record.latest == plain.record.latest
    for ours, theirs in zip(
        trainer.networks["net"].state_dict().values(),
        plain.networks["net"].state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_rates_grow_by_a_constant_factor_until_the_loss_diverges() -> None:
    curve = find_lr(make(optimizer=SGD), start=1e-3, end=1e5, count=60, smoothing=0.5)
    factor = 1e8 ** (1 / 59)
    for one, two in zip(curve.rates, curve.rates[1:], strict=False):
        assert two / one == pytest.approx(factor)
    assert len(curve.rates) < 60
    assert max(curve.losses) <= 4 * min(curve.losses) + 1e-9


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    curve = LRCurve([1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.0, 3.0])
    assert curve.suggestion == 1e-2
    with pytest.raises(ConfigError, match="The loss falls at none of the learning rates"):
        _ = LRCurve([1e-3, 1e-2], [1.0, 2.0]).suggestion


@pytest.mark.parametrize("apply", [False, True])
def test_as_a_callback_it_draws_reports_and_may_set_the_rate(apply: bool, tmp_path: Path) -> None:
    trainer = make(LRFinder(apply=apply, count=40, end=10.0), folder=tmp_path, max_steps=1)
    trainer.fit()
    found = trainer.shared["lr_finder"].suggestion
    (optimizer,) = trainer.steps["classify"].strategy.optimizers.values()  # type: ignore[union-attr]
    assert optimizer.param_groups[0]["lr"] == (found if apply else 1e-2)
    assert trainer.record.value("lr_finder/suggestion") == found
    assert (tmp_path / "lr_finder.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "clasify"}, "Did you mean 'classify'"),
        ({"start": 1.0, "end": 0.1}, "0 < start < end"),
        ({"count": 2}, "at least 3 steps"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_lr(make(), **options)
