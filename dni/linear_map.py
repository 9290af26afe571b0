"""A synthesizer that is one linear map, in closed form: no graph, and two products to learn by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .arrival import Arrival, arrived, learn
from .states import Form  # noqa: F401 - for the example
from .synthesizers.linear import LinearDNI


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
        across = self.weight.detach().t()
        return seen @ across if self.bias is None else self.bias.detach().addmm(seen, across)

    def detached(self) -> LinearMap:
        """The same map, which does not learn."""
        return LinearMap(self.weight.detach(), None if self.bias is None else self.bias.detach())


def is_linear(synthesizer: nn.Module) -> bool:
    """Whether a synthesizer is one linear map of its input.

    Example:
        >>> is_linear(LinearDNI(2, 0, 2, num_layers=0)), is_linear(LinearDNI(2, 4, 2))
        (True, False)
    """
    return type(synthesizer) is LinearDNI and not synthesizer.hidden_layers._modules


def linear_map_of(synthesizer: nn.Module, like: Tensor) -> LinearMap | None:
    """The map that a synthesizer is; ``None`` where it has to be called.

    That is where it is another one, where somebody listens to its calls, and where autocast or
    half precision computes them otherwise.

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
    if type(final) is not nn.Linear or _is_heard(synthesizer) or _is_heard(final):
        return None
    weight, bias = final._parameters["weight"], final._parameters["bias"]
    assert weight is not None
    if weight.dtype != like.dtype or weight.dtype not in (torch.float32, torch.float64):
        return None
    return None if torch.is_autocast_enabled(like.device.type) else LinearMap(weight, bias)


def _is_heard(module: nn.Module) -> bool:
    """Whether calls of a module have hooks, which the closed form would not call."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class Said(NamedTuple):
    """What a linear map said.

    Attributes:
        linear: The map.
        seen: What it saw. Shape ``[B, F]``.
        prediction: What it said, as it was then. Shape ``[B, S]``.
        square: Its sum of squares, if it is known without waiting for a device.
    """

    linear: LinearMap
    seen: Tensor
    prediction: Tensor
    square: float | None = None


class LinearStart(torch.autograd.Function):
    r"""What `dni.window.Start` computes, for a synthesizer that is one linear map.

    With the gradient :math:`R` of the regression with respect to what it said, the backward pass
    gives :math:`R^{\top} x` to the weight and :math:`\sum_n R_n` to the bias.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,
        meter: Tensor,
        said: Said,
        arrival: Arrival,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.said, ctx.arrival = said, arrival
        return tuple([t.clone() for t in state])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        _, seen, prediction, square = ctx.said
        true = arrived(ctx.arrival, grads, prediction)
        if true is None:
            return None, None, None, None, None, *grads
        residual, for_meter = learn(true, prediction, ctx.arrival, square)
        for_weight = residual.t() @ seen if ctx.needs_input_grad[0] else None
        for_bias = residual.sum(0) if ctx.needs_input_grad[1] else None
        return for_weight, for_bias, for_meter, None, None, *grads


def start_linear(
    state: Sequence[Tensor], said: Said, meter: Tensor, arrival: Arrival, *, learns: bool = True
) -> list[Tensor]:
    """Let a window start from a state of which a linear map said something.

    Args:
        state: The tensors of the state.
        said: What it said, and of what.
        meter: Leaf whose gradient will carry the statistics. Shape ``[5]``.
        arrival: What else the gradient of the state is to be compared by.
        learns: Whether the map learns.

    Returns:
        Copies of the tensors.

    Example:
        >>> linear = LinearMap(torch.zeros(2, 1, requires_grad=True), None)
        >>> meter, seen = torch.zeros(5, requires_grad=True), torch.tensor([[2.0], [3.0]])
        >>> said, h = Said(linear, seen, linear.say(seen)), torch.ones(2, 2)
        >>> (h,) = start_linear([h], said, meter, Arrival(torch.ones(()), Form([h], 0)))
        >>> (4 * h).sum().backward()
        >>> linear.weight.grad  # Σ 2 / N (p - 4) x
        tensor([[-20.],
                [-20.]])
    """
    weight, bias = said.linear if learns else said.linear.detached()
    out: tuple[Tensor, ...] = LinearStart.apply(  # type: ignore[no-untyped-call]
        weight, bias, meter, said, arrival, *state
    )
    return list(out)
