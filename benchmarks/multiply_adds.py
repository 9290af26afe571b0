"""The multiply-adds of a training step, counted layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(slots=True)
class MultiplyAdds:
    """A running count of multiply-adds."""

    total: int = 0


@contextmanager
def multiply_adds(modules: Iterable[nn.Module]) -> Iterator[MultiplyAdds]:
    """Count what the linear, convolution and LSTM layers among `modules` multiply in a step.

    A layer with M multiply-adds in its forward pass needs M more in the backward pass for the
    gradient of its weights and, where its input needs a gradient, M more for that.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 5)
        >>> with multiply_adds([layer]) as count:
        ...     _ = layer(torch.ones(2, 3))
        >>> count.total  # 2 · 3 · 5 forward, as many for the weights
        60
    """
    count = MultiplyAdds()

    def add(
        layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, object]
    ) -> None:
        count.total += _forward_multiply_adds(layer, inputs[0], output) * (
            2 + inputs[0].requires_grad
        )

    layers = (nn.Linear, nn.modules.conv._ConvNd, nn.LSTM)
    hooks = [module.register_forward_hook(add) for module in modules if isinstance(module, layers)]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()


def _forward_multiply_adds(
    layer: nn.Module, value: Tensor, output: Tensor | tuple[Tensor, object]
) -> int:
    if isinstance(output, Tensor):
        (weight,) = [parameter for parameter in layer.parameters() if parameter.dim() > 1]
        return output.numel() * weight[0].numel()
    # An LSTM multiplies every weight matrix with every position of the sequence.
    positions = value.numel() // value.shape[-1]
    return positions * sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
