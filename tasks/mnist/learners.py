"""The two ways to learn from a batch: backpropagation, and synthetic gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data import CLASSES
from dni import DNI


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How synthetic gradients are made and mixed.

    Attributes:
        lambda_: Share of the true gradient, 0 (synthetic only) to 1 (backprop).
        dni_network: Name of the synthesizers' class.
        layers: Hidden layers of a synthesizer; with none, ``linear`` is one linear map.
        hidden_size: Units of each of them.
        context: Whether the synthesizers see the labels.
        lr: The synthesizers' learning rate; None for the default, see `learning_rate`.
        unlock: Whether a hidden layer learns in the forward pass, see `dni.DNI`.
    """

    lambda_: float = 0.5
    dni_network: str = "linear"
    layers: int = 0
    hidden_size: int = 256
    context: bool = False
    lr: float | None = None
    unlock: Literal["none", "update", "forward"] = "none"

    @property
    def learning_rate(self) -> float:
        """The synthesizers' learning rate.

        A synthesizer that sees the labels can tell the gradient and has to keep up with a network
        that follows it; so has one that nothing else teaches (λ = 0). Where neither holds, much
        of what it predicts is chance, and a slow one adds less of it to the true gradient.
        """
        if self.lr is not None:
            return self.lr
        return 1e-2 if self.context or self.lambda_ == 0 else 1e-4


class Backprop:
    """The usual loop body."""

    def __init__(self, network: nn.Module, *, lr: float, compiles: bool = False) -> None:
        self.net = network
        # Not `network.compile()`, which leaves an `nn.Sequential` as it is, and says nothing.
        self._call = torch.compile(network) if compiles else network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr)

    def learn(self, images: Tensor, labels: Tensor) -> Tensor:
        """Update the network from one batch; returns the batch's mean cross-entropy."""
        self.optimizer.zero_grad()
        loss = self.loss(images, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, ready for backward."""
        return F.cross_entropy(self._call(images), labels)

    def cosines(self) -> dict[str, float]:
        """Empty: every gradient is the true one."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from."""
        return {"network": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.net.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class Decoupled:
    """The same loop body with synthetic gradients: ``backward`` is also the step."""

    def __init__(
        self,
        network: nn.Module,
        *,
        sites: Sequence[str],
        lr: float,
        synthesis: Synthesis,
        compiles: bool = False,
    ) -> None:
        self.context = synthesis.context
        self.net = DNI(
            network,
            dni_network=synthesis.dni_network,
            dni_params={"num_layers": synthesis.layers},
            optim=torch.optim.Adam(network.parameters(), lr=lr),
            grad_lr=synthesis.learning_rate,
            hidden_size=synthesis.hidden_size,
            lambda_=synthesis.lambda_,
            sites=list(sites),
            context_size=CLASSES if synthesis.context else None,
            unlock=synthesis.unlock,
        )
        if compiles:
            self.net.compile()

    def learn(self, images: Tensor, labels: Tensor) -> Tensor:
        """Update the network from one batch; returns the batch's mean cross-entropy."""
        loss = self.loss(images, labels)
        loss.backward()  # the network and the synthesizers are updated here
        return loss.detach()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, ready for backward."""
        scores = self.net(images, context=labels) if self.context else self.net(images)
        return F.cross_entropy(scores, labels)

    def cosines(self) -> dict[str, float]:
        """Cosine between synthetic and true gradient, by site."""
        return {site: row["cosine"] for site, row in self.net.statistics().items()}

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from."""
        return self.net.training_state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.net.load_training_state(state)


Learner = Backprop | Decoupled
