"""An exception while backward runs, in a user's hook or optimizer: the next step is clean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, ConfigError

from .networks import assert_same, batches, fit, mlp, tensors


class Trap(nn.Module):
    """Passes its input on; its gradient raises while it is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_armed = False

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        if self.is_armed and x.requires_grad:
            x.register_hook(self.spring)
        return x

    def spring(self, gradient: Tensor) -> None:
        raise KeyError("sprung")


def trapped(place: int, **options: Any) -> tuple[DNI, Trap]:
    torch.manual_seed(0)
    network, trap = mlp(), Trap()
    network.insert(place, trap)
    return DNI(network, hidden_size=6, **options), trap


def fail(net: DNI, trap: Trap, x: Tensor, y: Tensor) -> None:
    trap.is_armed = True
    loss = F.cross_entropy(net(x), y)
    trap.is_armed = False
    with pytest.raises(KeyError, match="sprung"):
        loss.backward()


@pytest.mark.parametrize("place", [1, 3, 5])
@pytest.mark.parametrize("before", [0, 2])
def test_the_next_step_is_as_if_nothing_had_happened(place: int, before: int) -> None:
    def train(has_failed: bool) -> DNI:
        net, trap = trapped(place)
        for step, (x, y) in enumerate(batches(4)):
            if has_failed and step == before:
                fail(net, trap, x, y)
                fail(net, trap, x, y)
            fit(net, [(x, y)])
        assert net.updates == 4
        return net

    actual, expected = train(True), train(False)
    assert_same(tensors(actual), tensors(expected))
    assert actual.statistics() == expected.statistics()


@pytest.mark.parametrize("place", [1, 3, 5])
def test_the_next_step_is_clean_after_zero_grad_in_manual_mode(place: int) -> None:
    def train(has_failed: bool) -> DNI:
        net, trap = trapped(place, update="manual")
        for x, y in batches(3):
            net.zero_grad()
            if has_failed:
                fail(net, trap, x, y)
                net.zero_grad()
            fit(net, [(x, y)])
            net.step()
        return net

    actual, expected = train(True), train(False)
    assert_same(tensors(actual), tensors(expected))
    assert actual.statistics() == expected.statistics()


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
def test_the_next_step_works_when_a_recomputed_segment_raised(is_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.trap, self.head = Trap(), nn.Linear(6, 3)

        def segment(self, x: Tensor) -> Tensor:
            return self.second(self.trap(self.first(x)))

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            h = torch.utils.checkpoint.checkpoint(self.segment, x, use_reentrant=is_reentrant)
            return self.head(h)

    def train(has_failed: bool) -> DNI:
        torch.manual_seed(0)
        net = DNI(Checkpointed().double(), sites=["second", "head"])
        trap = net.network.trap
        for x, y in batches(3):
            if has_failed and net.updates == 1:
                trap.is_armed = True
                with pytest.raises(KeyError, match="sprung"):
                    F.cross_entropy(net(x), y).backward()
                trap.is_armed = False
            fit(net, [(x, y)])
        assert net.updates == 3
        return net

    assert_same(tensors(train(True)), tensors(train(False)))


def armed_once(call: Callable[..., Any]) -> Callable[..., Any]:
    """Raises on the second call, and only then."""
    calls = iter(range(1000))

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 1:
            raise KeyError("sprung")
        return call(*args, **kwargs)

    return wrapper


def test_an_optimizer_that_raises_is_heard_and_the_next_step_works() -> None:
    network = mlp()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(armed_once(lambda *_: None))
    net = DNI(network, optim=optimizer)
    data = batches(4)
    fit(net, data[:1])
    with pytest.raises(KeyError, match="sprung"):
        fit(net, data[1:2])
    before = network[0].weight.clone()
    fit(net, data[2:3])
    assert not torch.equal(before, network[0].weight)


def test_a_schedule_of_λ_that_raises_is_heard_and_the_next_step_works() -> None:
    net = DNI(mlp(), lambda_=lambda updates: 0.5)
    data = batches(3)
    fit(net, data[:1])
    net.λ = lambda updates: 0.5 if updates < 2 else 7.0
    with pytest.raises(ConfigError, match=r"7\.0"):
        fit(net, data[1:2])
    net.λ = 0.5
    fit(net, data[2:])
    assert net.updates == 3
