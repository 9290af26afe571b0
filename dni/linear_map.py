"""A synthesizer that is one linear map, in closed form: no graph, and two products to learn by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .arrival import Arrival, arrived, learn, returned
from .listeners import give, in_ddp, is_awaited, is_heard
from .states import Form  # noqa: F401 - for the example
from .synthesizers.linear import LinearDNI

Call = Callable[[list[Tensor]], list[Tensor]]
"""Compiled code: from its tensors, one after the other, to its results."""


class LinearMap(NamedTuple):
    r"""The map :math:`p = W x + b` from what a synthesizer sees to what it says.

    Attributes:
        weight: :math:`W`. Shape ``[S, F]``: entries of the gradient by features.
        bias: :math:`b`, or ``None``. Shape ``[S]``.
    """

    weight: Tensor
    bias: Tensor | None

    def say(self, seen: Tensor) -> Tensor:
        """What the synthesizer says, as a constant. ``[B, F]`` -> ``[B, S]``.

        Example:
            >>> LinearMap(torch.ones(1, 2), torch.ones(1)).say(torch.tensor([[2.0, 3.0]]))
            tensor([[6.]])
        """
        bias = None if self.bias is None else self.bias.detach()
        return functional.linear(seen, self.weight.detach(), bias)


def is_linear(synthesizer: nn.Module) -> bool:
    """Whether a synthesizer is one linear map of its input.

    Example:
        >>> is_linear(LinearDNI(2, 0, 2, num_layers=0)), is_linear(LinearDNI(2, 4, 2))
        (True, False)
    """
    # Past `Module.__getattr__`: in a window of a few steps that is time.
    return type(synthesizer) is LinearDNI and not synthesizer._modules["hidden_layers"]._modules  # type: ignore[union-attr]


def linear_map_of(synthesizer: nn.Module, like: Tensor) -> LinearMap | None:
    """The map that a synthesizer is; ``None`` where it has to be called.

    That is where it is another one, where somebody listens to its calls or to the gradients of its
    parameters, DDP say, and where autocast or half precision computes them otherwise.

    Args:
        synthesizer: The synthesizer.
        like: What it is to see; its type and device count.

    Example:
        >>> found = linear_map_of(LinearDNI(2, 0, 3, num_layers=0), torch.zeros(1, 2))
        >>> found is not None and found.weight.shape
        torch.Size([3, 2])
    """
    if not is_linear(synthesizer):
        return None
    final = synthesizer._modules["final"]
    if type(final) is not nn.Linear or is_heard(synthesizer) or is_heard(final):
        return None
    weight, bias = final._parameters["weight"], final._parameters["bias"]
    assert weight is not None
    if weight.dtype != like.dtype or weight.dtype not in (torch.float32, torch.float64):
        return None
    if in_ddp() or is_awaited(weight) or (bias is not None and is_awaited(bias)):
        return None
    # Which device's autocast it is takes longer to tell than that there is none at all.
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(like.device.type):
        return None
    return LinearMap(weight, bias)


class Said(NamedTuple):
    """What a linear map said.

    Attributes:
        linear: The map.
        seen: What it saw. Shape ``[B, F]``.
        prediction: What it said, as it was then. Shape ``[B, S]``.
        square: Its sum of squares, if it is known without waiting for a device.
        learn: Compiled code that learns from it, see `dni.compiled_seam.Lesson`.
        layout: The layout of the states it does so for, see `Form`.
    """

    linear: LinearMap
    seen: Tensor
    prediction: Tensor
    square: float | None = None
    learn: Call | None = None
    layout: tuple[tuple[int, ...], ...] | None = None


def gradients_of(residual: Tensor, seen: Tensor, *, has_bias: bool) -> list[Tensor]:
    r"""The gradients of a linear map's weight, :math:`R^{\top} x`, and bias, :math:`\sum_n R_n`.

    Args:
        residual: :math:`R`, the gradient of what it said. Shape ``[B, S]``.
        seen: :math:`x`. Shape ``[B, F]``.
        has_bias: Whether there is a bias.

    Returns:
        Shapes ``[S, F]`` and ``[S]``.

    Example:
        >>> gradients_of(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]), has_bias=True)
        [tensor([[11.]]), tensor([3.])]
    """
    weight = torch.mm(residual.t(), seen)
    return [weight, residual.sum(0)] if has_bias else [weight]


class LinearStart:
    r"""What `dni.window.Start` does, for a synthesizer that is one linear map: without a graph.

    A window starts from leaves with the values of its state. Once a backward pass has ended,
    `teach` takes the gradients that arrived there: with the gradient :math:`R` of the regression
    with respect to what was said, it gives :math:`R^{\top} x` to the weight and
    :math:`\sum_n R_n` to the bias.

    Args:
        state: The tensors of the state.
        said: What the map said, and of what.
        meter: Leaf that is given the statistics as its gradient. Shape ``[5]``.
        arrival: What else the gradient of the state is to be compared by.
        learns: Whether the map learns.

    Attributes:
        leaves: What the window starts from.

    Example:
        >>> linear = LinearMap(torch.zeros(2, 1, requires_grad=True), None)
        >>> meter, seen = torch.zeros(5, requires_grad=True), torch.tensor([[2.0], [3.0]])
        >>> said, h = Said(linear, seen, linear.say(seen)), torch.ones(2, 2)
        >>> start = LinearStart([h], said, meter, Arrival(torch.ones(()), Form([h], 0)))
        >>> (4 * start.leaves[0]).sum().backward()
        >>> start.teach()
        True
        >>> linear.weight.grad  # Σ 2 / N (p - 4) x
        tensor([[-20.],
                [-20.]])
    """

    __slots__ = ("__weakref__", "_arrival", "_learns", "_meter", "_said", "leaves")

    def __init__(
        self,
        state: Sequence[Tensor],
        said: Said,
        meter: Tensor,
        arrival: Arrival,
        *,
        learns: bool = True,
    ) -> None:
        self._said, self._meter, self._arrival, self._learns = said, meter, arrival, learns
        self.leaves = [tensor.detach().requires_grad_() for tensor in state]

    def forget(self) -> None:
        """Let go of what has arrived."""
        for leaf in self.leaves:
            leaf.grad = None

    def teach(self) -> bool:
        """Learn from what has arrived.

        Returns:
            Whether something had; nothing has in a pass that asks for other gradients.
        """
        grads = [leaf.grad for leaf in self.leaves]
        if all([grad is None for grad in grads]):
            return False
        self.forget()
        if not returned(self._arrival):
            return False
        if torch._C._is_any_autocast_enabled():  # of the user's around a backward pass
            with torch.autocast(self._meter.device.type, enabled=False):
                lesson = self._lesson(grads)
        else:
            lesson = self._lesson(grads)
        give(self._meter, lesson[0])
        if self._learns:
            for parameter, gradient in zip(self._said.linear, lesson[1:], strict=False):
                give(parameter, gradient)  # type: ignore[arg-type]
        return True

    def _lesson(self, grads: Sequence[Tensor | None]) -> list[Tensor]:
        """The gradients of the meter, and of the map where it learns."""
        said, arrival = self._said, self._arrival
        fits = said.layout == arrival.form.layout and arrival.goes_on is None
        if said.learn is not None and self._learns and fits:
            given = [
                g for g in grads if g is not None and g.is_contiguous() and not g.requires_grad
            ]
            if len(given) == len(grads):
                return said.learn([*given, said.seen, said.prediction, arrival.inverse_scale])
        true = arrived(arrival, grads, said.prediction)
        # Rows of several tensors have memory of their own.
        overwrites = len(grads) > 1
        residual, sums = learn(true, said.prediction, arrival, said.square, overwrites=overwrites)
        if not self._learns:
            return [sums]
        has_bias = said.linear.bias is not None
        return [sums, *gradients_of(residual, said.seen, has_bias=has_bias)]
