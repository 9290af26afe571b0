"""The one optimizer of all synthesizers: what joins it, how it steps, and its order on disk."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from . import fused_adam
from .errors import ConfigError
from .optimizers import OptimizerSpec, clip_gradients, make_optimizer, parameters_of


class SynthesizerOptimizer:
    """Optimizes every synthesizer of a wrapper in one parameter group.

    One group for all keeps the time of a step and a learning-rate scheduler made earlier as they
    are; the group remembers under ``"sites"`` whose parameters follow one another.

    Args:
        spec: What makes the optimizer, see `make_optimizer`.
        lr: Its learning rate.
        clip: Largest norm of the gradients of all synthesizers, ``None`` for no clipping.

    Attributes:
        optimizer: The optimizer; ``None`` while it would have no parameters.

    Example:
        >>> synthesizers = SynthesizerOptimizer("sgd", 1.0)
        >>> synthesizers.add("here", nn.Linear(2, 2))
        >>> synthesizers.optimizer.param_groups[0]["sites"]
        [['here', 2]]
    """

    def __init__(self, spec: OptimizerSpec, lr: float, clip: float | None = None) -> None:
        self.spec, self.lr, self.clip = spec, lr, clip
        self.optimizer: Optimizer | None = None

    def add(self, name: str, module: nn.Module) -> None:
        """Optimize the parameters of one module, if it has any.

        Args:
            name: Name of the interface, or of what else the module is to it.
            module: Its synthesizer.

        Raises:
            ConfigError: No optimizer can be made, or it has several groups.
        """
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            return
        if self.optimizer is None:
            self.optimizer = make_optimizer(
                self.spec, parameters, lr=self.lr, argument="grad_optim", fused=True
            )
        if len(self.optimizer.param_groups) != 1:
            raise ConfigError(
                f"`grad_optim` made {len(self.optimizer.param_groups)} parameter groups; one "
                "group is needed, which the synthesizers made later join."
            )
        group = self.optimizer.param_groups[0]
        known = group.setdefault("sites", [])
        if known:  # those of the first are there already
            group["params"].extend(parameters)
        known.append([name, len(parameters)])

    def remove(self, name: str) -> None:
        """Take the parameters of one module, and what was remembered of them, out again.

        Args:
            name: The name they came with; an unknown one changes nothing.
        """
        if self.optimizer is None:
            return
        (group,) = self.optimizer.param_groups
        start = 0
        for entry in list(group["sites"]):
            known, count = entry
            if known == name:
                for parameter in group["params"][start : start + count]:
                    self.optimizer.state.pop(parameter, None)
                del group["params"][start : start + count]
                group["sites"].remove(entry)
            else:
                start += count
        if not group["params"]:
            self.optimizer = None

    def step(self, passes: int) -> None:
        """Step by the gradients that backward passes have left.

        Args:
            passes: How many passes forward they are for.
        """
        if self.optimizer is None:
            return
        if passes > 1:  # each pass brought the gradient of a mean over its own batch
            grads = [p.grad for p in parameters_of(self.optimizer) if p.grad is not None]
            if grads:  # none where no site learns in this step
                torch._foreach_div_(grads, passes)
        clip_gradients(self.optimizer, self.clip)
        fused_adam.step(self.optimizer)

    def clear(self) -> None:
        """Drop all gradients."""
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    @property
    def is_cleared(self) -> bool:
        """Whether no gradients are there, though there are parameters."""
        return self.optimizer is not None and all(
            p.grad is None for p in parameters_of(self.optimizer)
        )


def ordered_like(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Put the parameters of a saved optimizer state into the order of a live optimizer.

    Synthesizers made on the first forward pass come in the order of the calls, those made from a
    checkpoint in the order of the file; they are matched by the ``"sites"`` of the group.

    Args:
        saved: ``optimizer.state_dict()`` of another session.
        optimizer: The optimizer to load it into.

    Returns:
        A state with the same content that ``optimizer.load_state_dict`` matches rightly.
    """
    (group,), (live,) = saved["param_groups"], optimizer.param_groups
    by_site: dict[str, list[int]] = {}
    start = 0
    for site, count in group["sites"]:
        by_site[site] = group["params"][start : start + count]
        start += count
    if set(by_site) != {site for site, _ in live["sites"]}:
        return saved
    params = [index for site, _ in live["sites"] for index in by_site[site]]
    return {**saved, "param_groups": [{**group, "params": params, "sites": live["sites"]}]}
