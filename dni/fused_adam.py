"""Steps of fused Adam: of a few small tensors, torch's is mostly what it does around one call."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as torch_optimizer

KINDS = (Adam, AdamW)
"""Not their subclasses, whose step may do something else."""

UNUSUAL = ("amsgrad", "capturable", "differentiable")
"""Options with which a step is not plain."""


MOST = 200
"""So many sets of parameters of one optimizer are remembered; unlocked, each module is one."""


class Columns(NamedTuple):
    """The parameters that step together, and the state of each.

    Attributes:
        parameters: The parameters.
        states: Their entries in the optimizer's state.
        averages: Running means of the gradients.
        squares: Running means of their squares.
        steps: Numbers of steps made. Shape ``[]`` each.
        counter: The memory that `steps` are views of, counted up by one operation: an array of
            numpy's on the CPU, where torch's takes five times as long, else a tensor; ``None``
            where each has its own. Shape ``[len(steps)]``.
    """

    parameters: list[Tensor]
    states: list[dict[str, Any]]
    averages: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    counter: Any

    def gradients(self, states: Any) -> list[Tensor] | None:
        """The gradients, ``None`` where a step is not plain or something here was replaced."""
        found: list[Tensor] = []
        dtype = self.parameters[0].dtype
        for parameter, state, average, square, step in zip(*self[:5], strict=True):
            grad = parameter.grad
            if (
                grad is None
                or grad.dtype is not dtype
                or parameter.dtype is not dtype
                or grad.layout is not torch.strided
                or states.get(parameter) is not state
                or state["step"] is not step
                or state["exp_avg"] is not average
                or state["exp_avg_sq"] is not square
            ):
                return None
            found.append(grad)
        return found


_known: WeakKeyDictionary[Optimizer, dict[tuple[int, ...], Columns]] = WeakKeyDictionary()
"""By optimizer, and by the identities of the parameters that step together."""


def step(optimizer: Optimizer) -> None:
    """Step an optimizer, to the last bit as its own ``step()`` does.

    A synthesizer has two parameters, say, of a few thousand numbers. There torch's step of an Adam
    takes five times as long as its fused operation; a plain step is that operation here, and
    numbers of steps lie side by side in memory. It is not plain where somebody is told of it or
    patched it (hooks, a profiler, a learning-rate schedule, a scaler of gradients), in the first
    step, which makes the state, and with several devices or types in a group.

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
    # At the end of a backward pass there is no grad anyway.
    with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
        for group, columns, gradients in groups:
            _step_group(group, columns, gradients, is_decoupled=type(optimizer) is AdamW)


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


def _plain_groups(
    optimizer: Optimizer,
) -> list[tuple[dict[str, Any], Columns, list[Tensor]]] | None:
    """Each group with what steps in it; ``None`` where a step is not plain."""
    found = []
    states = optimizer.state
    known = _known.setdefault(optimizer, {})
    for group in optimizer.param_groups:
        if not group["fused"] or isinstance(group["lr"], Tensor) or any(map(group.get, UNUSUAL)):
            return None
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            continue
        key = tuple(map(id, parameters))
        columns = known.get(key)
        gradients = None if columns is None else columns.gradients(states)
        if columns is None or gradients is None:
            columns = _columns(parameters, states)
            gradients = None if columns is None else columns.gradients(states)
            if columns is None or gradients is None:
                known.clear()
                return None
            if len(known) == MOST:
                known.clear()
            known[key] = columns
        found.append((group, columns, gradients))
    return found


def _columns(parameters: list[Tensor], states: Any) -> Columns | None:
    """What steps together, ``None`` where there is no state yet or types and devices differ."""
    own = [states.get(p) for p in parameters]
    if not all(own) or len({(p.dtype, p.device) for p in parameters}) > 1:
        return None
    if any(p.is_complex() for p in parameters):
        return None
    counter: Any = None
    if not any(state["step"]._is_view() for state in own):
        counter = torch.stack([state["step"] for state in own])
        for state, view in zip(own, counter.unbind(), strict=True):
            state["step"] = view
        if counter.is_cpu:
            counter = counter.numpy()
    averages, squares, steps = (
        [state[key] for state in own] for key in ("exp_avg", "exp_avg_sq", "step")
    )
    return Columns(parameters, own, averages, squares, steps, counter)


def _step_group(
    group: dict[str, Any], columns: Columns, gradients: list[Tensor], *, is_decoupled: bool
) -> None:
    beta1, beta2 = group["betas"]
    is_decoupled = group.get("decoupled_weight_decay", is_decoupled)
    operation = torch._fused_adamw_ if is_decoupled else torch._fused_adam_
    counter = columns.counter
    if counter is None:
        torch._foreach_add_(columns.steps, 1)
    else:
        counter += 1
    operation(
        columns.parameters,
        gradients,
        columns.averages,
        columns.squares,
        [],
        columns.steps,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
