"""How many bytes of tensors a training step holds, counted while it runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Packed:
    """What autograd keeps instead of a saved tensor; it dies with the graph that saved it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Tally:
    """Distinct storages that autograd holds, and with them what else is said to be held.

    Args:
        exclude: Tensors whose storages do not count: parameters and buffers.
        others: Tensors that count as held too, asked for after every operation.

    Attributes:
        peak: The most bytes held at once.
    """

    def __init__(self, exclude: Iterable[Tensor], others: Callable[[], Iterable[Tensor]]) -> None:
        self._excluded = {_address(tensor) for tensor in exclude}
        self._others = others
        self._bytes: dict[int, int] = {}
        self._holders: dict[int, int] = {}
        self.peak = 0

    def pack(self, tensor: Tensor) -> Packed:
        """Note a tensor that autograd saves."""
        packed = Packed(tensor.detach())
        address = _address(tensor)
        if address not in self._excluded:
            self._bytes[address] = tensor.untyped_storage().nbytes()
            self._holders[address] = self._holders.get(address, 0) + 1
            weakref.finalize(packed, self._drop, address)
        self.look()
        return packed

    def _drop(self, address: int) -> None:
        self._holders[address] -= 1
        if not self._holders[address]:
            del self._holders[address], self._bytes[address]

    def look(self) -> None:
        """Bring the peak up to date."""
        others = {_address(t): t.untyped_storage().nbytes() for t in self._others()}
        held = self._bytes | others
        self.peak = max(self.peak, sum(held[a] for a in held.keys() - self._excluded))


class Allocations(TorchDispatchMode):
    """Bytes of all storages that operations make, while these live.

    Args:
        after: Called after every operation.

    Attributes:
        peak: The most bytes alive at once. What was there before does not count.
    """

    def __init__(self, after: Callable[[], None]) -> None:
        super().__init__()
        self._after = after
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note the storages that it made."""
        out = func(*args, **(kwargs or {}))
        old = {_identity(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                key, storage = _identity(tensor), tensor.untyped_storage()
                if key not in old and key not in self._alive:
                    self._alive[key] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, key, None)
        self.peak = max(self.peak, sum(self._alive.values()))
        self._after()
        return out


@contextmanager
def watched(
    exclude: Iterable[Tensor], others: Callable[[], Iterable[Tensor]]
) -> Iterator[tuple[Tally, Allocations]]:
    """Count what is saved and what is made during a ``with`` block; see the two classes."""
    saved = Tally(exclude, others)
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda packed: packed.tensor)
    # Counting must not itself be an operation that is counted: `others` only looks.
    with hooks, Allocations(after=saved.look) as made:
        yield saved, made


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _identity(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
