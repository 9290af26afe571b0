"""States of recurrent networks: nests of tensors, and one row of features per sequence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    found: list[Tensor] = []
    parts: Iterable[Any] = ()
    if isinstance(nest, (tuple, list)):  # quicker than a mapping to tell
        parts = nest
    elif isinstance(nest, Mapping):
        parts = nest.values()
    for part in parts:
        if isinstance(part, Tensor):  # at once: most nests are a pair of tensors
            if part.is_floating_point():
                found.append(part)
        else:
            found += tensors_in(part)
    return found


def rebuilt(nest: Any, tensors: Sequence[Tensor]) -> Any:
    """The same nest with other floating-point tensors in it; other tensors are detached.

    Args:
        nest: A nest of tuples (named ones too), lists and mappings.
        tensors: As many as `tensors_in` finds, in that order.

    Example:
        >>> rebuilt({"h": torch.zeros(1), "steps": 3}, [torch.ones(1)])
        {'h': tensor([1.]), 'steps': 3}
    """
    if isinstance(nest, Tensor) and len(tensors) == 1:
        return tensors[0]
    is_plain = type(nest) is tuple and len(nest) == len(tensors)
    if is_plain and all([isinstance(part, Tensor) for part in nest]):
        return tuple(tensors)
    return _rebuilt(nest, iter(tensors))


def _rebuilt(nest: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(nest, Tensor):
        return next(tensors) if nest.is_floating_point() else nest.detach()
    if isinstance(nest, (tuple, list)):
        values = [_rebuilt(value, tensors) for value in nest]
        return type(nest)(*values) if hasattr(nest, "_fields") else type(nest)(values)
    if isinstance(nest, Mapping):
        pairs = {key: _rebuilt(value, tensors) for key, value in nest.items()}
        return pairs if type(nest) is dict else type(nest)(pairs)  # type: ignore[call-arg]
    return nest


class Form:
    """How the tensors of a state lie in a row for each sequence.

    Args:
        tensors: The tensors; only their shapes, types and devices count.
        batch_dim: Their axis of sequences.

    Attributes:
        shapes: Of the tensors.
        batch: Number of sequences :math:`B`.
        layout: The shapes without their axis of sequences.
        sizes: Entries of a sequence in each tensor; together they are :math:`S`.

    Example:
        >>> h = torch.arange(4.0).view(2, 2, 1)  # [layers, B, H]
        >>> form = Form([h, h], 1)
        >>> form.join([h, 0 * h])
        tensor([[0., 0., 2., 0.],
                [1., 0., 3., 0.]])
    """

    def __init__(self, tensors: Sequence[Tensor], batch_dim: int) -> None:
        self._kinds = [(t.shape, t.dtype, t.device) for t in tensors]
        self.shapes, self.batch_dim = (shapes := [t.shape for t in tensors]), batch_dim
        self.batch = shapes[0][batch_dim]
        self.layout = tuple((*shape[:batch_dim], *shape[batch_dim + 1 :]) for shape in shapes)
        self.sizes = [math.prod(sizes) for sizes in self.layout]
        lead, widths = shapes[0][:-1], [shape[-1] for shape in shapes]
        # Tensors that differ in their features alone lie side by side: one copy joins them.
        is_beside = len(lead) > batch_dim and all([shape[:-1] == lead for shape in shapes])
        self._widths = widths if is_beside else self.sizes
        self._parts = [(*lead, sum(widths))] if is_beside else self.shapes
        # With nothing before the sequences, rows and tensors have their entries in one order.
        self._is_in_order = all([math.prod(shape[:batch_dim]) == 1 for shape in shapes])
        self._is_beside = is_beside

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors have these shapes, types and devices."""
        return [(t.shape, t.dtype, t.device) for t in tensors] == self._kinds

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Lay the tensors of a state, or of its gradient, side by side.

        Returns:
            The whole state of each sequence in a row, maybe a view. Shape ``[B, S]``.
        """
        if self._is_beside:
            whole = tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), -1)
            return self._in_rows(whole)
        return torch.cat([self._in_rows(tensor) for tensor in tensors], 1)

    def copied(self, tensors: Sequence[Tensor]) -> Tensor:
        """The same, and never a view."""
        rows = self.join(tensors)
        return rows.clone() if len(tensors) == 1 else rows

    def split(self, rows: Tensor) -> list[Tensor]:
        """Undo `join`: ``[B, S]`` -> views of the shapes of the tensors."""
        if self._is_beside:
            whole = self._from_rows(rows, self._parts[0])
            return list(whole.split_with_sizes(self._widths, -1))
        parts = zip(rows.split(self._widths, 1), self._parts, strict=True)
        return [self._from_rows(part, shape) for part, shape in parts]

    def masked(self, tensors: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Tensors of the state, or of its gradient, with zeros where a mask ``[B]`` is false."""
        axes = [1] * self.batch_dim + [-1]
        return [t * mask.view(axes + [1] * (t.dim() - len(axes))).to(t.dtype) for t in tensors]

    def _in_rows(self, tensor: Tensor) -> Tensor:
        if not self._is_in_order:
            tensor = tensor.movedim(self.batch_dim, 0)
        return tensor.reshape(self.batch, -1)

    def _from_rows(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self._is_in_order:
            return rows.reshape(shape)
        axis = self.batch_dim
        first = rows.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :])
        return first.movedim(0, axis)


def asinh(rows: Tensor) -> Tensor:
    """The inverse hyperbolic sine, entry by entry, of a constant.

    Example:
        >>> asinh(torch.tensor([-3.0, 0.0, 1e-8]))
        tensor([-1.8184e+00,  0.0000e+00,  1.0000e-08])
    """
    if torch.compiler.is_compiling():
        # asinh(x) = sign(x) log1p(|x| + |x|² / (1 + √(1 + |x|²))), of which a compiler makes
        # vectors; divided before it is multiplied, lest a square that overflows makes NaN.
        size = rows.abs()
        return torch.copysign(torch.log1p(size + size * (size / (1 + (1 + size**2).sqrt()))), rows)
    if not rows.is_cpu or rows.dtype not in (torch.float32, torch.float64):
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
