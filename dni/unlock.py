"""Update unlocking: a site's module learns during the forward pass and its graph is let go."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .backward_end import BackwardEnd
from .errors import DNIWarning, named
from .foresight import Foresight
from .interface import Answers, Interface


class Cut(torch.autograd.Function):
    """Hands an activation on without its graph; the gradient from above goes to `receive`.

    The marker lives exactly as long as something can still send a gradient.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        anchor: Tensor,
        activation: Tensor,
        receive: Callable[[Tensor], None],
        marker: object,
    ) -> Tensor:
        ctx.receive, ctx.marker = receive, marker
        return activation.clone()  # an in-place consumer must not reach what the synthesizer saw

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:  # noqa: D102
        ctx.receive(grads[0])
        return None, None, None, None


class Handover:
    """An activation that was handed on: what its synthesizer said, and where the answer arrives.

    Attributes:
        interface: The interface that was crossed.
        foresight: What its synthesizer said; ``None`` once it has learned.
        true: The sum of the gradients that the consumers of the activation have sent back.
        answers: How many of these there were.
        within: How many of them came while the pass forward went on.
    """

    def __init__(self, interface: Interface, foresight: Foresight) -> None:
        self.interface = interface
        self.foresight: Foresight | None = foresight
        self.true: Tensor | None = None
        self.answers = self.within = 0

    def receive(self, gradient: Tensor) -> None:
        """Take what some consumers send back. Shape of the activation."""
        self.answers += 1
        gradient = gradient.detach()
        self.true = gradient if self.true is None else self.true + gradient

    def drop(self) -> None:
        """Let go of what was said and answered, for a graph may keep this for longer."""
        self.true = self.foresight = None

    @torch.no_grad()
    def settle(self) -> bool:
        """Train the synthesizer: the sum of what all consumers sent is the true gradient.

        Returns:
            Whether any of them sent one.
        """
        true, foresight = self.true, self.foresight
        self.drop()
        if true is None or foresight is None:
            return False
        interface = self.interface
        interface.note(Answers(self.within, self.answers > self.within))
        features, inverse_scale = interface.layout.features, interface.inverse_scale
        interface.hear(foresight.learn(true, inverse_scale, features))
        return True


class _Marker:
    """Says, when the graph behind a cut is gone, that no gradient can come from there any more."""

    __slots__ = ("_answered", "_number")

    def __init__(self, answered: list[int], number: int) -> None:
        self._answered, self._number = answered, number

    def __del__(self) -> None:
        # Only noted here: this may run in the midst of a backward pass.
        self._answered.append(self._number)


class Unlock:
    """Crosses interfaces with update unlocking, for λ = 0.

    When a site has its output, the synthetic gradient is propagated into its module, and on to
    the cut below, at once. The module is updated, its graph is freed, and a copy of the output
    is handed on. A synthesizer learns as soon as nothing that was made from the copy can send a
    gradient any more: in a chain, when the next site has been crossed; across a skip, when the
    last consumer has been.

    Args:
        backward_end: Told to wait for the user's backward pass, and not for those made here.
    """

    def __init__(self, backward_end: BackwardEnd) -> None:
        self._backward_end = backward_end
        self._anchor = torch.zeros((), requires_grad=True)  # a cut needs something that does
        backward_end.listen(self._anchor)
        self._warned: set[str] = set()
        self._waiting: dict[int, Handover] = {}
        self._answered: list[int] = []
        self._number = 0

    def cross(
        self,
        outputs: list[tuple[Interface, Tensor]],
        context: Tensor | None,
        *,
        train: bool,
        is_blind: bool = False,
    ) -> list[Tensor]:
        """Propagate the synthetic gradients of a site into its module, and cut its outputs.

        Args:
            outputs: The interfaces of one site, each with the tensor it is for.
            context: Features of the context.
            train: Whether the synthesizers learn.
            is_blind: Whether no gradient is to come back (see `dni.blind`).

        Returns:
            A copy of each tensor, cut from its graph.
        """
        self.settle()
        foresights = [
            interface.foresee(output.detach(), context, train=train)
            for interface, output in outputs
        ]
        gradients = [
            foresight.gradient(interface.scale).to(output.dtype)
            for foresight, (interface, output) in zip(foresights, outputs, strict=True)
        ]
        # A skip may pass by this site: what lies below belongs to its graph too.
        with self._backward_end.looking_away():
            torch.autograd.backward([output for _, output in outputs], gradients, retain_graph=True)
        for handover in self._waiting.values():
            handover.within = handover.answers
        return [
            self._hand_on(interface, None if is_blind else foresight, output.detach())
            for foresight, (interface, output) in zip(foresights, outputs, strict=True)
        ]

    def _hand_on(
        self, interface: Interface, foresight: Foresight | None, activation: Tensor
    ) -> Tensor:
        """A copy of an activation; the foresight, if there is one, waits for its answer."""
        if foresight is None:
            return activation.clone()
        handover = Handover(interface, foresight)
        self._number += 1
        self._waiting[self._number] = handover
        marker = _Marker(self._answered, self._number)
        copy: Tensor = Cut.apply(self._anchor, activation, handover.receive, marker)  # type: ignore[no-untyped-call]
        return copy

    def settle(self, *, everything: bool = False) -> None:
        """Train the synthesizers whose true gradient is complete.

        Args:
            everything: Also those that some graph could still answer, if they have an answer.
        """
        numbers = [*self._answered]
        self._answered.clear()
        if everything:
            answered = (n for n, h in self._waiting.items() if h.true is not None)
            numbers += [number for number in answered if number not in numbers]
        with self._backward_end.looking_away():
            for number in numbers:
                handover = self._waiting.pop(number, None)
                if handover is not None and not handover.settle():
                    self._warn(handover.interface.site)

    def _warn(self, site: str) -> None:
        if site not in self._warned:
            self._warned.add(site)
            warnings.warn(
                f"Nothing that was made from the output of {named(site)} sent a gradient back, "
                "so its synthesizer learns nothing and its module learns from what that last "
                "said. Does the loss depend on it?",
                DNIWarning,
                stacklevel=2,
            )

    def clear(self) -> None:
        """Forget what an earlier pass handed on: no backward came for it."""
        self._answered.clear()
        for handover in self._waiting.values():
            handover.drop()
        self._waiting.clear()
