"""The VUNet task, by its configs and the real command for a few steps."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.trainer.build import build_trainer
from dni.trainer.cli import main
from dni.trainer.config import load_config
from dni.trainer.evaluation import StoredOutputs

ROOT = Path(__file__).resolve().parent.parent
TASK = ROOT / "tasks" / "vunet"
BACKPROP = [TASK / "vunet.yaml"]
DNI = [*BACKPROP, TASK / "dni.yaml"]
UNLOCKED = [*DNI, TASK / "unlock.yaml"]
# Small, quiet, and with every loss from the first step on.
SMALL = {
    "data/train/batch_size": "8",
    "data/validation/count": "20",
    "data/validation/batch_size": "8",
    "networks/vunet/filters": "[8, 16, 16]",
    "steps/dress/losses/perceptual/after": "0",
    "evaluators/transfer/appearances": "3",
    "evaluators/transfer/poses": "2",
    "log/progress": "false",
    "log/tensorboard": "false",
    "log/every": "1",
}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import paths such as ``tasks.vunet.model`` begin at the root, where a user runs `dni`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))


def train(folder: Path, files: list[Path], steps: int) -> Path:
    """Train by the command; returns the folder of the run."""
    words = ["run", "-n", "small", "-b", *map(str, files), "-t"]
    for key, value in {**SMALL, "run/root": str(folder), "train/max_steps": str(steps)}.items():
        words += [f"--{key}", value]
    assert main(words) == 0
    (run,) = folder.glob("*_small")
    return run


def logged(run: Path) -> dict[str, list[float]]:
    """Every scalar of a run, in order."""
    found: dict[str, list[float]] = {}
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).get("scalars", {}).items():
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(BACKPROP, id="backprop"),
        pytest.param(DNI, id="dni", marks=pytest.mark.slow),
        pytest.param(UNLOCKED, id="unlocked"),
    ],
)
def test_the_command_trains_evaluates_and_reads_back(
    tmp_path: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "runs", files, steps=30)
    log = logged(run)
    names = ("color_L1", "color_L2", "color_gradient", "KL", "perceptual", "total")
    for name in names:
        assert numpy.isfinite(log[f"train/loss/dress/{name}"]).all(), name
    sites = [name for name in log if name.startswith("dni/dress/") and name.endswith("/cosine")]
    assert len(sites) == (0 if files is BACKPROP else 3)
    assert all(any(log[site]) for site in sites), "a synthesizer that predicts nothing"
    # From the first batch of training to what validation has in the end.
    assert log["validation/loss/dress/color_L1"][-1] < 0.6 * log["train/loss/dress/color_L1"][0]
    assert log["train/loss/look/palette"][-1] < 0.6 * log["train/loss/look/palette"][0]
    for key in ("pose", "appearance", "target", "image", "validation/transfer/grid"):
        assert list((run / "images" / key).glob("*.png")), key

    assert main(["run", "--resume", str(run)]) == 0
    # The folder may be moved: the stored outputs are found and belong to the same examples.
    moved = run.rename(tmp_path / "moved")
    capsys.readouterr()
    assert main(["eval", str(moved), "-c", "tasks.vunet.ranking:ranking"]) == 0
    assert "ranking  worst" in capsys.readouterr().out
    (folder,) = (moved / "evaluation").iterdir()
    results = json.loads((folder / "results" / "ranking.json").read_text(encoding="utf-8"))
    assert results["color_L1/again"] == pytest.approx(results["color_L1/stored"], rel=1e-5)
    outputs = StoredOutputs(folder)
    assert len(outputs) == 20
    assert outputs[19]["image"].shape == (3, 32, 32)
    # Losses of single examples, whose mean is the loss that was logged.
    losses = outputs.column("instances/dress/color_L1")
    assert numpy.std(losses) > 0
    assert numpy.mean(losses) == pytest.approx(log["validation/loss/dress/color_L1"][-1], rel=1e-5)


def test_kl_is_ramped_and_features_learn_before_they_judge() -> None:
    trainer: Any = build_trainer(load_config(BACKPROP, [("log/tensorboard", "false")]))
    weight = trainer.steps["dress"].losses["KL"].weight
    assert weight(0) == weight(150) == 0
    assert 0 < weight(300) < weight(450) == weight(5000)
    assert load_config(BACKPROP, []).config.steps["look"].before == 149
    assert load_config(BACKPROP, []).config.steps["dress"].losses["perceptual"].after == 150


def test_figures_are_functions_of_seed_and_number() -> None:
    from tasks.vunet.figures import PALETTE, Figures

    figures, again = Figures("train", count=4), Figures("train", count=9)
    for key, value in figures[10**9].items():
        assert numpy.array_equal(value, again[10**9][key]), key
        assert value.dtype == numpy.float32
    targets = [data[0]["target"] for data in (figures, Figures("test"), Figures("train", seed=1))]
    assert not any(numpy.array_equal(targets[i], targets[i - 1]) for i in range(3))
    one, two = figures[0], figures[1]
    assert one["palette"].shape == (PALETTE,)
    # The corner shows the ground: the same in both pictures of a person, not in another's.
    corners = [x[:, 0, 0] for x in (one["target"], one["appearance"], two["target"])]
    assert numpy.array_equal(corners[0], one["palette"][-4:-1])
    assert numpy.array_equal(corners[0], corners[1])
    assert not numpy.allclose(corners[0], corners[2])
    assert not numpy.array_equal(one["target"], one["appearance"])
    # The skeleton lies on the person, and tells nothing of the appearance.
    ground = abs(one["target"] - one["target"][:, :1, :1]).sum(0) < 1e-3
    assert not ground[one["pose"].sum(0) > 0.5].any()


@pytest.mark.parametrize("name", ["figures", "model"])
def test_examples_of_docstrings_run(name: str) -> None:
    module = importlib.import_module(f"tasks.vunet.{name}")
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("wrong", [{"split": "valid"}, {"count": 0}, {"size": 4}, {"seed": -1}])
def test_figures_refuse(wrong: dict[str, Any]) -> None:
    from tasks.vunet.figures import Figures

    with pytest.raises(ConfigError, match=r"needed"):
        Figures(**wrong)


class Oracle(nn.Module):
    """Gives the truth of every pair, or that of the first appearance whoever is asked for."""

    def __init__(self, truth: Tensor, *, sees: bool) -> None:
        super().__init__()
        self.truth = nn.Parameter(truth)
        self.sees = sees

    def forward(self, poses: Tensor, appearances: Tensor) -> tuple[Tensor]:
        truth = self.truth if self.sees else self.truth[:, :1].expand_as(self.truth)
        return (truth.flatten(0, 1),)


@torch.no_grad()
def test_transfer_measures_against_what_the_program_draws() -> None:
    from tasks.vunet.transfer import Transfer

    transfer = Transfer(poses=3, appearances=4, size=16)
    found = {}
    for sees in (True, False):
        trainer = SimpleNamespace(networks={"vunet": Oracle(transfer.truth, sees=sees)})
        found[sees] = transfer.result(trainer)
    assert found[True]["identified"] == 1
    assert found[True]["color_L1"] == 0
    assert found[False]["identified"] == 1 / 4
    assert found[False]["color_L1"] > 0.05
    assert found[True]["grid"].shape == (3, 4 * 18 - 2, 5 * 18 - 2)
    assert torch.equal(found[True]["grid"], found[True]["truth"])
    with pytest.raises(ConfigError, match="1 and 2"):
        Transfer(appearances=1)


def test_image_critic_learns_the_gradient_of_a_decoder() -> None:
    from tasks.vunet.figures import PALETTE
    from tasks.vunet.synthesizers import ImageCritic

    torch.manual_seed(0)
    size, channels = 8, 6
    critic = ImageCritic(channels, 0, channels, context_size=PALETTE + 3 * size * size)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    output = nn.Conv2d(channels, 3, 3, padding=1)
    cosines = []
    for _ in range(200):
        hidden = torch.randn(16, channels, size, size).relu().requires_grad_()
        target, palette = torch.rand(16, 3, size, size), torch.rand(16, PALETTE)
        apart = output(hidden).sigmoid() - target
        (apart.abs().mean() + apart.square().mean()).backward()
        assert hidden.grad is not None
        true = hidden.grad / hidden.grad.square().mean().sqrt()
        context = torch.cat((palette, target.flatten(1)), 1)
        synthetic, _ = critic(hidden.detach(), None, context)
        with torch.no_grad():
            pair = synthetic.flatten(), true.flatten()
            cosines.append(float(nn.functional.cosine_similarity(*pair, dim=0)))
        optimizer.zero_grad()
        (synthetic - true).square().mean().backward()
        optimizer.step()
    assert cosines[0] == 0
    assert cosines[-1] > 0.9


@pytest.mark.parametrize("size", [None, 16, 17, 16 + 3 * 5])
def test_image_critic_needs_a_palette_and_a_square_image(size: int | None) -> None:
    from tasks.vunet.synthesizers import ImageCritic

    with pytest.raises(ConfigError, match="palette and the 3"):
        ImageCritic(8, 0, 8, context_size=size)
