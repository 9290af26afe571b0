"""What users of other trainers expect of steps, point by point, built from configs.

The numbers are those of the list of acceptance points that the trainer was designed by; point 1
is in test_gan.py, point 13 of the loop in test_acceptance_loop.py.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.trainer.backprop import Backprop
from dni.trainer.build import build_trainer
from dni.trainer.config import load_config
from dni.trainer.registry import STRATEGIES
from dni.trainer.trainer import Trainer

BASE = """\
data: {train: {type: digits, split: train, batch_size: 7}}
networks: {net: {type: fcn, image: [1, 8, 8], hidden: [16]}}
optimizer: {type: sgd, lr: 0.1}
steps:
  s:
    training: net
    injectors: {forward: {type: call, network: net, in: image, out: logits}}
    losses: {ce: {type: cross_entropy, input: logits, target: label}}
log: {tensorboard: false, csv: false, progress: false}
checkpoint: {every_epochs: null}
train: {max_steps: 6, max_epochs: null}
"""


@pytest.fixture
def build(tmp_path: Path) -> Any:
    def build_(text: str = "seed: 0") -> Trainer:
        (tmp_path / "base.yaml").write_text(BASE)
        (tmp_path / "more.yaml").write_text(text)
        return build_trainer(load_config([tmp_path / "base.yaml", tmp_path / "more.yaml"]))

    return build_


def states(trainer: Trainer) -> list[dict[str, Any]]:
    """The state after each batch of a fit."""
    found: list[dict[str, Any]] = []
    phase = trainer.phases[0]
    plain = phase.step

    def step(trainer: Trainer, batch: Any) -> None:
        plain(trainer, batch)
        found.append(dict(batch))

    phase.step = step  # type: ignore[method-assign]
    trainer.fit()
    return found


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.networks["net"].parameters()])


def test_point_02_a_chain_of_injectors_in_chunks_with_step_outputs(build: Any) -> None:
    trainer = build("""\
steps:
  s:
    accumulate: 2
    step_outputs: [logits]
    injectors:
      forward: null
      noisy: {type: add_noise, in: image, scale: 0.1}
      flat: {type: flatten, in: noisy}
      call: {type: call, network: net, in: flat, out: logits}
networks: {net: {image: [64]}}
""")
    for state in states(trainer):
        losses = {"instances/s/ce", "loss/s/ce", "loss/s/total"}
        assert set(state) == {"image", "label", "logits"} | losses
        assert state["logits"].shape == (7, 10)
        assert not state["logits"].requires_grad


def test_point_03_a_new_optimizer_by_its_name(build: Any) -> None:
    expected = build()
    expected.fit()

    class Doubled(Backprop):
        def __init__(self, networks: Any, *, lr: float) -> None:
            super().__init__(networks, optimizer="sgd", lr=2 * lr)

    STRATEGIES.register("doubled")(Doubled)
    try:
        trainer = build("optimizer: {type: doubled, lr: 0.05}")
    finally:
        del STRATEGIES._entries["doubled"]
    trainer.fit()
    assert torch.equal(weights(trainer), weights(expected))


def test_point_04_windows_of_losses(build: Any) -> None:
    trainer = build("""\
steps:
  s:
    losses:
      late: {type: direct, input: logits, after: 2, before: 4, every: 2}
""")
    found = [step for step, state in enumerate(states(trainer)) if "loss/s/late" in state]
    assert found == [2, 4]


@pytest.mark.parametrize("chunks", [2, 3, 4, 7])
def test_point_05_chunks_equal_the_batch(build: Any, chunks: int) -> None:
    # Without batch normalization, whose statistics are those of a chunk.
    linear = "networks: {net: {type: dni.trainer.networks.fcn, image: [1, 8, 8], hidden: []}}"
    whole, parts = build(linear), build(f"{linear}\nsteps: {{s: {{accumulate: {chunks}}}}}")
    whole.fit()
    parts.fit()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-6)


def test_point_06_a_resumed_run_with_an_average_is_the_uninterrupted_one(
    build: Any, tmp_path: Path
) -> None:
    text = "ema: {rate: 0.9}\noptimizer: {type: adamw, lr: 0.01}\ntrain: {max_steps: %d}"
    whole, first, second = build(text % 6), build(text % 3), build(text % 6)
    whole.fit()
    first.fit()
    first.save(tmp_path / "half.pt")
    second.load(tmp_path / "half.pt")
    second.fit()
    assert torch.equal(weights(second), weights(whole))
    expected, found = whole.state_dict()["callbacks"], second.state_dict()["callbacks"]
    ema = next(key for key in expected if "ema" in key.lower())
    torch.testing.assert_close(found[ema], expected[ema], rtol=0, atol=0)


OPTIMIZERS = ["sgd", "adamw", "rmsprop", "adagrad", "torch.optim.NAdam"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "kind", ["{type: %s, %s}", "{type: dni, lambda: 1.0, optim: {type: %s, %s}}"]
)
def test_point_10_groups_are_honoured_by_every_optimizer(build: Any, name: str, kind: str) -> None:
    options = 'lr: 0.01, groups: {"net.output.*": {lr: 0.0}}'
    trainer = build(f"optimizer: {kind % (name, options)}")
    net = trainer.networks["net"]
    before = copy.deepcopy(net.state_dict())
    trainer.fit()
    assert torch.equal(net.state_dict()["output.weight"], before["output.weight"])
    moved = net.state_dict()["hidden1.0.weight"]
    assert not torch.equal(moved, before["hidden1.0.weight"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["{type: %s}", "{type: dni, lambda: 1.0, optim: {type: %s}}"])
def test_point_10_clipping_is_honoured_by_every_optimizer(build: Any, name: str, kind: str) -> None:
    trainer = build(f"optimizer: {kind % name}\nsteps: {{s: {{clip: 1e-3}}}}")
    trainer.fit()
    grads = [p.grad.norm() for p in trainer.networks["net"].parameters() if p.grad is not None]
    assert torch.stack(grads).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_point_13_a_ramped_weight_of_kl(build: Any) -> None:
    trainer = build("""\
steps:
  s:
    injectors:
      mean: {type: slice, in: logits, dim: 1, stop: 5}
      log_variance: {type: slice, in: logits, dim: 1, start: 5}
    losses:
      kl: {type: kl_gaussian, mean: mean, log_variance: log_variance}
schedules: {losses/s/kl/weight: {ramp: [1, 0.0, 3, 1.0]}}
""")
    for state, weight in zip(states(trainer), [0, 0, 0.5, 1, 1, 1], strict=True):
        expected = state["loss/s/ce"] + weight * state["loss/s/kl"]
        torch.testing.assert_close(state["loss/s/total"], expected)


def test_point_14_losses_of_samples_and_of_the_batch(build: Any) -> None:
    for state in states(build()):
        assert state["instances/s/ce"].shape == (7,)
        torch.testing.assert_close(state["instances/s/ce"].mean(), state["loss/s/ce"])
        by_hand = torch.nn.functional.cross_entropy(state["logits"], state["label"])
        torch.testing.assert_close(state["loss/s/ce"], by_hand)
