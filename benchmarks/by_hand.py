"""Loops by hand for what the wrapper does at λ = 0, with heads that never learn.

What they take beyond backpropagation no interface saves that calls torch's operations one by one:
asking a head at every site and using what it says. Nothing is compared, measured or learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from interleave import Step
from workloads import CLASSES, Workload, make_optimizer


def synthetic(head: Tensor, output: Tensor, labels: Tensor) -> Tensor:
    """Gradient of a linear head's mean cross entropy with respect to what it sees.

    Args:
        head: Shape ``[classes, D]``.
        output: Shape ``[N, D]``.
        labels: Ones where the classes are the right ones. Shape ``[classes, N]``.

    Returns:
        Shape ``[N, D]``.
    """
    residual = torch.mm(head, output.t()).softmax(0).sub_(labels).mul_(1 / len(output))
    return residual.t() @ head


class Site(torch.autograd.Function):
    """Identity that sends down what a head says, whatever comes from above."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, head: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(output)
        ctx.head, ctx.labels = head, labels
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        (output,) = ctx.saved_tensors
        return synthetic(ctx.head, output, ctx.labels), None, None


def step_by_hand(workload: Workload, device: torch.device, *, is_unlocked: bool) -> Step:
    """A training step of a chain of blocks, its sites, before one output layer.

    Args:
        workload: What is trained.
        device: Where.
        is_unlocked: Whether a block is updated as soon as its output is there.

    Returns:
        The step.
    """
    network, value, target = workload.on(device)
    blocks = [network.get_submodule(site) for site in workload.sites]
    output = network.get_submodule("output")
    labels = one_hot(target, CLASSES).to(value.dtype).t().contiguous()
    heads = []
    with torch.no_grad():
        seen = value
        for block in blocks:
            seen = block(seen)
            heads.append(torch.randn(CLASSES, seen.shape[-1], device=device) * 1e-2)
    parts: list[nn.Module] = [*blocks, output] if is_unlocked else [network]
    optimizers = [make_optimizer(part.parameters()) for part in parts]

    def learn(optimizer: torch.optim.Optimizer, root: Tensor, gradient: Tensor | None) -> None:
        root.backward(gradient)
        optimizer.step()
        optimizer.zero_grad()

    def locked() -> None:
        h = value
        for block, head in zip(blocks, heads, strict=True):
            h = Site.apply(block(h), head, labels)  # type: ignore[no-untyped-call]
        learn(optimizers[0], cross_entropy(output(h), target), None)

    def unlocked() -> None:
        h = value
        for block, head, optimizer in zip(blocks, heads, optimizers[:-1], strict=True):
            out = block(h)
            learn(optimizer, out, synthetic(head, out.detach(), labels))
            h = out.detach().requires_grad_()  # whose gradient a head would learn from
        learn(optimizers[-1], cross_entropy(output(h), target), None)

    return unlocked if is_unlocked else locked
