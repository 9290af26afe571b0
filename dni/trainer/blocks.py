"""The blocks of a network: where interfaces go unless the config says otherwise."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def blocks(network: nn.Module) -> list[str]:
    """The names of what a network is made of, as far as it learns.

    Args:
        network: Its children with trainable parameters are its blocks; lists of modules are
            opened, and so is a child that is the only one.

    Example:
        >>> from collections import OrderedDict
        >>> body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        >>> blocks(nn.Sequential(OrderedDict(body=body, act=nn.ReLU(), head=nn.Linear(4, 2))))
        ['body', 'head']
    """
    learning = {
        name: child
        for name, child in network.named_children()
        if any(parameter.requires_grad for parameter in child.parameters())
    }
    found = []
    for name, child in learning.items():
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)
        is_only = len(learning) == 1 and not parametrize.is_parametrized(child)
        inner = blocks(child) if is_list or is_only else []
        found += [f"{name}.{block}" for block in inner] or [name]
    return found
