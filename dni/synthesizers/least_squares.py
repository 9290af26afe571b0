"""The synthesizer that learns by recursive least squares."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import DNINetwork, at_least

_GATHER = 4  # calls between two looks at what is seen: its moments change slowly
_SOLVE = 40  # calls between two inverses, and half, a quarter and an eighth of it at the start


class LeastSquaresDNI(DNINetwork):
    r"""A linear map fitted to the true gradients of the last calls, not stepped towards them.

    Features :math:`f` of the activation and the context are mapped by :math:`W`, and with
    ``grad_optim="sgd", grad_lr=1`` every update moves :math:`W` to where

    .. math:: \sum_k \mu^{n-k} \sum_b \lVert W f_{kb} - g_{kb} / \rho \rVert^2

    is least, with the forgetting factor :math:`\mu = e^{-1/\mathtt{memory}}`. There is no rate
    to choose. What a recurrent network is missing at the end of a window is the mean of many
    gradients, small beside their spread, and changes with its weights: what counts is to find it
    soon, and Adam's steps wander about it by more than it measures.

    The gradient of :math:`W` is the residuals times
    :math:`(I + F P F^T)^{-1} F P` in place of :math:`F`, with :math:`F` the features of a batch
    and :math:`P = (\sum_k \mu^{n-k} F_k^T F_k + \mathtt{ridge}\, I)^{-1}`, renewed now and then.
    The features are the activation :math:`h`, with ``curves`` also :math:`\tanh h` and
    :math:`\tanh^2 h`, by which a squashed unit lets less through, then the context and 1.

    Args:
        input_size: Number of features of a position.
        hidden_size: Not used.
        output_size: Number of features of the gradient.
        context_size: Number of features of the context.
        curves: Whether the two functions of the activation are among the features.
        memory: Calls after which what was seen counts for :math:`1/e`; only calls that learn.
            A short memory has the noise that any gradient has, a long one comes late.
        ridge: How many observations the assumption that :math:`W` is zero counts for.

    Shapes:
        ``input`` ``[*, input_size]`` and ``context`` ``[*, context_size]`` -> gradient
        ``[*, output_size]``. With :math:`n` features, a call that learns takes :math:`n^2`
        multiplications for each position.

    Raises:
        ConfigError: ``memory`` or ``ridge`` is out of its range.

    Source:
        Recursive least squares with forgetting (Haykin, Adaptive Filter Theory); as a
        synthesizer measured in docs/results/recurrent.md, its memory in docs/choosing.md.

    Example:
        >>> synthesizer = LeastSquaresDNI(3, 0, 2, ridge=1.0)
        >>> optimizer = torch.optim.SGD(synthesizer.parameters(), lr=1)
        >>> seen, teacher = torch.randn(50, 3), torch.randn(3, 2)
        >>> for _ in range(400):
        ...     optimizer.zero_grad()
        ...     (synthesizer(seen, None)[0] - seen @ teacher).square().sum(1).mean().backward()
        ...     optimizer.step()
        >>> torch.allclose(synthesizer(seen, None)[0], seen @ teacher, atol=0.2)
        True
    """

    moments: Tensor
    inverse: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        context_size: int | None = None,
        curves: bool = True,
        memory: int = 250,
        ridge: float = 100.0,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        at_least(1, memory=memory)
        if (
            isinstance(ridge, bool)
            or not isinstance(ridge, int | float)
            or not 0 < ridge < math.inf
        ):
            raise ConfigError(f"`ridge` is {ridge!r}; a number above 0 is needed.")
        self.curves, self.ridge = curves, float(ridge)
        self.forgetting = math.exp(-_GATHER / memory)
        features = input_size * (3 if curves else 1) + (context_size or 0) + 1
        self.weight = torch.nn.Parameter(torch.zeros(output_size, features))
        self.register_buffer("moments", torch.zeros(features, features))
        self.register_buffer("inverse", torch.eye(features) / self.ridge)
        self.calls = 0

    def forward(
        self, input: Tensor, hidden: Any, context: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Predict, and with gradients on, take note of what is seen.

        Args:
            input: Detached activation. Shape ``[*, input_size]``.
            hidden: Passed on.
            context: Features of the context. Shape ``[*, context_size]``.

        Returns:
            The synthetic gradient in units of its scale, and ``hidden``.
        """
        parts = [input]
        if self.curves:
            bent = input.tanh()
            parts += [bent, bent.square()]
        if context is not None:
            parts.append(context.to(input.dtype).expand(*input.shape[:-1], -1))
        features = torch.cat([*parts, input.new_ones(*input.shape[:-1], 1)], -1)
        rows = features.reshape(-1, features.shape[-1])
        if torch.is_grad_enabled() and self.weight.requires_grad:
            gradient = Fit.apply(rows, self.weight, self._gains(rows))  # type: ignore[no-untyped-call]
        else:
            gradient = rows @ self.weight.T
        return gradient.view(*input.shape[:-1], self.output_size), hidden

    @torch.no_grad()
    def _gains(self, rows: Tensor) -> Tensor:
        """What a residual of 1 in each row moves the weights by. Shape ``[N, features]``."""
        wide = torch.promote_types(self.moments.dtype, torch.float32)
        seen = rows.to(wide)
        if self.calls % _GATHER == 0:
            new = seen.T @ seen
            self.moments.mul_(self.forgetting).add_(new, alpha=_GATHER)
        if self.calls % _SOLVE == 0 or self.calls in (_SOLVE // 8, _SOLVE // 4, _SOLVE // 2):
            damped = self.moments.to(wide)
            damped.diagonal().add_(self.ridge)
            self.inverse.copy_(torch.cholesky_inverse(torch.linalg.cholesky(damped)))
        self.calls += 1
        gains = seen @ self.inverse.to(wide)
        # A batch is one step, not one for each row: rows that are alike share it.
        if len(seen) <= seen.shape[1]:
            overlap = gains @ seen.T
            overlap.diagonal().add_(1)
            step: Tensor = torch.linalg.solve(overlap, gains)
            return step
        overlap = seen.T @ gains
        overlap.diagonal().add_(1)
        step = torch.linalg.solve(overlap, gains, left=False)
        return step  # noqa: RET504 - for its type

    def get_extra_state(self) -> int:
        """The number of calls that learned."""
        return self.calls

    def set_extra_state(self, state: int) -> None:
        """Take over what `get_extra_state` gave."""
        self.calls = state


class Fit(torch.autograd.Function):
    """A linear map whose weights get, as their gradient, the step of least squares."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, gains: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(gains)
        return rows @ weight.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:  # noqa: D102
        (gains,) = ctx.saved_tensors
        (grad,) = grads
        # The loss is a mean over the rows that learn, and half of its gradient the residual.
        counted = grad.any(1).sum() / 2
        return None, (counted * grad.T.to(gains.dtype) @ gains).to(grad.dtype), None
