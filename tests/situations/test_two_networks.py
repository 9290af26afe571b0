"""Two wrapped networks in one process do not meet; one may call the other."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI

from .networks import (
    Echo,
    assert_close,
    assert_same,
    batches,
    fit,
    gradients,
    mixed_gradients,
    mlp,
    tensors,
)


def seeded(seed: int, **options: Any) -> DNI:
    torch.manual_seed(seed)
    return DNI(mlp(), **options)


def test_interleaved_training_is_training_alone() -> None:
    alone = [seeded(seed) for seed in (0, 1)]
    for net in alone:
        fit(net, batches(4))
    together = [seeded(seed) for seed in (0, 1)]
    for batch in batches(4):
        for net in together:
            fit(net, [batch])
    for ours, theirs in zip(together, alone, strict=True):
        assert_same(tensors(ours), tensors(theirs))
        assert ours.statistics() == theirs.statistics()


def test_two_forwards_then_two_backwards_of_two_networks_are_training_alone() -> None:
    alone = [seeded(seed) for seed in (0, 1)]
    for net in alone:
        fit(net, batches(3))
    together = [seeded(seed) for seed in (0, 1)]
    for x, y in batches(3):
        losses = [F.cross_entropy(net(x), y) for net in together]
        for loss in losses:
            loss.backward()
    for ours, theirs in zip(together, alone, strict=True):
        assert_same(tensors(ours), tensors(theirs))


def test_one_backward_through_the_sum_of_two_losses_updates_both() -> None:
    alone = [seeded(seed) for seed in (0, 1)]
    for net in alone:
        fit(net, batches(3))
    together = [seeded(seed) for seed in (0, 1)]
    for x, y in batches(3):
        sum(F.cross_entropy(net(x), y) for net in together).backward()
    for ours, theirs in zip(together, alone, strict=True):
        assert_same(tensors(ours), tensors(theirs))
        assert ours.updates == 3


def test_a_context_holds_for_its_own_network() -> None:
    net, other = seeded(0, context_size=3), seeded(1)
    x, y = batches(1)[0]
    with net.context(y):
        (F.cross_entropy(net(x), y) + F.cross_entropy(other(x), y)).backward()
    assert (net.updates, other.updates) == (1, 1)


@pytest.mark.parametrize("is_first", [True, False])
def test_detaching_or_freeing_one_leaves_the_other(is_first: bool) -> None:
    nets = [seeded(0), seeded(1)]
    for net in nets:
        fit(net, batches(1))
    nets.pop(0 if is_first else 1).detach()
    gc.collect()
    fit(nets[0], batches(1))
    assert nets[0].updates == 2


class Plain:
    """Both networks in one chain, by backprop, with an optimizer each."""

    def __init__(self, *networks: nn.Module) -> None:
        self.networks = networks
        self.optimizers = [torch.optim.Adam(n.parameters()) for n in networks]

    def step(self, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()


def test_one_behind_the_other_is_backprop() -> None:
    def made() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        return mlp(), nn.Linear(3, 3).double()

    plain = Plain(*made())
    first, second = (DNI(network, lambda_=1.0) for network in made())
    for x, y in batches(3):
        plain.step(F.cross_entropy(plain.networks[1](plain.networks[0](x)), y))
        F.cross_entropy(second(first(x)), y).backward()
    assert_same(tensors(first.network), tensors(plain.networks[0]))
    assert_same(tensors(second.network), tensors(plain.networks[1]))
    assert (first.updates, second.updates) == (3, 3)


class Caller(nn.Module):
    """Calls a network that is not its child."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(6, 6).double(), nn.Linear(3, 3).double()
        self.others = [other]

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.others[0](self.before(x)))


def test_one_that_calls_the_other_is_backprop() -> None:
    def made(wrap: Any) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        inner = wrap(mlp())
        return wrap(Caller(inner)), inner

    outer, inner = made(lambda network: network)
    plain = Plain(outer, inner)
    net, other = made(lambda network: DNI(network, lambda_=1.0))
    for x, y in batches(3):
        plain.step(F.cross_entropy(outer(x), y))
        F.cross_entropy(net(x), y).backward()
    assert_same(tensors(net.network), tensors(outer))
    assert_same(tensors(other.network), tensors(inner))
    assert (net.updates, other.updates) == (3, 3)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_one_that_calls_the_other_mixes_as_one_network_would(share: float) -> None:
    (x, y), inner = batches(1)[0], mlp()
    outer = Caller(inner)
    outer.child = inner  # so that the oracle's copy holds both, and copies them as one
    expected = mixed_gradients(outer, lambda net: F.cross_entropy(net(x), y), share=share)

    options: dict[str, Any] = {"lambda_": share, "scale_targets": False, "update": "manual"}
    del outer.child
    other = DNI(inner, Echo, **options)
    outer.others = [other]
    net = DNI(outer, Echo, **options)
    F.cross_entropy(net(x), y).backward()
    found = gradients(outer) | {f"child.{k}": v for k, v in gradients(inner).items()}
    assert_close(found, expected)


def test_a_frozen_critic_gets_gradients_but_is_not_updated_in_eval() -> None:
    generator, critic = seeded(0), DNI(nn.Linear(3, 1).double()).eval()
    before = tensors(critic)
    for x, _ in batches(3):
        critic(generator(x)).mean().backward()
    assert (generator.updates, critic.updates) == (3, 0)
    assert_same(tensors(critic), before)
