"""Training and evaluation mode: which networks are in which, and being evaluated for a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


def train_only(networks: Mapping[str, nn.Module], names: Collection[str]) -> None:
    """Put some networks into training mode and the others into evaluation mode."""
    for name, network in networks.items():
        if name not in names:
            network.eval()
        elif not network.training:
            # One that is in training mode already may have parts that its user froze.
            network.train()


@contextmanager
def evaluating(networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Evaluation mode without grad; afterwards every module is in the mode it was in.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
        >>> with evaluating({"net": net}):
        ...     [module.training for module in net.modules()], torch.is_grad_enabled()
        ([False, False, False], False)
        >>> [module.training for module in net.modules()]
        [True, False, True]
    """
    modes = {m: m.training for network in networks.values() for m in network.modules()}
    try:
        for network in networks.values():
            network.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
