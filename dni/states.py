"""States of recurrent networks: nests of tensors, and one row of features per sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from .errors import ConfigError


def tensors_in(nest: Any) -> list[Tensor]:
    """The floating-point tensors of a nest of tuples, lists and mappings, in order.

    Example:
        >>> [t.shape[0] for t in tensors_in((torch.zeros(1), {"a": [torch.zeros(2), None]}))]
        [1, 2]
    """
    if isinstance(nest, Tensor):
        return [nest] if nest.is_floating_point() else []
    if isinstance(nest, Mapping):
        nest = tuple(nest.values())
    if isinstance(nest, tuple | list):
        return [tensor for value in nest for tensor in tensors_in(value)]
    return []


def rebuilt(nest: Any, tensors: Sequence[Tensor]) -> Any:
    """The same nest with other floating-point tensors in it; other tensors are detached.

    Args:
        nest: A nest of tuples (named ones too), lists and mappings.
        tensors: As many as `tensors_in` finds, in that order.

    Example:
        >>> rebuilt({"h": torch.zeros(1), "steps": 3}, [torch.ones(1)])
        {'h': tensor([1.]), 'steps': 3}
    """
    return _rebuilt(nest, iter(tensors))


def _rebuilt(nest: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(nest, Tensor):
        return next(tensors) if nest.is_floating_point() else nest.detach()
    if isinstance(nest, Mapping):
        pairs = {key: _rebuilt(value, tensors) for key, value in nest.items()}
        return pairs if type(nest) is dict else type(nest)(pairs)  # type: ignore[call-arg]
    if isinstance(nest, tuple | list):
        values = [_rebuilt(value, tensors) for value in nest]
        return type(nest)(*values) if hasattr(nest, "_fields") else type(nest)(values)
    return nest


def join(tensors: Sequence[Tensor], batch_dim: int) -> Tensor:
    """Lay the tensors of a state side by side: the whole state of each sequence in a row.

    Args:
        tensors: The state, or a gradient of it.
        batch_dim: Their axis of sequences.

    Returns:
        Shape ``[B, S]``, where ``S`` counts the entries of the state of one sequence.

    Example:
        >>> h = torch.arange(4.0).view(2, 2, 1)  # [layers, B, H]
        >>> join([h, 0 * h], 1)
        tensor([[0., 0., 2., 0.],
                [1., 0., 3., 0.]])
    """
    if _are_beside([t.shape for t in tensors], batch_dim):
        tensors = [torch.cat(list(tensors), -1)]
    rows = [t.movedim(batch_dim, 0).reshape(t.shape[batch_dim], -1) for t in tensors]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


def split(rows: Tensor, shapes: Sequence[torch.Size], batch_dim: int) -> list[Tensor]:
    """Undo `join`.

    Args:
        rows: Shape ``[B, S]``.
        shapes: Of the tensors of the state.
        batch_dim: Their axis of sequences.

    Returns:
        One tensor per tensor of the state, of its shape.

    Example:
        >>> split(torch.arange(4.0).view(2, 2), [torch.Size([2, 2, 1])], 1)[0].squeeze(-1)
        tensor([[0., 2.],
                [1., 3.]])
    """
    if _are_beside(shapes, batch_dim):
        lead, widths = list(shapes[0][:-1]), [shape[-1] for shape in shapes]
        del lead[batch_dim]
        beside = rows.view(len(rows), *lead, sum(widths)).movedim(0, batch_dim)
        return [part.contiguous() for part in beside.split(widths, -1)]
    parts = rows.split([shape.numel() // len(rows) for shape in shapes], 1)
    return [
        part.reshape(shape[batch_dim], *shape[:batch_dim], *shape[batch_dim + 1 :])
        .movedim(0, batch_dim)
        .contiguous()
        for part, shape in zip(parts, shapes, strict=True)
    ]


def _are_beside(shapes: Sequence[torch.Size], batch_dim: int) -> bool:
    """Whether tensors differ in their features alone: one copy then joins them."""
    lead = shapes[0][:-1]
    return len(lead) > batch_dim and all(shape[:-1] == lead for shape in shapes)


def asinh(rows: Tensor) -> Tensor:
    """The inverse hyperbolic sine, entry by entry, of a constant.

    Example:
        >>> asinh(torch.tensor([-3.0, 0.0, 1e-8]))
        tensor([-1.8184e+00,  0.0000e+00,  1.0000e-08])
    """
    if rows.device.type != "cpu" or rows.dtype not in (torch.float32, torch.float64):
        return rows.asinh()
    # Numpy's is vectorized: torch's takes as long on the CPU as a small network's layer does.
    return torch.from_numpy(numpy.arcsinh(rows.numpy()))


def batch_dim_of(module: nn.Module) -> int:
    """The axis of sequences in a state: 1 for ``[layers, B, H]`` of torch's modules, else 0.

    Example:
        >>> batch_dim_of(nn.Sequential(nn.LSTM(2, 2))), batch_dim_of(nn.LSTMCell(2, 2))
        (1, 0)
    """
    return 1 if any(isinstance(m, nn.RNNBase) for m in module.modules()) else 0


def sizes_of(module: nn.Module) -> list[int] | None:
    """Entries of one sequence in each tensor of the state, if the module tells it.

    Raises:
        ConfigError: The module reads sequences backward too.

    Example:
        >>> sizes_of(nn.LSTM(3, 5, num_layers=2)), sizes_of(nn.GRUCell(3, 5))
        ([10, 10], [5])
    """
    if isinstance(module, nn.RNNBase):
        if module.bidirectional:
            raise ConfigError(
                f"`{type(module).__name__}` is bidirectional: its state at a window's end depends "
                "on what comes later, so no window can hand it to the next. Pass "
                "`bidirectional=False`."
            )
        hidden = [module.proj_size or module.hidden_size]
        cell = [module.hidden_size] if isinstance(module, nn.LSTM) else []
        return [module.num_layers * size for size in hidden + cell]
    if isinstance(module, nn.RNNCellBase):
        return [module.hidden_size] * (2 if isinstance(module, nn.LSTMCell) else 1)
    return None
