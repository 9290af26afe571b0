"""One module at two places, one parameter in two modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni import DNI

from .networks import assert_is_backprop, assert_mixes, fit, tensors


class Shared(nn.Module):
    """The same layer under two names, in two parents."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(6, 6)
        self.left = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), layer)
        self.right = nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.right(self.left(x))


class Tied(nn.Module):
    """An embedding whose weight is also that of the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(self.embedding(tokens)))


X = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
TOKENS = torch.tensor([[0, 3, 6], [6, 1, 2]])


def test_gradients_are_mixed_at_every_call_of_a_shared_module() -> None:
    assert_mixes(Shared().double(), lambda net: net(X).square().sum())


def test_gradients_are_mixed_with_tied_weights() -> None:
    assert_mixes(Tied().double(), lambda net: net(TOKENS).logsumexp(-1).square().sum())


@pytest.mark.parametrize(("make", "data"), [(Shared, X.float()), (Tied, TOKENS)])
def test_three_steps_are_backprop(make: type[nn.Module], data: Tensor) -> None:
    assert_is_backprop(make(), lambda net: net(data).square().sum())


def test_a_shared_module_is_one_site_under_its_first_name() -> None:
    net = DNI(Shared().double())
    fit(net, [(X, torch.tensor([0, 1, 2, 0]))])
    assert sorted(net.interfaces) == ["left.0", "left.2", "right.2"]
    assert net.optimizer.param_groups[0]["params"] == list(net.network.parameters())


def test_tied_weights_stay_tied_and_are_saved_under_both_names() -> None:
    net = DNI(Tied())
    for _ in range(2):
        net(TOKENS).square().sum().backward()
    network = net.network
    assert network.head.weight is network.embedding.weight
    other = DNI(Tied())
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    assert other.network.head.weight is other.network.embedding.weight
    assert torch.equal(other(TOKENS), net(TOKENS))
    assert tensors(net).keys() == tensors(other).keys()
