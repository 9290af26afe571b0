"""The optimizer of a network: how it steps, and how the gradients that it used are cleared."""

from __future__ import annotations

import torch  # noqa: F401 - for the example
from torch import nn
from torch.optim import Optimizer

from . import fused_adam
from .optimizers import clip_gradients, only, parameters_of


class NetworkOptimizer:
    """Steps a network by an optimizer over its parameters, or over some, or more than those.

    Args:
        network: The user's network.
        optimizer: Its optimizer; ``None`` where the user steps the network.
        clip: Largest norm of the gradients of a step, ``None`` for no clipping.

    Attributes:
        parameters: Those of the network, once `attach` has found them.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> made = NetworkOptimizer(layer, torch.optim.SGD(layer.parameters(), lr=1.0), clip=2.0)
        >>> layer.weight.detach().zero_()
        tensor([[0., 0.]])
        >>> layer(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> layer.bias.grad = None
        >>> made.step()
        >>> layer.weight
        Parameter containing:
        tensor([[-1.2000, -1.6000]], requires_grad=True)
    """

    def __init__(
        self, network: nn.Module, optimizer: Optimizer | None, clip: float | None = None
    ) -> None:
        self.network, self.optimizer, self.clip = network, optimizer, clip
        self.parameters: list[nn.Parameter] = []
        self._unoptimized: list[nn.Parameter] = []
        self._is_used = False

    def attach(self) -> None:
        """Find the network's parameters, and those of them that the optimizer has not."""
        optimized = set() if self.optimizer is None else set(parameters_of(self.optimizer))
        # Going through a network's parameters takes as long as a small layer.
        self.parameters = list(self.network.parameters())
        self._unoptimized = [p for p in self.parameters if p not in optimized]

    def step(self) -> None:
        """Step, where there is an optimizer; the gradients stay."""
        if self.optimizer is not None:
            clip_gradients(self.optimizer, self.clip)
            fused_adam.step(self.optimizer)

    def step_module(self, module: nn.Module) -> None:
        """Step those parameters of a module that have gradients, and clear these."""
        parameters = [p for p in module.parameters() if p.grad is not None]
        if not parameters or self.optimizer is None:
            return
        with only(self.optimizer, parameters):
            clip_gradients(self.optimizer, self.clip)
            fused_adam.step(self.optimizer)
        for parameter in parameters:
            parameter.grad = None

    def use(self) -> None:
        """Have the next forward pass clear the gradients, where there is an optimizer."""
        self._is_used = self.optimizer is not None

    def clear_used(self) -> None:
        """Clear the network's gradients if an update has used them."""
        if self._is_used:
            self._is_used = False
            for parameter in self._unoptimized:
                parameter.grad = None
            if self.optimizer is not None:  # an instance may have more, the layers around it say
                for parameter in parameters_of(self.optimizer):
                    parameter.grad = None
