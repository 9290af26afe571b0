"""The critic that is not told the labels: it learns to infer them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import DNINetwork, at_least, start_at_zero
from .linear import LinearBatchNormDNI


class LabelFreeCriticDNI(DNINetwork):
    r"""A critic whose labels are inferred from the context, which need not hold any.

    The gradient of a classifier's loss is :math:`A^T (p - y)` with the network's own guess
    :math:`p` and the label :math:`y`. Who does not know the label can expect no more than
    :math:`A^T (p - \mathrm{E}[y])`, so beside the head of a critic there is a classifier
    :math:`q` of the context:

    .. math:: s_n = \frac{e^\gamma}{N} A^T
        \big(\mathrm{softmax}(A h_n + b) - \mathrm{softmax}(q(c_n))\big).

    Everything is learned from the true gradient alone. :math:`A` and :math:`b` start at zero,
    and so does :math:`s`; :math:`q` does not, or nothing would ever move. The context should be
    what the network itself sees, its input: the activation at a site is what the synthetic
    gradient moves, and a synthesizer that infers the label from it is soon talking to itself.

    Args:
        input_size: Number of features of a position.
        hidden_size: Width of the hidden layers of :math:`q`.
        output_size: The same as ``input_size``.
        context_size: Number of features of the context.
        num_classes: Number of labels that it tells apart.
        num_layers: Hidden layers of :math:`q` (Linear, BatchNorm, ReLU), 0 or more.

    Shapes:
        ``input`` ``[*, input_size]`` and ``context`` ``[*, context_size]`` -> gradient
        ``[*, input_size]``, in gradient units.

    Raises:
        ConfigError: No ``context_size``, or a number out of its range.

    Source:
        Ours; measured in docs/results/label_free.md.

    Example:
        >>> critic = LabelFreeCriticDNI(4, 8, 4, context_size=6, num_classes=3)
        >>> critic(torch.randn(2, 4), None, torch.randn(2, 6))[0].shape
        torch.Size([2, 4])
    """

    in_gradient_units: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        context_size: int | None = None,
        num_classes: int = 10,
        num_layers: int = 1,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        at_least(2, num_classes=num_classes)
        if context_size is None:
            raise ConfigError(
                "a critic without labels infers them from a context; give it what the network "
                "sees: `context_size=` (the number of its features) and `net(x, context=x)`"
            )
        self.head = nn.Linear(input_size, num_classes)
        start_at_zero(self.head)
        self.inference = LinearBatchNormDNI(context_size, hidden_size, num_classes, num_layers)
        self.inference.final.reset_parameters()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(  # type: ignore[override]
        self, input: Tensor, hidden: object, context: Tensor
    ) -> tuple[Tensor, object]:
        """The gradient that is to be expected, given the context.

        Args:
            input: Detached activation. Shape ``[*, input_size]``.
            hidden: Passed on.
            context: What labels are inferred from. Shape ``[*, context_size]``.

        Returns:
            The synthetic gradient, in the shape of ``input``, and ``hidden``.
        """
        positions = input.reshape(-1, self.input_size)
        guessed = self.head(positions).softmax(-1)
        told = context.reshape(-1, context.shape[-1]).to(input.dtype)
        inferred = self.inference(told, None)[0].softmax(-1)
        residual = (guessed - inferred) * (self.gain.exp() / len(positions))
        return (residual @ self.head.weight).view_as(input), hidden
