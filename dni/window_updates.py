"""The updates of windows: what arrived at their starts is learned from when backward ends."""

from __future__ import annotations

import weakref
from typing import Any

from .backward_end import current_backward
from .linear_map import LinearStart
from .updates import Updates


class WindowUpdates(Updates):
    """See `Updates`; before one is made, the windows that start with a `LinearStart` are taught."""

    def _connect(self) -> None:
        super()._connect()
        self._starts: list[LinearStart] = []
        self._begun: weakref.ref[LinearStart] | None = None
        self._task = -1

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_begun", "_starts", "_task")
        return {k: v for k, v in super().__getstate__().items() if k not in left_out}

    def begin(self, start: LinearStart) -> None:
        """Note how the window under way starts."""
        self._begun = weakref.ref(start)

    def reach(self, start: LinearStart) -> None:
        """Note that the backward pass under way may bring gradients to the start of a window."""
        task = current_backward()
        if task != self._task:
            self._task = task
            for unheard in self._starts:  # of a pass that raised
                unheard.forget()
            self._starts.clear()
            self._backward_end.expect()
        self._starts.append(start)

    def _on_backward_end(self, is_heard: bool) -> None:
        starts, self._starts, self._task = self._starts, [], -1
        begun, self._begun = self._begun, None
        start = None if begun is None else begun()
        if start is not None and not starts:  # a loss of an inner tensor goes by all outputs
            starts = [start]
        taught = [start for start in starts if start.teach()]
        super()._on_backward_end(is_heard or bool(taught))
