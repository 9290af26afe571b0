"""The GAN of tasks/gan: the real command for a few steps, its networks and its evaluator."""

from __future__ import annotations

import doctest
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dni.errors import ConfigError
from dni.trainer.build import build_trainer
from dni.trainer.callbacks.csvlog import read_log
from dni.trainer.config import load_config
from dni.trainer.datasets import digits
from dni.trainer.trainer import Trainer
from tasks.gan import distance, networks
from tasks.gan.distance import frechet, train_features
from tasks.gan.frechet import Frechet
from tasks.gan.networks import discriminator, generator

ROOT = Path(__file__).resolve().parent.parent
TASK = ROOT / "tasks" / "gan"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SITES = ["generate/block1", "discriminate/block1", "discriminate/block2"]
FILES = {"backprop": ["gan.yaml"], "dni": ["gan.yaml", "dni.yaml"]}


def build(method: str, *overrides: tuple[str, str]) -> Trainer:
    quiet = [("log/progress", "false"), ("log/csv", "false"), ("log/tensorboard", "false")]
    quiet += [("evaluators/frechet/updates", "40")]
    return build_trainer(load_config([TASK / f for f in FILES[method]], [*quiet, *overrides]))


@pytest.mark.parametrize("method", FILES)
def test_command_trains_evaluates_and_draws(tmp_path: Path, method: str) -> None:
    words = ["run", "-n", "gan", "-b", *(str(TASK / file) for file in FILES[method]), "-t"]
    words += ["--train/max_steps", "4", "--validate/every_steps", "2", "--log/every", "1"]
    words += [
        "--log/images/every",
        "2",
        "--log/tensorboard",
        "false",
        "--evaluators/frechet/updates",
        "40",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "dni.trainer.cli", *words],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    curves = read_log(run / "log.jsonl")
    assert [step for step, _ in curves["validation/frechet/distance"]] == [2, 4]
    assert all(math.isfinite(value) for points in curves.values() for _, value in points)
    assert {f"dni/{site}/cosine" for site in SITES if method == "dni"} == {
        name for name in curves if name.startswith("dni/")
    }
    names = sorted(p.name for p in (run / "images" / "fake").iterdir())
    assert names == ["0000000.png", "0000002.png"]
    with Image.open(run / "images/validation/frechet/samples/0000004.png") as grid:
        assert grid.size == (4 * (8 * 9 - 1), 4 * (8 * 9 - 1))
    assert (run / "features.pt").exists()


@pytest.mark.parametrize("method", FILES)
def test_the_discriminator_learns_to_tell(method: str) -> None:
    trainer = build(method, ("train/max_steps", "60"), ("data/validation/batch_size", "360"))
    first = trainer.networks["disc"].block1[0].weight.detach().clone()
    trainer.fit()
    assert trainer.record.value("train/loss/discriminate/gan") < 0.62  # ln 2 where it cannot
    assert not torch.equal(trainer.networks["disc"].block1[0].weight, first)
    if method == "dni":
        found = trainer.steps["discriminate"].strategy.statistics()
        assert found["block2"]["cosine"] > 0.9
        assert found["block1"]["cosine"] > 0.3


def test_mnist_in_place_of_the_digits() -> None:
    config = load_config([TASK / name for name in ("gan.yaml", "dni.yaml", "mnist.yaml")]).config
    gen, disc = (config.networks[name].arguments for name in ("gen", "disc"))
    images = generator(**gen)(torch.zeros(2, gen["latent"]))
    assert images.shape == (2, 1, 28, 28)
    assert discriminator(**disc)(images).shape == (2, 1)
    mean, deviation = 0.1307, 0.3081  # of the pixels of its training images
    assert gen["range"] == pytest.approx([-mean / deviation, (1 - mean) / deviation], abs=2e-3)
    assert config.evaluators["frechet"].arguments["range"] == gen["range"]


def test_the_range_of_the_config_is_that_of_the_digits() -> None:
    images = digits().tensors["image"]
    end = build("backprop").networks["gen"].output[1]
    assert (end.low, end.high) == pytest.approx(
        (float(images.amin()), float(images.amax())), abs=1e-3
    )


def test_networks_refuse_an_image_that_cannot_be_halved() -> None:
    for make in (generator, discriminator):
        with pytest.raises(ValueError, match="multiples of 4"):
            make(image=[1, 10, 8])


def test_distance_equals_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    b = torch.randn(80, 5, generator=generator, dtype=torch.float64) @ torch.randn(
        5, 5, generator=generator, dtype=torch.float64
    )
    # The trace of a square root is the sum of the roots of the eigenvalues, also of C_a C_b,
    # which is not symmetric.
    first, second = a.T.cov(), b.T.cov()
    root = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    wanted = float(means + first.trace() + second.trace() - 2 * root)
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_features_tell_digits_and_noise_from_digits() -> None:
    train, test = digits().tensors, digits("test").tensors
    torch.manual_seed(3)
    before = torch.get_rng_state()
    features = train_features(train["image"], train["label"], 10)
    assert torch.equal(torch.get_rng_state(), before)
    right = features(test["image"]).argmax(1) == test["label"]
    assert float(right.float().mean()) > 0.93
    real, other = features.features(train["image"]), features.features(test["image"])
    noise = features.features(test["image"][:, :, torch.randperm(8)][..., torch.randperm(8)])
    assert frechet(real, noise) > 20 * frechet(real, other)


def test_evaluator_uses_the_average_and_the_same_noise_and_disturbs_nothing(
    tmp_path: Path,
) -> None:
    trainer = build("backprop", ("train/max_steps", "3"), ("evaluators/frechet/samples", "70"))
    trainer.fit()
    (entry,) = trainer.callbacks.find("Evaluators").entries
    evaluator = entry.evaluator
    average = trainer.callbacks.find("EMA").averages["gen"].module
    reported = trainer.record.value("validation/frechet/distance")
    before = torch.get_rng_state()
    drawn = evaluator.draw(average.eval(), trainer.device)
    real, features = evaluator._real, evaluator._features
    assert frechet(real, features.features(drawn)) == pytest.approx(reported, rel=1e-6)
    raw = evaluator.draw(trainer.networks["gen"].eval(), trainer.device)
    assert frechet(real, features.features(raw)) != pytest.approx(reported, rel=1e-3)
    assert torch.equal(torch.get_rng_state(), before)


def test_classifier_is_trained_once_per_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Run:
        path = tmp_path

    trainer = build("backprop")
    trainer.run = Run()  # type: ignore[assignment]
    first = Frechet(samples=70, updates=40, range=[-0.812, 1.847])
    first.begin(trainer)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("tasks.gan.frechet.train_features", refuse)
    again = Frechet(samples=70, updates=40, range=[-0.812, 1.847])
    again.begin(trainer)
    trainer.networks["gen"].eval()
    one, two = first.result(trainer), again.result(trainer)
    assert one["distance"] == pytest.approx(two["distance"], rel=1e-6)


def test_evaluator_refuses_what_cannot_work() -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        Frechet(samples=1)
    with pytest.raises(ConfigError, match=r"frechet' calls the network 'gan'.*mean 'gen'"):
        build("backprop", ("evaluators/frechet/network", "gan"))


@pytest.mark.parametrize("module", [networks, distance])
def test_docstring_examples_run(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
