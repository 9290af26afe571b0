"""A loop by hand for what `TemporalDNI` does with a linear map: the least that it can cost here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dni.states import asinh
from interleave import Step
from workloads import make_optimizer

SCALE = 0.1  # of the synthetic gradient where it is used, the wrapper's default
MEMORY = 0.98


def step_by_hand(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Step:
    """A training step of a window whose last state gets a synthetic gradient.

    The map sees the state at a window's end and learns from the gradient that arrives at the next
    one's start, in units of its running root mean square. There are no checks, no statistics and
    no episodes, and it can be nothing but this network in this loop.

    Args:
        model: From a window and a state to logits and a state ``[layers, B, H]``, or a pair.
        batches: Windows and their targets, over and over.

    Returns:
        The step.
    """
    optimizer, stream = make_optimizer(model.parameters()), itertools.cycle(batches)
    state: Any = None
    last: tuple[Tensor, Tensor] | None = None  # what the map saw, and what it said
    square = total = count = 0.0

    def prepare() -> tuple[Tensor, Tensor, torch.optim.Optimizer]:
        nonlocal state
        with torch.no_grad():
            state = model(batches[0][0], None)[1]
        seen = _rows(_tensors(state))
        weight = torch.zeros(seen.shape[1], seen.shape[1], device=seen.device, requires_grad=True)
        bias = torch.zeros(seen.shape[1], device=seen.device, requires_grad=True)
        return weight, bias, torch.optim.Adam([weight, bias], lr=1e-3, fused=True)

    weight, bias, learner = prepare()

    def step() -> None:
        nonlocal state, last, square, total, count
        window, targets = next(stream)
        leaves = [tensor.detach().requires_grad_() for tensor in _tensors(state)]
        logits, state = model(window, leaves[0] if isinstance(state, Tensor) else tuple(leaves))
        ends = _tensors(state)
        sees = asinh(_rows([tensor.detach() for tensor in ends]))
        says = functional.linear(sees, weight.detach(), bias.detach())
        expected = _apart(says * (math.sqrt(square) * SCALE), ends)
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits, targets)
        torch.autograd.backward([loss, *ends], [None, *expected])
        optimizer.step()
        if last is not None:
            (seen, said), true = last, _rows([leaf.grad for leaf in leaves])  # type: ignore[misc]
            error = said.sub(true, alpha=1 / math.sqrt(square) if square else 0.0)
            error.mul_(2 / len(true))
            weight.grad, bias.grad = error.t() @ seen, error.sum(0)
            learner.step()
            flat = true.reshape(-1)
            total = MEMORY * total + (1 - MEMORY) * flat.dot(flat).item()
            count = MEMORY * count + (1 - MEMORY) * flat.numel()
            square = total / count
        last = sees, says

    return step


def _tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def _rows(tensors: Sequence[Tensor]) -> Tensor:
    """The whole state of each sequence. Tensors ``[layers, B, H]`` to ``[B, S]``."""
    return torch.cat(tuple(tensors), -1).movedim(1, 0).flatten(1)


def _apart(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Undo `_rows`."""
    layers, batch, _ = like[0].shape
    whole = rows.view(batch, layers, -1).movedim(0, 1)
    return list(whole.split([tensor.shape[-1] for tensor in like], -1))
