"""Parts of one's own for a config: a strategy, a loss, an injector and a phase.

Nothing here is registered: `config.yaml` names them by import path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dni.trainer.phases import Phase
from dni.trainer.state import State
from dni.trainer.strategies import Strategy


class SignDescent(Strategy):
    """Moves every parameter by the sign of its gradient.

    Args:
        networks: What it trains, by name.
        lr: How far.
    """

    def __init__(self, networks: Mapping[str, nn.Module], *, lr: float = 1e-3) -> None:
        super().__init__(networks)
        self.lr = lr

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for network in self.networks.values():
            network.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Update the networks."""
        for network in self.networks.values():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter -= self.lr * parameter.grad.sign()

    def set(self, name: str, value: float) -> None:
        """Let schedules set ``"lr"``."""
        assert name == "lr"
        self.lr = value


def margin(scores: Tensor, label: Tensor, *, gap: float = 1.0) -> Tensor:
    """How far the right class is from leading by a gap, one number per sample."""
    right = scores.gather(1, label[:, None])
    others = scores.scatter(1, label[:, None], -torch.inf).amax(1)
    return (gap - right[:, 0] + others).clamp(min=0)


def shift(image: Tensor, *, by: int = 1) -> Tensor:
    """Images moved to the left or right at random, around the edge, by so many pixels at most."""
    return image.roll(int(torch.randint(-by, by + 1, ())), dims=-1)


class Robustness(Phase):
    """How often a shifted image gets the answer of the image itself."""

    training = False

    def step(self, trainer: Any, batch: State) -> None:
        """One batch."""
        net = trainer.networks["net"]
        answer, other = net(batch.image), net(batch.image.roll(1, dims=-1))
        same = (answer.argmax(1) == other.argmax(1)).float().mean()
        trainer.record.scalar(f"{self.name}/same", same)
