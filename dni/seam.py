"""The seam between two windows: what is expected from beyond it, and what came back over it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .arrival import Arrival
from .carry import Carry
from .context import conditioned
from .interface import Interface
from .interfaces import Interfaces
from .linear_map import LinearStart, Said, is_linear, linear_map_of
from .sites import SiteName
from .states import Form, asinh
from .sums import number
from .window import Future, start
from .window_updates import WindowUpdates

SITE: SiteName = "state"
"""The one site: the whole state of the network at a window's end."""


class Seam:
    """Asks the synthesizer at a window's end; at the next one's start it learns.

    Args:
        interfaces: The interfaces of the wrapper, of which there is one.
        updates: When they learn.
        scale: See `TemporalDNI`.
        auxiliary: See `TemporalDNI`.
        limit: See `TemporalDNI`.
        compress: See `TemporalDNI`.

    Attributes:
        carry: The end of the last window, ``None`` before the first.
        future: What is expected from beyond it.
        is_owed: The synthesizer was to learn in a window that began an episode; the next window
            that goes on makes up for it.
    """

    def __init__(
        self,
        interfaces: Interfaces,
        updates: WindowUpdates,
        *,
        scale: float,
        auxiliary: float,
        limit: float | None,
        compress: bool,
    ) -> None:
        self._interfaces, self._updates = interfaces, updates
        self.scale, self.auxiliary = scale, auxiliary
        self.limit, self.compress = limit, compress
        self.carry: Carry | None = None
        self.future = Future()
        self.is_owed = False
        self._announce: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Graphs are not copied, nor is what waits for their backward.
        return {**self.__dict__, "future": Future(), "_announce": None}

    @property
    def interface(self) -> Interface | None:
        """The interface; ``None`` before the first window of a user's own module."""
        return next(iter(self._interfaces._modules.values()), None)  # type: ignore[return-value]

    # -- start -----------------------------------------------------------------------------

    def skip(self) -> None:
        """Start a window in which there is nothing to learn."""
        self._announce = None
        self.is_owed = self.is_owed or self._updates.learns

    def begin(self, state: list[Tensor], form: Form) -> list[Tensor] | None:
        """Start a window from a state.

        Args:
            state: Its tensors.
            form: How they lie in rows.

        Returns:
            Tensors of the same values whose gradient trains the synthesizer, ``None`` where
            nothing is to be learned.
        """
        self._announce = None
        carry, updates, interface = self.carry, self._updates, self.interface
        goes_on = False if carry is None else carry.goes_on(state, form)
        if carry is None or interface is None or goes_on is False:
            self.skip()
            return None
        if self.is_owed:
            updates.learns, self.is_owed = True, False
        if updates.trains_synthesizers and not updates.learns:
            return None
        loss_scale = updates.loss_scale(carry.rows.device)
        # Past `Module.__getattr__`: in a window of a few steps that is time.
        inverse_scale, meter = interface._buffers["inverse_scale"], interface._parameters["meter"]
        assert inverse_scale is not None
        assert meter is not None
        arrival = Arrival(
            inverse_scale if loss_scale is None else inverse_scale / loss_scale,
            form,
            None if goes_on is True else goes_on,
            updates.passes.current,
        )
        said = self._said_linearly(interface, carry) if carry.said is None else carry.said
        if said is None or any([t.requires_grad for t in state]):
            return start(state, self._said(interface, carry), meter, arrival)
        begun = LinearStart(state, said, meter, arrival, learns=updates.trains_synthesizers)
        updates.begin(begun)
        self._announce = partial(updates.reach, begun)
        return begun.leaves

    def _said(self, interface: Interface, carry: Carry) -> Tensor:
        """What the synthesizer said, or says, of the state at the end of the window before."""
        said = carry.prediction
        if said is not None and said.requires_grad:
            return said
        interface.follow(carry.rows)
        with torch.set_grad_enabled(self._updates.trains_synthesizers):
            says = self._ask(interface, carry)
        if said is not None:  # without its graph: it is to learn from what it said then
            says.data.copy_(said)
        return says

    # -- end -------------------------------------------------------------------------------

    def finish(self, state: list[Tensor], form: Form, rows: Tensor, context: Tensor | None) -> None:
        """End a window in a state, and note what its gradient is expected to be.

        Args:
            state: Its tensors, without their graph.
            form: How they lie in rows.
            rows: These rows. Shape ``[B, S]``.
            context: Features of the context there. Shape ``[B, C]``.
        """
        interface = self.interface
        assert interface is not None
        interface.follow(rows)
        self.carry = carry = Carry(rows, state, context)
        self.future = Future(
            weight=self.auxiliary,
            form=form,
            record=self._updates.passes.current,
            announce=self._announce,
        )
        if not (self.scale or self.auxiliary):
            return
        carry.said = said = self._said_linearly(interface, carry)
        if said is not None:
            carry.prediction = said.prediction
            self._expect(interface, said.prediction, said.square)
            return
        # A linear map's graph outlives its update: asked once, it learns from what it said.
        keeps = self._updates.trains_synthesizers and is_linear(interface.synthesizer)
        with torch.set_grad_enabled(keeps):
            says = self._ask(interface, carry)
        carry.prediction = says if keeps else None
        says = says.detach()
        self._expect(interface, says, square_of(says))

    def _said_linearly(self, interface: Interface, carry: Carry) -> Said | None:
        """What a synthesizer says that is one linear map, or said; ``None`` if it is not."""
        synthesizer = interface._modules["synthesizer"]
        assert synthesizer is not None
        linear = linear_map_of(synthesizer, carry.rows)
        if linear is None:
            return None
        seen = self._look(carry)
        if carry.context is not None:
            seen = conditioned(seen, carry.context, site=SITE)
        prediction = linear.say(seen) if carry.prediction is None else carry.prediction
        return Said(linear, seen, prediction, square_of(prediction))

    def _ask(self, interface: Interface, carry: Carry) -> Tensor:
        """What any synthesizer says of the end of a window. Shape ``[B, S]``."""
        return interface.predict(self._look(carry), carry.context)

    def _look(self, carry: Carry) -> Tensor:
        """What a synthesizer sees of the end of a window. Shape ``[B, S]``."""
        return asinh(carry.rows) if self.compress else carry.rows

    def _expect(self, interface: Interface, prediction: Tensor, square: float | None) -> None:
        """Note what comes back from beyond the end.

        Args:
            interface: The interface.
            prediction: What its synthesizer says. Shape ``[B, S]``.
            square: Sum of squares of it, if it is known.
        """
        longest = math.inf
        if self.limit is not None and interface.scale_targets:
            # What is fed back into its own target would else grow without bound.
            longest = self.limit * math.sqrt(prediction.numel())
        prediction = bounded(prediction, longest, square)
        if self.auxiliary:
            self.future.target = prediction
        if self.scale:
            scale = interface._buffers["scale"]
            assert scale is not None
            factor = number(scale) * self.scale
            loss_scale = self._updates.loss_scale(prediction.device)
            factor = factor if loss_scale is None else factor * loss_scale
            self.future.gradient = prediction * factor

    def end_episode(self, done: Tensor | None = None) -> None:
        """End the episode of all sequences, or of those of a mask ``[B]``."""
        self.future.end(done)
        if self.carry is not None:
            self.carry.end(done)


def square_of(prediction: Tensor) -> float | None:
    """The sum of squares; ``None`` where that means to wait for a device."""
    if not prediction.is_cpu:
        return None
    flat = prediction.reshape(-1)
    return flat.dot(flat).item()


def bounded(prediction: Tensor, longest: float, square: float | None = None) -> Tensor:
    """A prediction without NaN and infinities, shortened to a largest Euclidean norm.

    Args:
        prediction: Shape ``[B, S]``.
        longest: Largest norm.
        square: Sum of squares of the prediction, if it is known.

    Example:
        >>> bounded(torch.tensor([3.0, 4.0]), 10.0), bounded(torch.tensor([3.0, 4.0]), 1.0)
        (tensor([3., 4.]), tensor([0.6000, 0.8000]))
        >>> bounded(torch.tensor([torch.nan, 4.0]), 1.0)
        tensor([0., 1.])
    """
    if square is not None and square <= longest * longest and math.isfinite(square):
        return prediction
    prediction = prediction.nan_to_num(0.0, 0.0, 0.0)
    if math.isinf(longest):
        return prediction
    share: Tensor = longest / torch.linalg.vector_norm(prediction)
    return prediction * share.clamp(max=1.0)
