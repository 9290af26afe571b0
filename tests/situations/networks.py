"""Small networks and batches, and an oracle for mixed gradients in plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dni import DNI, DNINetwork

SHARE = 0.3
"""What `Echo` multiplies an activation by."""

Batch = tuple[Tensor, Tensor]


class Echo(DNINetwork):
    """A synthesizer with nothing to learn, so that an oracle knows what it says."""

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        return SHARE * input, hidden


def mlp(*, dropout: float = 0.0) -> nn.Sequential:
    """Six inputs, three classes, float64."""
    layers = [nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 5), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(5, 3)).double()


def batches(count: int, *, size: int = 4, seed: int = 1) -> list[Batch]:
    """Batches for `mlp`."""
    rng = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 6, generator=rng, dtype=torch.float64),
            torch.randint(3, (size,), generator=rng),
        )
        for _ in range(count)
    ]


def fit(net: nn.Module, data: Iterable[Batch]) -> list[float]:
    """Train by ``loss.backward()`` alone; returns the losses."""
    losses = []
    for x, y in data:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        losses.append(loss.item())
    return losses


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter that has one."""
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor in the state of a module."""
    state = module.state_dict().items()
    return {key: value.clone() for key, value in state if isinstance(value, Tensor)}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Same keys, same values to the last bit."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def assert_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], *, rtol: float = 1e-12
) -> None:
    """Same keys, same values within rounding."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            actual[key], value, rtol=rtol, atol=rtol, msg=lambda m, key=key: f"{key}: {m}"
        )


def hooks(network: nn.Module) -> Iterator[str]:
    """Every hook on the modules and parameters of a network, as text."""
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if "hooks" in attribute and value:
                yield f"{name}.{attribute}: {value}"
    for name, parameter in network.named_parameters():
        for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            if getattr(parameter, attribute):
                yield f"{name}.{attribute}"


def site_hooks(network: nn.Module) -> int:
    """Number of forward hooks."""
    return sum(len(module._forward_hooks) for module in network.modules())


def mixed_gradients(
    network: nn.Module,
    run: Callable[[nn.Module], Tensor],
    *,
    share: float,
    sites: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """What a network's gradients should be with `Echo` at its sites: the oracle.

    Every floating output of a site is copied, and a tensor hook on the copy mixes.

    Args:
        network: The network; left as it was.
        run: Calls it and returns a loss.
        share: λ.
        sites: Names of the sites; every leaf module with parameters if ``None``.
    """
    network = copy.deepcopy(network)
    modules = dict(network.named_modules())
    if sites is None:
        sites = [n for n, m in modules.items() if not list(m.children()) and list(m.parameters())]

    def through(output: Any) -> Any:
        if not (isinstance(output, Tensor) and output.requires_grad):
            return output
        synthetic, passed = SHARE * output.detach().clone(), output.clone()
        passed.register_hook(lambda true: share * true + (1 - share) * synthetic)
        return passed

    for site in sites:
        modules[site].register_forward_hook(lambda m, a, out: pytree.tree_map(through, out))
    run(network).backward()
    return gradients(network)


def assert_mixes(
    network: nn.Module,
    run: Callable[[nn.Module], Tensor],
    *,
    sites: list[str] | None = None,
    shares: Iterable[float] = (0.0, 0.5, 1.0),
) -> None:
    """The wrapped network's gradients are the oracle's, for several λ."""
    for share in shares:
        expected = mixed_gradients(network, run, share=share, sites=sites)
        wrapped = copy.deepcopy(network)
        options: dict[str, Any] = {"sites": sites, "scale_targets": False, "update": "manual"}
        net = DNI(wrapped, Echo, lambda_=share, **options)
        run(net).backward()
        assert_close(gradients(wrapped), expected)


def assert_is_backprop(
    network: nn.Module, run: Callable[[nn.Module], Tensor], *, steps: int = 3, **options: Any
) -> DNI:
    """At λ = 1 three steps of the wrapper are three steps of Adam to the last bit."""
    plain, wrapped = copy.deepcopy(network), copy.deepcopy(network)
    optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad])
    net = DNI(wrapped, lambda_=1.0, **options)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        expected = run(plain)
        expected.backward()
        optimizer.step()
        torch.manual_seed(step)
        actual = run(net)
        actual.backward()
        assert torch.equal(actual, expected)
    assert_same(tensors(wrapped), tensors(plain))
    assert net.updates == steps
    return net
