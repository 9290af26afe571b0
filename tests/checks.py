"""What tests of wrong uses look at: the network is as it was, and the wrapper still trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI

INPUT, LABELS = torch.linspace(-1, 1, 20).view(5, 4), torch.tensor([0, 1, 2, 1, 0])


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def hooks(network: nn.Module) -> int:
    """Number of hooks of any kind on a network."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(m, kind)) for m in network.modules() for kind in kinds)
    on_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return on_modules + sum(
        len(getattr(p, kind, None) or ()) for p in network.parameters() for kind in on_parameters
    )


def assert_untouched(network: nn.Module, twin: nn.Module) -> None:
    """Assert that a network is what its copy is: no hook, no attribute, no number changed."""
    assert hooks(network) == 0
    for (name, module), other in zip(network.named_modules(), twin.modules(), strict=True):
        assert type(module) is type(other), name
        assert module.__dict__.keys() == other.__dict__.keys(), name
        assert module.training == other.training, name
    assert network.state_dict().keys() == twin.state_dict().keys()
    for (name, a), b in zip(network.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def assert_trains(net: DNI, *, twin: DNI | None = None, **context: Any) -> None:
    """Assert that three updates work, and do the same as those of a wrapper nothing happened to."""
    for _ in range(3):
        before = [p.clone() for p in net.network.parameters()]
        F.cross_entropy(net(INPUT, **context), LABELS).backward()
        after = list(net.network.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        if twin is not None:
            F.cross_entropy(twin(INPUT, **context), LABELS).backward()
    if twin is not None:
        for (name, a), b in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
            assert not isinstance(a, Tensor) or torch.equal(a, b), name
