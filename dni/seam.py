"""The seam between two windows: what is expected from beyond it, and what came back over it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .arrival import Arrival
from .carry import Carry
from .compiled_seam import Asked, CompiledSeam
from .context import conditioned
from .expectation import bounded, longest_of, square_of
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
        compiled: What a linear synthesizer is asked and taught by, ``None`` for torch's operations.
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
        self.compiled: CompiledSeam | None = None
        self._announce: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Graphs are not copied, nor is what waits for their backward, nor compiled code.
        return {**self.__dict__, "future": Future(), "compiled": None, "_announce": None}

    @property
    def interface(self) -> Interface | None:
        """The interface; ``None`` before the first window of a user's own module."""
        for interface in self._interfaces._modules.values():
            return interface  # type: ignore[return-value]
        return None

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
        said = self._said_before(interface, carry, form) if carry.said is None else carry.said
        if said is None or any([t.requires_grad for t in state]):
            return start(state, self._said(interface, carry), meter, arrival)
        begun = LinearStart(state, said, meter, arrival, learns=updates.trains_synthesizers)
        updates.begin(begun)
        self._announce = partial(updates.reach, begun)
        return begun.leaves

    def _said_before(self, interface: Interface, carry: Carry, form: Form) -> Said | None:
        """What a linear synthesizer said, or would have, where it was not noted."""
        if self.compiled is None:
            return self._said_linearly(interface, carry)
        state = [tensor.contiguous() for tensor in form.split(carry.rows)]
        asked = self._ask_compiled(interface, state, form, carry.context)
        if asked is None:
            return self._said_linearly(interface, carry)
        said = asked.said
        if carry.prediction is None:
            return said
        return said._replace(prediction=carry.prediction.detach().to(said.seen.dtype).contiguous())

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

    def finish(
        self, state: list[Tensor], form: Form, context: Tensor | None, *, is_last: bool = False
    ) -> None:
        """End a window in a state, and note what its gradient is expected to be.

        Args:
            state: Its tensors, without their graph.
            form: How they lie in rows.
            context: Features of the context there. Shape ``[B, C]``.
            is_last: Whether it ends the episode of all sequences; nothing is asked then.
        """
        interface = self.interface
        assert interface is not None
        asked = None if is_last else self._ask_compiled(interface, state, form, context)
        rows = form.copied(state) if asked is None else asked.rows
        interface.follow(rows)
        self.carry = carry = Carry(rows, state, context)
        self.future = Future(
            weight=self.auxiliary,
            form=form,
            record=self._updates.passes.current,
            announce=self._announce,
        )
        if is_last:
            self.end_episode()
            return
        if asked is not None:
            carry.said, carry.prediction = asked.said, asked.said.prediction
            self.future.gradients = asked.gradients
            return
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

    def _ask_compiled(
        self, interface: Interface, state: list[Tensor], form: Form, context: Tensor | None
    ) -> Asked | None:
        """What compiled code says of a state; ``None`` where there is none for it."""
        compiled = self.compiled
        if compiled is None or self.auxiliary or not self.scale or not state[0].is_cpu:
            return None
        synthesizer, scale = interface._modules["synthesizer"], interface._buffers["scale"]
        assert synthesizer is not None
        assert scale is not None
        linear = linear_map_of(synthesizer, state[0])
        if linear is None:
            return None
        share, loss_scale = self.scale, self._updates.loss_scale(state[0].device)
        if loss_scale is not None:
            share *= loss_scale.item()
        return compiled.ask(linear, state, form, context, scale=scale, share=share)

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
        if carry.prediction is None:
            prediction = linear.say(seen)
        else:  # under autocast it had another type
            prediction = carry.prediction.detach().to(seen.dtype)
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
        # What is fed back into its own target would else grow without bound.
        limit = self.limit if interface.scale_targets else None
        prediction = bounded(prediction, longest_of(prediction, limit), square)
        if self.auxiliary:
            self.future.target = prediction
        if self.scale:
            scale = interface._buffers["scale"]
            assert scale is not None
            factor = number(scale) * self.scale
            loss_scale = self._updates.loss_scale(prediction.device)
            factor = factor if loss_scale is None else factor * loss_scale
            assert self.future.form is not None
            self.future.gradients = self.future.form.split(prediction * factor)

    def end_episode(self, done: Tensor | None = None) -> None:
        """End the episode of all sequences, or of those of a mask ``[B]``."""
        self.future.end(done)
        if self.carry is not None:
            self.carry.end(done)
