"""The examples written the DLAS way and the FluxTraining way, run as their readers would."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.trainer.build import build_trainer
from dni.trainer.cli import main
from dni.trainer.config import load_config
from dni.trainer.events import Callback
from dni.trainer.run import Run
from dni.trainer.trainer import Trainer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
QUIET = [("log/tensorboard", "false"), ("log/csv", "false"), ("log/progress", "false")]


@pytest.fixture
def example(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    folder = EXAMPLES / request.param
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    sys.modules.pop("parts", None)
    yield folder / "config.yaml"
    sys.modules.pop("parts", None)


def build(config: Path, *overrides: tuple[str, str]) -> Trainer:
    return build_trainer(load_config([config], [*QUIET, *overrides]))


class Watch(Callback):
    """What changed in each step, and which losses there were."""

    def __init__(self) -> None:
        self.moved: dict[str, list[int]] = {"gen": [], "disc": []}
        self.losses: dict[str, list[int]] = {}
        self._before: dict[str, list[torch.Tensor]] = {}

    def on_step_begin(self, trainer: Trainer, phase: Any) -> None:
        for name in self.moved:
            parameters = trainer.networks[name].parameters()
            self._before[name] = [p.detach().clone() for p in parameters]

    def on_step_end(self, trainer: Trainer, phase: Any) -> None:
        step = trainer.counters.step
        for name, before in self._before.items():
            now = trainer.networks[name].parameters()
            if phase.training and any(
                not torch.equal(a, b) for a, b in zip(before, now, strict=True)
            ):
                self.moved[name].append(step)
        for key in trainer.step:
            if phase.training and key.startswith("loss/"):
                self.losses.setdefault(key, []).append(step)


@pytest.mark.parametrize("example", ["dlas"], indirect=True)
def test_the_dlas_way_two_steps_with_windows(example: Path) -> None:
    trainer = build(example)
    watch = Watch()
    trainer.callbacks.add(watch)
    trainer.run = Run.create("runs", "sr")
    before = trainer.evaluate()["loss/generate/pix"]
    trainer.fit()
    assert watch.moved == {"gen": list(range(80)), "disc": list(range(30, 80, 2))}
    assert watch.losses["loss/generate/pix"] == list(range(80))
    assert watch.losses["loss/generate/gan"] == list(range(40, 80))
    assert watch.losses["loss/discriminate/gan"] == list(range(30, 80))
    assert trainer.evaluate()["loss/generate/pix"] < 0.9 * before
    pictures = [p.name for p in sorted((trainer.run.path / "images" / "fake").iterdir())]  # type: ignore[attr-defined]
    assert pictures == ["0000000.png", "0000040.png"]


@pytest.mark.parametrize("example", ["dlas"], indirect=True)
def test_the_dlas_way_in_pieces_is_the_batch(example: Path) -> None:
    found = []
    for pieces in ("1", "4", "5"):  # 48 images in 5 pieces are of unequal size
        options = [("steps/generate/accumulate", pieces), ("train/max_steps", "3")]
        plain = [("steps/generate/injectors/noise", "null"), ("ema", "null")]
        trainer = build(example, *options, *plain)
        trainer.fit()
        parameters = trainer.networks["gen"].parameters()
        found.append(torch.cat([p.detach().flatten() for p in parameters]))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("example", ["fluxtraining"], indirect=True)
def test_the_fluxtraining_way_a_phase_and_callbacks(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "-n", "flux", "-b", str(example), "-t", "--log/tensorboard", "false"]
    assert main(words) == 0
    (run,) = Path("runs").iterdir()
    rows = [json.loads(line)["scalars"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["validation/accuracy"] for row in rows if "validation/accuracy" in row][-1] > 0.9
    assert all("train/loss/classify/apart" in row for row in rows if "train/gradient_norm" in row)
    norms = [row["train/gradient_norm"] for row in rows if "train/gradient_norm" in row]
    assert norms[-1] < norms[0]
    assert "ended after" in capsys.readouterr().out


@pytest.mark.parametrize("example", ["fluxtraining"], indirect=True)
def test_the_fluxtraining_way_a_callback_ends_the_run(example: Path) -> None:
    trainer = build(example, ("callbacks/0/below", "1e9"), ("train/max_epochs", "5"))
    assert trainer.fit() == "the gradients are flat at step 22"
    assert [type(c).__name__ for c in trainer.callbacks if type(c).__module__ == "parts"] == [
        "GradientNorm",
        "StopWhenFlat",
    ]


@pytest.mark.parametrize("example", ["fluxtraining"], indirect=True)
def test_the_fluxtraining_way_by_dni(example: Path) -> None:
    dni = ("optimizer", "{type: dni, lambda: 0.0, dni_network: critic, context: label}")
    trainer = build(example, dni, ("train/max_epochs", "2"))
    before = trainer.evaluate()["accuracy"]
    trainer.fit()
    assert trainer.evaluate()["accuracy"] > max(before, 0.4)
