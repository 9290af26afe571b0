"""The arithmetic of a critic's linear head, in closed form: five small matrix products."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .sums import number, numbers, packed_sums


class Head(NamedTuple):
    r"""A critic's linear head :math:`z(h) = A h + b`, its gain and its criterion.

    Attributes:
        weight: :math:`A`. Shape ``[C, D]``: targets by features.
        bias: :math:`b`. Shape ``[C]``.
        gain: :math:`\gamma`, logarithm of the loss's weight. Shape ``[]``.
        criterion: ``"cross_entropy"``, ``"mse"`` or ``"binary_cross_entropy"``.
        sobolev: :math:`\sigma`, weight of the local loss itself in what is learned.
    """

    weight: Tensor
    bias: Tensor
    gain: Tensor
    criterion: str
    sobolev: float = 0.0

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, bias and gain."""
        return self.weight, self.bias, self.gain

    def detached(self) -> Head:
        """The same head, as constants."""
        weight, bias, gain = (p.detach() for p in self.parameters())
        return Head(weight, bias, gain, self.criterion, self.sobolev)


class Response(NamedTuple):
    r"""What a head says to a batch; everything is small beside the activation.

    Attributes:
        residual: :math:`R = \frac{e^\gamma}{N} \partial \ell / \partial z`; the synthetic
            gradient is :math:`R^T A`. Shape ``[C, N]``.
        output: Probabilities, or outputs under ``"mse"``. Shape ``[C, N]``.
        factor: :math:`e^\gamma / N`: a number, or a tensor of shape ``[]``.
    """

    residual: Tensor
    output: Tensor
    factor: Any


class Lesson(NamedTuple):
    """What a true gradient teaches: gradients of weight, bias and gain, and the meter's sums."""

    weight: Tensor
    bias: Tensor
    gain: Tensor
    sums: Tensor


def respond(head: Head, positions: Tensor, target: Tensor) -> Response:
    """Compare the head's outputs with their target.

    Features come first in here: torch normalises over the leading axis several times faster.

    Args:
        head: The head.
        positions: Activations :math:`h_n`. Shape ``[N, D]``.
        target: Targets of the criterion. Shape ``[N, C]``.

    Returns:
        The response, from which `synthetic` makes the gradient.
    """
    factor = number(head.gain.exp()) / len(positions)
    output = torch.addmm(head.bias.unsqueeze(1), head.weight, positions.t())
    target = target.t()
    if target.dtype != output.dtype:
        target = target.to(output.dtype)
    if head.criterion == "cross_entropy":
        output = output.softmax(0)
        residual = (output - target).mul_(factor)
    elif head.criterion == "mse":
        residual = (output - target).mul_(factor * (2 / len(target)))
    else:
        output = output.sigmoid()
        residual = (output - target).mul_(factor / len(target))
    return Response(residual, output, factor)


def synthetic(head: Head, response: Response, unit: Tensor) -> Tensor:
    """The synthetic gradient :math:`R^T A`.

    Args:
        head: The head.
        response: What it said.
        unit: ρ or 1 / ρ: while it is 0, ρ is unknown and the gradient is 0. Shape ``[]``.

    Returns:
        Shape ``[N, D]``.
    """
    gradient = response.residual.t() @ head.weight
    # A head that learns from gradients alone is 0 until ρ is known.
    return gradient * (unit > 0) if head.sobolev else gradient


def learn(
    head: Head, response: Response, positions: Tensor, true: Tensor, inverse_scale: Tensor
) -> Lesson:
    r"""Gradient of the regression loss with respect to the head, and the sums for the meter.

    With :math:`S = R^T A`, the loss is :math:`\frac{1}{N \rho^2} \lVert S - G \rVert^2`, and
    :math:`\sigma` times the mean criterion, whose slope is :math:`R e^{-\gamma}`.
    Neither :math:`S` nor the difference is written down: :math:`A S^T = (A A^T) R` and
    :math:`R S = (R R^T) A` leave only products of :math:`A` or :math:`R` with :math:`G`, and
    of the outputs' gradient with :math:`h`.

    Args:
        head: The head, as it was when it responded.
        response: What it said.
        positions: What it said it to. Shape ``[N, D]``.
        true: True gradient :math:`G`. Shape ``[N, D]``.
        inverse_scale: :math:`1 / \rho`, or 0 while ρ is unknown. Shape ``[]``.

    Returns:
        The gradients, and ``[Σ G², Σ (S/ρ)², Σ G S/ρ, count, 1]`` in `METER_UNIT`.
    """
    weight, residual, output = head.weight, response.residual, response.output
    (targets, count), unit = output.shape, number(inverse_scale)
    step = unit * unit * (2 / count)
    inner, gram = residual @ residual.t(), weight @ weight.t()
    across = weight @ true.t()
    for_residual = _difference(across, gram, residual, step)

    factor = response.factor
    if head.criterion == "cross_entropy":
        weighted = output * for_residual
        for_output = torch.addcmul(weighted, output, weighted.sum(0), value=-1)
        for_output = for_output.mul_(factor)
    elif head.criterion == "mse":
        for_output = for_residual * (factor * 2 / targets)
    else:
        for_output = (for_residual * output * (1 - output)).mul_(factor / targets)
    if head.sobolev:
        for_output += (residual * (head.sobolev / count)).div_(factor)

    for_weight = _difference(residual @ true, inner, weight, step)
    for_weight.addmm_(for_output, positions)

    flat, entries = true.reshape(-1), residual.view(-1)
    square, predicted, product = numbers(
        flat.dot(flat), inner.view(-1).dot(gram.view(-1)), entries.dot(across.view(-1))
    )
    sums = packed_sums(square, predicted * unit * unit, product * unit, true.numel())
    return Lesson(for_weight, for_output.sum(1), for_residual.view(-1).dot(entries), sums)


def rows(tensor: Tensor) -> Tensor:
    """The positions of an activation or a gradient ``[*, D]``. Shape ``[N, D]``."""
    return tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])


def _difference(minus: Tensor, left: Tensor, right: Tensor, factor: Any) -> Tensor:
    """A matrix product less a matrix, times a factor."""
    if isinstance(factor, Tensor):
        return torch.addmm(minus, left, right, beta=-1).mul_(factor)
    return torch.addmm(minus, left, right, beta=-factor, alpha=factor)
