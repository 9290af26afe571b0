"""A wrapper called as compiled, once it is known what there is to compile."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported

from .context import check_labels
from .crossing import Crossing
from .guards import with_filter
from .listeners import in_ddp
from .traced_unlock import can_trace, trace_gradients

PATIENCE = 3
"""Passes in a row that cannot be read whole, after which it is not tried again."""


class Compiled:
    """Calls a wrapper by what `torch.compile` made of it.

    The first training passes run as they are: they make the interfaces, and under update
    unlocking they show which gradients come back to a site before the loss is there. Unlocked
    passes are read whole (see `dni.traced_unlock`): behind a graph break, what came back to an
    activation before it could not be told. Those that cannot be read whole run as they are.

    Args:
        call: Calls the wrapper.
        crossing: Its crossing.
        takes_context: Whether ``context=`` is the wrapper's: compiled code cannot check labels.
        **options: Keyword arguments of `torch.compile`; wrappers share their code, so by default
            each has its own limit of recompilations.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        crossing: Crossing,
        *,
        takes_context: bool = True,
        **options: Any,
    ) -> None:
        self._call, self._crossing, self._takes_context = call, crossing, takes_context
        self._failures = 0
        self._is_strict = bool(options.get("fullgraph"))
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
            options = {"isolate_recompiles": True, **options}
        # Anew for each: torch takes entries out of the options it is given.
        self._in_parts: Callable[..., Any] = torch.compile(call, **with_filter(options))
        self._whole: Callable[..., Any] | None = None
        # With TORCH_COMPILE_DISABLE=1 nothing is read, and with `fullgraph` that is an error.
        if crossing.updates.is_unlocked and not torch._dynamo.config.disable:
            trace_gradients()
            self._whole = torch.compile(call, **with_filter({**options, "fullgraph": True}))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapper."""
        crossing, updates = self._crossing, self._crossing.updates
        size = crossing.interfaces.context_size if self._takes_context else None
        context = kwargs.get("context")
        if size and isinstance(context, Tensor) and not context.is_floating_point():
            check_labels(context, size)
        # DDP and hooks hear of what autograd brings, and of nothing else.
        if updates.is_unlocked and (in_ddp() or updates.is_awaited):
            return self._call(*args, **kwargs)
        if not crossing.is_known():
            return self._call(*args, **kwargs)
        if not updates.passes.is_within:
            updates.close()
        if not crossing.is_unlocking():
            return self._in_parts(*args, **kwargs)
        if self._whole is None or not can_trace(updates):
            return self._call(*args, **kwargs)
        return self._read_whole(self._whole, *args, **kwargs)

    def _read_whole(self, whole: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        crossing = self._crossing
        crossing.is_traced = True
        try:
            output = whole(*args, **kwargs)
        except (Unsupported, FailOnRecompileLimitHit):
            if self._is_strict:
                raise
            self._failures += 1
            if self._failures == PATIENCE:
                self._whole = None
            return self._call(*args, **kwargs)
        finally:
            crossing.is_traced = False
        self._failures = 0
        crossing.end_traced()
        return output
