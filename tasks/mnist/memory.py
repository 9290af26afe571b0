"""Measures the memory that autograd keeps for the backward pass."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class _Saved:
    """A tensor autograd has saved, in an object whose end can be watched."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Ledger:
    """Bytes of the distinct storages that are saved now, and the most there were at once."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        self.peak = 0
        self._now = 0
        self._uses: Counter[int] = Counter()
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in excluded}

    def pack(self, tensor: Tensor) -> _Saved:
        # Detached, because an operation's own output would hold its node alive in a circle.
        saved = _Saved(tensor.detach())
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._excluded:
            if not self._uses[address]:
                self._now += size
                self.peak = max(self.peak, self._now)
            self._uses[address] += 1
            weakref.finalize(saved, self._release, address, size)
        return saved

    def _release(self, address: int, size: int) -> None:
        self._uses[address] -= 1
        if not self._uses[address]:
            self._now -= size


def peak_saved_bytes(step: Callable[[], Tensor], *, excluded: Iterable[Tensor] = ()) -> int:
    """The most bytes that autograd holds at once while `step` runs.

    Each storage counts once, however many operations save it or a view of it. What is freed
    before the step's end (a graph that is backpropagated on the way) stops counting there.

    Args:
        step: A forward pass up to the loss, in train mode.
        excluded: Tensors that live anyway and do not count: the parameters and buffers.

    Returns:
        The peak in bytes. The batch of inputs counts, as autograd saves it.

    Example:
        >>> import torch
        >>> weight, x = torch.ones(8, 8, requires_grad=True), torch.ones(4, 8)
        >>> peak_saved_bytes(lambda: (x @ weight).exp().sum(), excluded=[weight])
        256
    """
    ledger = _Ledger(excluded)
    with saved_tensors_hooks(ledger.pack, lambda saved: saved.tensor):
        loss = step()
    del loss
    return ledger.peak
