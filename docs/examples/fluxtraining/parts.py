"""A phase with a `step` of its own, and two callbacks that are ordered by what they declare."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from dni.trainer.events import Callback, CancelFit
from dni.trainer.phases import Phase
from dni.trainer.state import State


class Consistent(Phase):
    """Trains on images, and on the answer staying the same where they are shifted.

    Args:
        by: Pixels.
    """

    name, training, split = "train", True, "train"

    def __init__(self, by: int = 1) -> None:
        self.by = by

    def step(self, trainer: Any, batch: State) -> None:
        """One batch: forward, loss, backward, update."""
        strategy = trainer.steps["classify"].strategy
        strategy.zero_grad()
        with strategy.context(batch):  # labels, where the optimizer is `dni` and wants them
            net = trainer.call("net")
            batch.logits, shifted = net(batch.image), net(batch.image.roll(self.by, dims=-1))
            trainer.handle("loss_begin", self)
            apart = (batch.logits.detach().softmax(1) - shifted.softmax(1)).square().sum(1).mean()
            loss = functional.cross_entropy(batch.logits, batch.label) + 0.5 * apart
            trainer.handle("backward_begin", self)
            strategy.backward(loss)
            trainer.handle("backward_end", self)
        strategy.step()
        batch["loss/classify/apart"] = apart.detach()
        batch.logits = batch.logits.detach()


class GradientNorm(Callback):
    """Keeps the norm of the gradients of the last batch, and reports it when the run logs."""

    reads = ("networks",)
    writes = ("shared/gradient_norm", "record/gradient_norm")

    def on_backward_end(self, trainer: Any, phase: Phase) -> None:
        """Look at the gradients."""
        grads = [p.grad for p in trainer.networks["net"].parameters() if p.grad is not None]
        trainer.shared["gradient_norm"] = torch.nn.utils.get_total_norm(grads)

    def on_log(self, trainer: Any, phase: Phase) -> None:
        """Report."""
        trainer.record.scalar(f"{phase.name}/gradient_norm", trainer.shared["gradient_norm"])


class StopWhenFlat(Callback):
    """Ends the run where there is almost nothing left to learn.

    Args:
        below: Norm of the gradients, at the end of an epoch.
    """

    reads = ("shared/gradient_norm",)

    def __init__(self, below: float) -> None:
        self.below = below

    def on_epoch_end(self, trainer: Any, phase: Phase) -> None:
        """See whether it is time."""
        if phase.training and trainer.shared["gradient_norm"] < self.below:
            raise CancelFit(f"the gradients are flat at step {trainer.counters.step}")
