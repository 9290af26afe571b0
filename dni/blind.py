"""Blind passes: no synthesizer learns and λ is 0, so no true gradient has to cross a site."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from .foresight import Foresight
from .passes import Pass


class BlindBoundary(torch.autograd.Function):
    """Ends a graph at a site; a thread takes the place of the gradient from above.

    What is handed on needs no gradient, so the module above never computes the one with respect
    to its input, a third of the products of a layer's step. Whatever gradient reaches the thread,
    the synthetic gradient is propagated into the site; there is no other, so also once the wrapper
    has been detached.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, activation: Tensor, foresight: Foresight, scale: Tensor, record: Pass | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.foresight, ctx.scale, ctx.record = foresight, scale, record
        ctx.dtype = activation.dtype
        copy = activation.clone()  # an in-place consumer must not reach what the module saved
        ctx.mark_non_differentiable(copy)
        return copy, activation.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        if ctx.record is not None:
            ctx.record.is_returned = True
        return ctx.foresight.gradient(ctx.scale).to(ctx.dtype), None, None, None


class Tie(torch.autograd.Function):
    """Identity on outputs; a backward pass through any of them also goes to all threads."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        ctx.set_materialize_grads(False)
        ctx.threads = [(thread.shape, thread.dtype, thread.device) for thread in tensors[count:]]
        return tuple(output.clone() for output in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        ends = (torch.zeros(shape, dtype=dtype, device=d) for shape, dtype, d in ctx.threads)
        return None, *grads, *ends


class Threads:
    """Leads the backward pass from the network's output to every site that it passed blindly.

    Which tensors of the output can send a gradient shows in passes that are not blind; in a blind
    one a tensor may have lost its graph.

    Attributes:
        ends: The threads of the blind pass that is under way.
    """

    def __init__(self) -> None:
        self.ends: list[Tensor] = []
        self._can_send: tuple[bool, ...] = ()

    @property
    def can_be_tied(self) -> bool:
        """Whether the network's output is known, and has tensors that can send a gradient."""
        return any(self._can_send)

    def look_at(self, output: Any) -> None:
        """Note which tensors of the output of a pass that was not blind can send a gradient."""
        self._can_send = tuple(_needs(leaf) for leaf in tree_flatten(output)[0])

    def tie(self, output: Any, meter: Tensor) -> Any:
        """Tie the threads to the output of a blind pass.

        Args:
            output: What the network returned: a tensor or a nest of tensors.
            meter: Leaf whose gradient tells that a backward pass is under way.

        Returns:
            The output; its tensors that can send a gradient are copies.
        """
        threads, self.ends = self.ends, []
        leaves, spec = tree_flatten(output)
        could = self._can_send
        if len(could) != len(leaves):  # the network returns something else this time
            could = (False,) * len(leaves)
        chosen = [
            index
            for index, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and (could[index] or leaf.requires_grad)
        ]
        if not chosen:
            return output
        tied = Tie.apply(  # type: ignore[no-untyped-call]
            len(chosen), *(leaves[index] for index in chosen), *threads, meter
        )
        for index, leaf in zip(chosen, tied, strict=True):
            leaves[index] = leaf
        return tree_unflatten(leaves, spec)


def cross_blind(
    activation: Tensor, foresight: Foresight, *, scale: Tensor, record: Pass | None
) -> tuple[Tensor, Tensor]:
    """Pass an activation through a `BlindBoundary`.

    Args:
        activation: Output of the site. Shape ``[*]``.
        foresight: What its synthesizer said.
        scale: ρ, times the factor of a gradient scaler. Shape ``[]``.
        record: The forward pass this call belongs to.

    Returns:
        A copy of the activation that needs no gradient, shape ``[*]``, and the thread, shape
        ``[]``, which a backward pass has to reach.
    """
    copy, thread = BlindBoundary.apply(  # type: ignore[no-untyped-call]
        activation, foresight, scale, record
    )
    return copy, thread


def _needs(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad
