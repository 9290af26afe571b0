"""The synthesizer that learns a local loss and predicts with the gradient of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, ContextError, did_you_mean
from .base import DNINetwork, at_least, start_at_zero
from .means import averages, unmoved

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


class CriticDNI(DNINetwork):
    r"""The gradient of a learned local loss: :math:`s = \partial \hat L(h, y) / \partial h`.

    A small head :math:`z` on the activation and the task's criterion make a local loss
    :math:`\hat L(h, y) = \frac{e^\gamma}{N} \sum_n \ell(z(h_n), y_n)`; what is learned is not
    that this loss is small but that its gradient is the true one. A classifier's true gradient
    has this form where the head is the network's own, so a critic predicts it far better than a
    regression of the vector field does. With :math:`z(h) = A h + b` and the cross entropy

    .. math:: s_n = \frac{e^\gamma}{N} A^T r_n, \qquad r_n = \mathrm{softmax}(z(h_n)) - y_n,

    with a learned gain :math:`\gamma` for losses that are weighted or summed. A hidden layer
    stands beside the linear part, :math:`z(h) = A h + b + C \, \mathrm{relu}(B h + c)`, and
    adds :math:`B^T (\mathbb{1}_{B h_n + c > 0} \odot C^T r_n)` to :math:`A^T r_n`.
    :math:`A`, :math:`b` and :math:`C` start at zero, and so does :math:`s`.

    A local loss that predicts the network's own has its value, too: with a weight ``sobolev``
    of :math:`\sigma` the head is also fitted to the target, by the term
    :math:`\frac{\sigma}{N} \sum_n \ell(z(h_n), y_n)` beside the regression of the gradient.

    What follows a site often normalises over the batch (a convolution or a linear map, then
    BatchNorm). It does not notice if all positions of a feature are shifted alike, or if the
    activation is scaled, so the true gradient is orthogonal to both. A head does not know that,
    and what it says there is an error of the same sign in every update: the scale of the layer
    grows and running averages lag behind. With ``before_norm`` these parts are taken out of
    :math:`s` (see `dni.synthesizers.means.unmoved`).

    Needs a context: the target of the criterion, as one-hot labels or as features.

    Args:
        input_size: Number of features of a position (channels of a map).
        hidden_size: Width of the head's hidden layers.
        output_size: The same as ``input_size``.
        context_size: Number of classes or target features.
        criterion: ``"cross_entropy"``, ``"mse"`` or ``"binary_cross_entropy"`` (all averaged as
            in torch), or a function of the head's output and the target, both
            ``[N, context_size]``, that returns the mean loss and that autograd can derive twice.
        num_layers: Hidden layers of the head (Linear, ReLU) beside its linear part. One of them
            gained nothing on MNIST with three layers (ten epochs, three seeds), and costs time;
            with twenty, one seed stayed at 11 % error without it (2.6 % with it, six epochs).
        maps: Whether the activation is a feature map; the wrapper sets it.
        pool_size: A map with more rows or columns is averaged to so many before the head. The
            more the better the critic of a convolution, up to the size of the map, and the dearer.
        sobolev: Weight :math:`\sigma` of the local loss itself in the training of the critic; 0
            matches gradients alone.
        before_norm: Whether what follows the site normalises over the batch; it needs more than
            one position. Not for the last site, whose scale the loss does notice. What it gains
            differs from seed to seed (docs/choosing.md).

    Shapes:
        ``input`` ``[*, input_size]`` and ``context`` ``[*, context_size]`` -> gradient
        ``[*, input_size]``, in gradient units; with ``maps`` ``[B, input_size, H, W]`` and
        ``[B, context_size]`` -> ``[B, input_size, H, W]``.

    Raises:
        ConfigError: An unknown criterion, no ``context_size``, or a number out of its range.

    Source:
        The critic of Czarnecki et al. 2017, arXiv:1703.00522; matching gradients, and values
        beside them, as in Sobolev training, arXiv:1706.04859. Theirs is the value of the
        network's loss; an interface does not see that one, so ours is what the loss is made of,
        the target. The closed form and the gain are ours.

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
        sobolev: float = 0.0,
        before_norm: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        at_least(0, num_layers=num_layers)
        at_least(1, pool_size=pool_size)
        if context_size is None:
            raise ConfigError(
                "a critic needs the target of the task's criterion as context; pass "
                "`context_size=` (the number of classes) and `net(x, context=labels)`"
            )
        if not callable(criterion) and criterion not in RESIDUALS:
            raise ConfigError(
                f"`criterion` is {criterion!r}, no loss known here."
                f"{did_you_mean(str(criterion), RESIDUALS)} Or pass a function."
            )
        if isinstance(sobolev, bool) or not isinstance(sobolev, int | float) or not sobolev >= 0:
            raise ConfigError(f"`sobolev` is {sobolev!r}; a weight of at least 0 is needed.")
        self.criterion = criterion
        self.sobolev = float(sobolev)
        self.before_norm = before_norm
        self.pool_size = pool_size if maps else None
        features = input_size * (pool_size**2 if maps else 1)
        # The linear part and the first hidden layer see the same and are one matrix: it is faster.
        self.first = nn.Linear(features, context_size + (hidden_size if num_layers else 0))
        with torch.no_grad():
            self.first.weight[:context_size].zero_()
            self.first.bias[:context_size].zero_()
        self.hidden_layers = nn.ModuleList(
            nn.Linear(hidden_size, hidden_size) for _ in range(num_layers - 1)
        )
        self.final = None
        if num_layers:
            self.final = nn.Linear(hidden_size, context_size, bias=False)
            start_at_zero(self.final)
        self.gain = nn.Parameter(torch.zeros(()))

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

        Raises:
            ContextError: A feature map whose samples have not one target each.
        """
        if self.pool_size is None:
            positions = input.reshape(-1, self.input_size)
            gradient = self._gradient(positions, context.reshape(-1, context.shape[-1]))
            if self.before_norm:
                gradient = unmoved(gradient, positions)
            return gradient.view_as(input), hidden
        if context.shape[:-1] != input.shape[:1]:
            raise ContextError(
                f"The context has {tuple(context.shape[:-1])} targets, the feature map has shape "
                f"{tuple(input.shape)}; a critic of a map needs one target per sample."
            )
        size = (input.shape[-2], input.shape[-1])
        cells = min(size[0], self.pool_size), min(size[1], self.pool_size)
        # Where nothing is averaged nothing is spread: passes over the map saved.
        pooled = input if cells == size else F.adaptive_avg_pool2d(input, cells)
        gradient = self._gradient(pooled.flatten(1), context, cells)
        gradient = gradient.view(len(input), self.input_size, *cells)
        if cells != size:
            rows, columns = (
                averages(pixels, count, like=gradient)
                for pixels, count in zip(size, cells, strict=True)
            )
            gradient = rows @ gradient @ columns.T
        if self.before_norm:
            gradient = unmoved(gradient, input)
        return gradient, hidden

    def _gradient(
        self, positions: Tensor, target: Tensor, cells: tuple[int, int] | None = None
    ) -> Tensor:
        """Gradient of the local loss. Shape of ``positions``: ``[N, features]``."""
        weight, size = self.first.weight, self.pool_size
        if size is None or cells is None or cells == (size, size):
            output = self.first(positions)
        else:  # a smaller map has the weights of the first rows and columns
            grid = weight.view(len(weight), -1, size, size)
            weight = grid[..., : cells[0], : cells[1]].flatten(1)
            output = F.linear(positions, weight, self.first.bias)
        if self.final is None:
            return self._residual(output, target) @ weight
        classes = self.final.out_features
        output, hidden = output[:, :classes], output[:, classes:]
        units = [hidden.relu()]
        for layer in self.hidden_layers:
            units.append(layer(units[-1]).relu())
        residual = self._residual(output + self.final(units[-1]), target)

        back = residual @ self.final.weight
        for layer in reversed(self.hidden_layers):
            assert isinstance(layer, nn.Linear)
            back = (back * (units.pop() > 0)) @ layer.weight
        back = back * (units.pop() > 0)
        return torch.cat((residual, back), -1) @ weight

    def _residual(self, output: Tensor, target: Tensor) -> Tensor:
        """Gradient of the local loss with respect to the output of the head."""
        target = target.to(output.dtype)
        if self.sobolev and output.requires_grad:
            slope = self._slope(output.detach(), target, self.sobolev).detach()
            output = Fitted.apply(output, slope)  # type: ignore[no-untyped-call]
        return self._slope(output, target, self.gain.exp())

    def _slope(self, output: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
        """Gradient of the weighted criterion, the mean over all positions."""
        if isinstance(self.criterion, str):
            return RESIDUALS[self.criterion](output, target) * (weight / len(output))
        with torch.enable_grad():
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            loss = self.criterion(output, target)
            (gradient,) = torch.autograd.grad(loss, output, create_graph=True)
        return gradient * weight


class Fitted(torch.autograd.Function):
    """Identity on the head's output that adds a loss of its own to whatever comes back."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, slope: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(slope)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        (slope,) = ctx.saved_tensors
        return grads[0] + slope, None
