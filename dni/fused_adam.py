"""Steps of fused Adam: of a few small tensors, torch's is mostly what it does around one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as torch_optimizer

KINDS = (Adam, AdamW)
"""Not their subclasses, whose step may do something else."""

UNUSUAL = ("amsgrad", "capturable", "differentiable")
"""Options with which a step is not plain."""


def step(optimizer: Optimizer) -> None:
    """Step an optimizer, to the last bit as its own ``step()`` does.

    A synthesizer has two parameters, say, of a few thousand numbers. There torch's step of an Adam
    takes five times as long as its fused operation; a plain step is that operation here. It is not
    plain where somebody is told of it or patched it (hooks, a profiler, a learning-rate schedule,
    a scaler of gradients), in the first step, which makes the state, and with several devices or
    types in a group.

    Args:
        optimizer: Any one. All but ``Adam(fused=True)`` and ``AdamW(fused=True)`` step as usual.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = Adam([weight], lr=0.5, fused=True)
        >>> for _ in range(2):
        ...     weight.grad = torch.ones(2)
        ...     step(optimizer)
        >>> weight.detach().round(decimals=3)
        tensor([0., 0.])
    """
    groups = None
    if type(optimizer) in KINDS and not _is_watched(optimizer):
        groups = _plain_groups(optimizer)
    if groups is None:
        optimizer.step()
        return
    with torch.no_grad():
        for group, tensors in groups:
            _step_group(group, *tensors, is_decoupled=type(optimizer) is AdamW)


def _is_watched(optimizer: Optimizer) -> bool:
    """Whether somebody is to be told of a step, or changes it."""
    about = optimizer.__dict__
    return bool(
        "step" in about
        or about.get("grad_scale") is not None
        or about.get("found_inf") is not None
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or torch.autograd.profiler._is_profiler_enabled
    )


def _plain_groups(optimizer: Optimizer) -> list[tuple[dict[str, Any], list[list[Any]]]] | None:
    """Each group with what steps: parameters, gradients, averages, squares, numbers of steps."""
    found = []
    states = optimizer.state
    for group in optimizer.param_groups:
        if not group["fused"] or isinstance(group["lr"], Tensor) or any(map(group.get, UNUSUAL)):
            return None
        kind = None
        rows = []
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is None:
                continue
            own = parameter.dtype, parameter.device, grad.dtype
            state = states.get(parameter)
            if not state or own != (kind := kind or own):
                return None
            if parameter.is_complex() or grad.layout is not torch.strided:
                return None
            row = parameter, grad, state["exp_avg"], state["exp_avg_sq"], state["step"]
            rows.append(row)
        if rows:
            found.append((group, [list(column) for column in zip(*rows, strict=True)]))
    return found


def _step_group(
    group: dict[str, Any],
    parameters: list[Tensor],
    grads: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    *,
    is_decoupled: bool,
) -> None:
    beta1, beta2 = group["betas"]
    is_decoupled = group.get("decoupled_weight_decay", is_decoupled)
    operation = torch._fused_adamw_ if is_decoupled else torch._fused_adam_
    torch._foreach_add_(steps, 1)
    operation(
        parameters,
        grads,
        averages,
        squares,
        [],
        steps,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
