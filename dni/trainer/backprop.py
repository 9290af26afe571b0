"""Backpropagation with any torch optimizer, as a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from .optimization import Networks, build_optimizer
from .registry import STRATEGIES
from .strategies import Strategy


@STRATEGIES.register("backprop")
class Backprop(Strategy):
    """Backpropagation with a torch optimizer over all networks of the step.

    Args:
        networks: What it trains, by name.
        optimizer: Name in ``torch.optim``, import path, or class.
        lr: Learning rate.
        no_decay: What gets no weight decay: ``"bias"``, ``"norm"``, ``"embedding"``, or patterns
            of ``network.parameter`` such as ``"net.head.*"``.
        groups: Further options by such a pattern: ``{"net.head.*": {"lr": 1e-4}}``; the first
            pattern that fits counts.
        precision: See `Strategy`.
        clip: See `Strategy`.
        scheduler: See `Strategy`.
        compile: See `Strategy`.
        **options: Further arguments of the optimizer.

    Example:
        >>> from torch import nn
        >>> strategy = Backprop({"net": nn.Linear(2, 1)}, optimizer="sgd", lr=0.1)
        >>> type(strategy.optimizers["optimizer"]).__name__
        'SGD'
    """

    def __init__(
        self,
        networks: Networks,
        *,
        optimizer: str | type[Optimizer] = "adamw",
        lr: float = 1e-3,
        no_decay: list[str] | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        precision: str = "float32",
        clip: float | None = None,
        scheduler: Mapping[str, Any] | None = None,
        compile: bool | Mapping[str, Any] = False,
        **options: Any,
    ) -> None:
        super().__init__(
            networks, precision=precision, clip=clip, scheduler=scheduler, compile=compile
        )
        made = build_optimizer(
            optimizer, networks, lr=lr, no_decay=no_decay, groups=groups, **options
        )
        self.optimizers["optimizer"] = made
        self._schedule()
