"""Two networks in two steps per batch, from a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.trainer.build import build_trainer
from dni.trainer.config import load_config
from dni.trainer.trainer import Trainer

GAN = Path(__file__).with_name("gan.yaml")
DNI = """\
optimizer: {type: dni, lambda: 0.0, optim: {type: adamw, lr: 1e-3, weight_decay: 0.1}}
networks: {gen: {type: fcn, image: [16], hidden: [32, 32], classes: 64}}
"""


def build(tmp_path: Path, text: str = "", *overrides: tuple[str, str]) -> Trainer:
    (tmp_path / "more.yaml").write_text(text or "seed: 0")
    return build_trainer(load_config([GAN, tmp_path / "more.yaml"], overrides))


def watched(trainer: Trainer) -> list[tuple[str, dict[str, bool]]]:
    """Of each step that runs: its name, and for each network whether its parameters changed."""
    found: list[tuple[str, dict[str, bool]]] = []

    def copy(network: nn.Module) -> list[torch.Tensor]:
        return [p.detach().clone() for p in network.parameters()]

    def watch(name: str, step: Any) -> Any:
        def run(*args: Any) -> None:
            before = {key: copy(network) for key, network in trainer.networks.items()}
            step(*args)
            moved = {
                key: any(not torch.equal(a, b) for a, b in zip(before[key], copy(n), strict=True))
                for key, n in trainer.networks.items()
            }
            found.append((name, moved))

        return run

    class Watched(type(trainer.phases[0])):  # type: ignore[misc]
        def step(self, trainer: Trainer, batch: Any) -> None:
            for name, step in trainer.steps.items():
                trainer.current = step
                watch(name, step)(trainer, batch, self)
            trainer.current = None

    trainer.phases[0] = Watched()
    return found


@pytest.mark.parametrize("text", ["", DNI], ids=["backprop", "dni"])
def test_each_step_moves_its_own_network_alone(tmp_path: Path, text: str) -> None:
    trainer = build(tmp_path, text)
    found = watched(trainer)
    trainer.fit()
    generated = ("generate", {"gen": True, "disc": False})
    discriminated = ("discriminate", {"gen": False, "disc": True})
    assert found == [generated, discriminated] * 6


@pytest.mark.parametrize("kind", ["standard", "lsgan", "hinge", "relativistic"])
def test_the_discriminator_learns_to_tell(tmp_path: Path, kind: str) -> None:
    trainer = build(
        tmp_path,
        f"""\
steps:
  generate: {{training: [], losses: {{gan: null}}}}
  discriminate:
    optimizer: {{type: adamw, lr: 1e-2}}
    losses: {{gan: {{kind: {kind}}}}}
train: {{max_steps: 120}}
""",
    )
    losses: list[float] = []
    phase = trainer.phases[0]
    plain = phase.step

    def step(trainer: Trainer, batch: Any) -> None:
        plain(trainer, batch)
        losses.append(float(batch["loss/discriminate/total"]))

    phase.step = step  # type: ignore[method-assign]
    trainer.fit()
    assert losses[-1] < 0.8 * losses[0]


def test_point_01_the_discriminator_every_second_step_from_a_first_one(tmp_path: Path) -> None:
    trainer = build(tmp_path, "steps: {discriminate: {every: 2, after: 3}}\ntrain: {max_steps: 8}")
    found = watched(trainer)
    trainer.fit()
    assert [moved["disc"] for name, moved in found if name == "discriminate"] == [
        step in (3, 5, 7) for step in range(8)
    ]
    assert all(moved["gen"] for name, moved in found if name == "generate")
