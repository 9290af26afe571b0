"""Modules that write into the output of a site, and sites that write into their input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from .networks import assert_is_backprop, assert_mixes

CONSUMERS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu_": lambda h: h.relu_(),
    "nn.ReLU": nn.ReLU(inplace=True),
    "nn.Hardswish": nn.Hardswish(inplace=True),
    "add_": lambda h: h.add_(1.0),
    "mul_": lambda h: h.mul_(2.0),
    "setitem": lambda h: h.index_fill_(-1, torch.tensor([0]), 0.0),
    "square_then_relu_": lambda h: (h * h).relu_(),
}


class Consumed(nn.Module):
    """A layer, something that writes into its output, and another layer."""

    def __init__(self, first: nn.Module, consume: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = first, nn.LazyLinear(3)
        self.consume = consume

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.consume(self.first(x)).flatten(1))


class Skip(nn.Module):
    """A connection around the interfaces, written into on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        inner = self.second(h.relu_())
        inner += h
        out = self.third(inner.sigmoid())
        out += inner
        return out


def loss_on(x: Tensor) -> Callable[[nn.Module], Tensor]:
    return lambda net: net(x.clone()).square().sum()


@pytest.mark.parametrize("consume", CONSUMERS.values(), ids=CONSUMERS)
@pytest.mark.parametrize("kind", ["linear", "sequence", "conv"])
def test_gradients_are_mixed_when_the_output_is_written_into(
    kind: str, consume: Callable[[Tensor], Tensor]
) -> None:
    first, shape = {
        "linear": (nn.Linear(4, 5), (3, 4)),
        "sequence": (nn.Linear(4, 5), (3, 2, 4)),
        "conv": (nn.Conv2d(2, 3, 3), (3, 2, 5, 5)),
    }[kind]
    network, x = Consumed(first, consume).double(), torch.randn(*shape, dtype=torch.float64)
    network(x)
    assert_mixes(network, loss_on(x))
    assert_is_backprop(network, loss_on(x))


def test_gradients_are_mixed_when_a_connection_goes_around_interfaces() -> None:
    network, run = Skip().double(), loss_on(torch.randn(3, 4, dtype=torch.float64))
    assert_mixes(network, run)
    assert_is_backprop(network, run)


@pytest.mark.parametrize("sites", [["0", "1"], ["1"], ["2"], ["0", "1", "2", "2.0", "2.1", "3"]])
def test_sites_may_write_into_their_input(sites: list[str]) -> None:
    block = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True))
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), block, nn.Linear(4, 2))
    run = loss_on(torch.randn(3, 4, dtype=torch.float64))
    assert_mixes(network.double(), run, sites=sites)
    assert_is_backprop(network, run, sites=sites)


def test_batch_norm_before_an_inplace_relu_is_backprop() -> None:
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(27, 2))
    assert_is_backprop(network, loss_on(torch.randn(4, 2, 5, 5)))
