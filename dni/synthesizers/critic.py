"""The synthesizer that learns a local loss and predicts with the gradient of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, did_you_mean
from .base import DNINetwork, at_least, start_at_zero

Criterion = Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return logits.softmax(-1) - target


def _mse(output: Tensor, target: Tensor) -> Tensor:
    return (output - target) * (2 / target.shape[-1])


def _binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.sigmoid() - target) / target.shape[-1]


RESIDUALS: dict[str, Criterion] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "binary_cross_entropy": _binary_cross_entropy,
}
"""Gradient of a position's loss with respect to the output of the head, by name of the loss."""

LOSSES = {
    "cross_entropy": "cross_entropy",
    "mse": "mse_loss",
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
}
"""The same losses by their names in ``torch.nn.functional``."""


class CriticDNI(DNINetwork):
    r"""The gradient of a learned local loss: :math:`s = \partial \hat L(h, y) / \partial h`.

    A small head on the activation and the task's criterion make a local loss
    :math:`\hat L(h, y) = \frac{1}{N} \sum_n \ell(A h_n + b, y_n)`; what is learned is not that
    this loss is small but that its gradient is the true one. A classifier's true gradient has
    this form where the head is the network's own, so a critic predicts it far better than a
    regression of the vector field does. For the cross entropy

    .. math:: s_n = \frac{e^\gamma}{N} (\mathrm{softmax}(A h_n + b) - y_n) A

    with a learned gain :math:`\gamma` for losses that are weighted or summed. :math:`A` and
    :math:`b` start at zero, and so does :math:`s`.

    Needs a context: the target of the criterion, as one-hot labels or as features.

    Args:
        input_size: Number of features of a position (channels of a map).
        hidden_size: Width of the head's hidden layers.
        output_size: The same as ``input_size``.
        context_size: Number of classes or target features.
        criterion: ``"cross_entropy"``, ``"mse"`` or ``"binary_cross_entropy"`` (all averaged as
            in torch), or a function of the head's output and the target, both
            ``[N, context_size]``, that returns the mean loss.
        num_layers: Hidden layers of the head (Linear, ReLU); with 0 the gradient has a closed
            form, otherwise and for a criterion of one's own autograd finds it.
        maps: Whether the activation is a feature map; the wrapper sets it.
        pool_size: A map is averaged to this height and width (at most) before the head.

    Shapes:
        ``input`` ``[*, input_size]`` and ``context`` ``[*, context_size]`` -> gradient
        ``[*, input_size]``, in gradient units; with ``maps`` ``[B, input_size, H, W]`` and
        ``[B, context_size]`` -> ``[B, input_size, H, W]``.

    Raises:
        ConfigError: An unknown criterion, or no ``context_size``.

    Source:
        The critic of Czarnecki et al. 2017, arXiv:1703.00522; matching gradients as in Sobolev
        training, arXiv:1706.04859. The closed form and the gain are ours.

    Example:
        >>> critic = CriticDNI(4, 0, 4, context_size=3)
        >>> labels = F.one_hot(torch.tensor([0, 2]), 3).float()
        >>> critic(torch.randn(2, 4), None, labels)[0].abs().max().item()
        0.0
    """

    channels_first: ClassVar[bool] = True
    maps_only: ClassVar[bool] = False
    in_gradient_units: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        context_size: int | None = None,
        criterion: str | Criterion = "cross_entropy",
        num_layers: int = 0,
        maps: bool = False,
        pool_size: int = 7,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        at_least(0, num_layers=num_layers)
        at_least(1, pool_size=pool_size)
        if context_size is None:
            raise ConfigError(
                "a critic needs the target of the task's criterion as context; pass "
                "`context_size=` (the number of classes) and `net(x, context=labels)`"
            )
        if isinstance(criterion, str) and criterion not in RESIDUALS:
            raise ConfigError(
                f"`criterion` is {criterion!r}, no loss known here."
                f"{did_you_mean(criterion, RESIDUALS)} Or pass a function."
            )
        self.criterion = criterion
        self.pool_size = pool_size if maps else None
        features = input_size * (pool_size**2 if maps else 1)
        widths = [features] + [hidden_size] * num_layers
        layers: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(width, next_width), nn.ReLU()]
        self.hidden_layers = nn.Sequential(*layers)
        self.final = nn.Linear(widths[-1], context_size)
        self.gain = nn.Parameter(torch.zeros(()))
        start_at_zero(self.final)

    def forward(  # type: ignore[override]
        self, input: Tensor, hidden: object, context: Tensor
    ) -> tuple[Tensor, object]:
        """The gradient of the local loss with respect to the activation.

        Args:
            input: Detached activation. Shape ``[*, input_size]`` or ``[B, input_size, H, W]``.
            hidden: Passed on.
            context: Target of the criterion. Shape ``[*, context_size]``.

        Returns:
            The synthetic gradient, in the shape of ``input``, and ``hidden``.
        """
        if self.pool_size is None:
            positions = input.reshape(-1, self.input_size)
            gradient = self._gradient(positions, context.reshape(-1, context.shape[-1]))
            return gradient.view_as(input), hidden
        size = (self.pool_size, self.pool_size)
        pooled = F.adaptive_avg_pool2d(input, size)
        gradient = self._gradient(pooled.flatten(1), context).view_as(pooled)
        # A map's pixel has the share of its cell; cells of one size, but for rounding.
        share = pooled[0, 0].numel() / input[0, 0].numel()
        return F.interpolate(gradient * share, input.shape[-2:], mode="nearest"), hidden

    def _gradient(self, positions: Tensor, target: Tensor) -> Tensor:
        """Gradient of the local loss. Shape of ``positions``: ``[N, features]``."""
        gain = self.gain.exp()
        if isinstance(self.criterion, str) and not len(self.hidden_layers):
            residual = RESIDUALS[self.criterion](self.final(positions), target)
            return residual @ (self.final.weight * (gain / len(positions)))
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            output = self.final(self.hidden_layers(positions))
            loss = self._loss(output, target)
            (gradient,) = torch.autograd.grad(loss, positions, create_graph=True)
        return gradient * gain

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        if not isinstance(self.criterion, str):
            return self.criterion(output, target)
        loss: Tensor = getattr(F, LOSSES[self.criterion])(output, target)
        return loss
