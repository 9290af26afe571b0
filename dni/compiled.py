"""A wrapper called as compiled, once it is known what there is to compile."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from .crossing import Crossing
from .listeners import in_ddp
from .traced_unlock import trace_gradients

PATIENCE = 3
"""Passes that run as they are while something is not known, one after the other."""


class Compiled:
    """Calls a wrapper by what `torch.compile` made of it.

    The first training passes run as they are: they make the interfaces, and under update
    unlocking they show which gradients come back to a site before the loss is there.

    Args:
        call: Calls the wrapper.
        crossing: Its crossing.
        *args: Arguments of `torch.compile`.
        **options: Keyword arguments of `torch.compile`; wrappers share their code, so by default
            each has its own limit of recompilations.
    """

    def __init__(
        self, call: Callable[..., Any], crossing: Crossing, *args: Any, **options: Any
    ) -> None:
        if crossing.updates.is_unlocked:
            trace_gradients()
        crossing.is_ended = True
        self._call, self._crossing = call, crossing
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
            options = {"isolate_recompiles": True, **options}
        self._compiled: Callable[..., Any] = torch.compile(call, *args, **options)
        self._waited = 0

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapper."""
        crossing, updates = self._crossing, self._crossing.updates
        # DDP and hooks hear of what autograd brings, and of nothing else.
        if updates.is_unlocked and (in_ddp() or updates.is_awaited):
            return self._call(*args, **kwargs)
        self._waited = 0 if crossing.is_known() else self._waited + 1
        if 0 < self._waited <= PATIENCE:
            return self._call(*args, **kwargs)
        if not updates.passes.is_within:
            updates.close()
        output = self._compiled(*args, **kwargs)
        crossing.end_traced()
        return output
