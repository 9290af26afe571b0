"""The example of parts of one's own, run as its readers would."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni.trainer.build import build_trainer
from dni.trainer.config import load_config

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "custom"


def test_strategy_loss_injector_and_phase_by_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    quiet = [(f"log/{key}", "false") for key in ("progress", "csv", "tensorboard")]
    trainer = build_trainer(load_config([FOLDER / "config.yaml"], quiet))
    import parts  # type: ignore[import-not-found]

    assert isinstance(trainer.steps["classify"].strategy, parts.SignDescent)  # type: ignore[attr-defined]
    before = trainer.evaluate()["accuracy"]
    trainer.fit()
    assert trainer.evaluate()["accuracy"] > max(0.6, before)
    assert [phase.name for phase in trainer.phases] == ["robustness", "train", "validation"]
    assert 0.3 < trainer.record.value("robustness/same") <= 1
