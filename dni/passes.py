"""The training passes forward of a wrapper: which is under way, and which wait for backward."""

from __future__ import annotations

import itertools
import weakref

from torch import Tensor

from .backward_end import current_backward
from .errors import ContextError


class Pass:
    """One training pass forward of a wrapped network, known to every boundary it made.

    Attributes:
        number: Passes are numbered in the order in which they begin.
        context: Features of the context it ran with; a checkpoint runs parts of it again.
        is_returned: A backward pass has gone through it, or none ever will.
        is_counted: The end of that backward pass has been noted.
        is_inert: The wrapper was detached since; its boundaries are then plain identities.
        is_blind: No synthesizer learns from it (see `dni.blind`).
    """

    __slots__ = (
        "__weakref__",
        "context",
        "is_blind",
        "is_counted",
        "is_inert",
        "is_returned",
        "number",
    )
    _numbers = itertools.count()

    def __init__(self, context: Tensor | None = None) -> None:
        self.context = context
        self.number = next(self._numbers)
        self.is_returned = False
        self.is_counted = False
        self.is_inert = False
        self.is_blind = False


class Passes:
    """Knows the passes whose graphs exist, and to which of them a site's call belongs.

    Attributes:
        current: The training pass that is under way, or the last one; ``None`` if that was no
            training pass.
        is_under_way: Whether a pass is under way.
    """

    def __init__(self) -> None:
        self.current: Pass | None = None
        self.is_under_way = False
        self._known: list[weakref.ref[Pass]] = []  # a `WeakSet` takes its time to go through

    @property
    def is_within(self) -> bool:
        """Whether a call now is part of a pass, or of what a checkpoint runs again in backward."""
        return self.is_under_way or current_backward() != -1

    def begin(self, context: Tensor | None) -> None:
        """Begin a training pass.

        Args:
            context: Features of the context it runs with.
        """
        self._known = [p for p in self._known if p() is not None]
        self.current = Pass(context)
        self._known.append(weakref.ref(self.current))

    def of_call(self) -> Pass | None:
        """The pass a site's call belongs to; ``None`` if a checkpoint runs it again."""
        return self.current if self.is_under_way or current_backward() == -1 else None

    def is_blind(self) -> bool:
        """Whether a site is reached in a blind pass, or in what a checkpoint runs of it again."""
        if self.is_under_way:
            return self.current is not None and self.current.is_blind
        return current_backward() != -1 and any(p.is_blind for p in self.waiting())

    def recomputed_context(self) -> Tensor | None:
        """The context of the pass that a checkpoint runs again.

        Raises:
            ContextError: It could be one of several.
        """
        if self.is_under_way or current_backward() == -1:
            return None
        waiting = [p for p in self.waiting() if p.context is not None]
        if len(waiting) > 1:
            raise ContextError(
                "A checkpoint runs a site again, and several passes with a context wait for "
                "their backward: which context belongs to it cannot be told. Run the backward "
                "of a pass before the next forward."
            )
        return waiting[0].context if waiting else None

    def waiting(self) -> list[Pass]:
        """The passes whose graphs exist and whose backward has not come."""
        known = self._known
        return [found for p in known if (found := p()) is not None and not found.is_counted]

    def is_waiting(self) -> bool:
        """Whether there is one."""
        return bool(self.waiting())

    def come_back(self) -> tuple[int, bool]:
        """Note the end of a backward pass.

        Returns:
            How many passes forward it was for, at least one, and whether others still wait.
        """
        waiting = self.waiting()
        back = [p for p in waiting if p.is_returned]
        if not back and waiting:  # it went by every interface, or through recomputed ones
            back = [min(waiting, key=lambda p: p.number)]
        for found in back:
            found.is_returned = found.is_counted = True
        return max(len(back), 1), len(back) < len(waiting)

    def give_up(self) -> None:
        """Wait no more for the backward of any pass."""
        for found in self.waiting():
            found.is_returned = found.is_counted = True

    def make_inert(self) -> None:
        """Make every boundary in a graph that exists a plain identity."""
        for p in self._known:
            if (found := p()) is not None:
                found.is_inert = True
