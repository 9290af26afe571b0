"""Update unlocking in code that `torch.compile` reads."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .interface import Interface
from .unlock import Unlock
from .updates import Updates

READS_GRAD = "trace_autograd_ops"
"""Whether `torch.compile` reads ``torch.autograd.grad``, in its configuration."""


class Copy:
    """An activation that was handed on behind its interface.

    Attributes:
        interface: The interface.
        value: What later sites see. Shape of the activation.
        true: The sum of the gradients that they have sent.
        answers: How many did.
    """

    def __init__(self, interface: Interface, value: Tensor) -> None:
        self.interface, self.value = interface, value
        self.true: Tensor | None = None
        self.answers = 0


class TracedUnlock:
    """One pass forward with update unlocking, as a graph of tensors that a compiler can read.

    What `Unlock` does by backward passes of its own, this does by ``torch.autograd.grad``: a
    site's parameters and the copies below it get their gradients as soon as the site has its
    output. Nothing outside is changed meanwhile: who runs the pass gives `leaves` their
    `gradients` when it is over. A copy that the loss sees teaches its synthesizer by the boundary
    it is behind, in the user's backward pass.

    Args:
        learns: Whether the synthesizers learn.
        hears: Whether statistics are taken.

    Attributes:
        leaves: What has got a gradient, parameters and meters; some more than once.
        gradients: These gradients.
    """

    def __init__(self, *, learns: bool, hears: bool) -> None:
        self._learns, self._hears = learns, hears
        self._waiting: list[Copy] = []
        self.leaves: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def cross(
        self,
        outputs: list[tuple[Interface, Tensor]],
        context: Tensor | None,
        parameters: Iterable[nn.Parameter],
    ) -> list[Tensor]:
        """Propagate the synthetic gradients of a site, and cut its outputs.

        Args:
            outputs: The interfaces of one site, each with the tensor it is for.
            context: Features of the context.
            parameters: All that may be below.

        Returns:
            A copy of each tensor, cut from its graph.
        """
        foresights = [
            interface.foresee(output.detach(), context, train=self._learns)
            for interface, output in outputs
        ]
        gradients = [
            foresight.gradient(interface.scale).to(output.dtype)
            for foresight, (interface, output) in zip(foresights, outputs, strict=True)
        ]
        roots, below = [output for _, output in outputs], list(parameters)
        waiting = list(self._waiting)
        values = [copy.value for copy in waiting]
        found = torch.autograd.grad(
            roots, [*below, *values], gradients, retain_graph=True, allow_unused=True
        )
        self._give(below, found[: len(below)])
        for copy, gradient in zip(waiting, found[len(below) :], strict=True):
            if gradient is not None:
                self._answer(copy, gradient)
        copies = []
        for foresight, (interface, output) in zip(foresights, outputs, strict=True):
            value = interface.put_behind(output.detach(), foresight, hears=self._hears)
            if self._hears:
                self._waiting.append(Copy(interface, value))
            copies.append(value)
        return copies

    def _answer(self, copy: Copy, gradient: Tensor) -> None:
        """Take what one site sends back; what the last one sends completes the true gradient."""
        copy.true = gradient if copy.true is None else copy.true + gradient
        copy.answers += 1
        expected = copy.interface.answers
        if expected is None or copy.answers < expected.within:
            return
        self._waiting.remove(copy)
        interface = copy.interface
        learners: list[Tensor] = [interface.meter]
        if self._learns:
            learners += [p for p in interface.synthesizer.parameters() if p.requires_grad]
        found = torch.autograd.grad(
            copy.value, learners, copy.true, retain_graph=True, allow_unused=True
        )
        self._give(learners, found)

    def _give(self, leaves: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                self.leaves.append(leaf)
                self.gradients.append(gradient)


def can_trace(updates: Updates) -> bool:
    """Whether a compiler can read passes forward with update unlocking.

    Such a pass has to run as it is where modules are clipped or drawn or predict activations, and
    where an activation is seen by later sites and by the loss, or it is not known yet by whom.

    Args:
        updates: The updates of the wrapper.
    """
    if type(updates.unlock) is not Unlock or updates.draw.is_sparse:
        return False
    if updates.network_optimizer.clip is not None or updates.grad_scaler is not None:
        return False
    answers = [interface.answers for interface in updates.interfaces.values()]
    return all([answer is not None and answer.is_plain for answer in answers])


def trace(updates: Updates) -> TracedUnlock | None:
    """Begin a pass forward with update unlocking that a compiler reads.

    Args:
        updates: The updates of the wrapper.

    Returns:
        ``None`` where the compiler does not read ``torch.autograd.grad``, or such passes at all.
    """
    if not getattr(torch._dynamo.config, READS_GRAD, False) or not can_trace(updates):
        return None
    return TracedUnlock(learns=updates.learns, hears=updates.hears)


def trace_gradients() -> None:
    """Have `torch.compile` read ``torch.autograd.grad`` from now on, in this process."""
    if hasattr(torch._dynamo.config, READS_GRAD):  # older ones have no such setting
        setattr(torch._dynamo.config, READS_GRAD, True)
