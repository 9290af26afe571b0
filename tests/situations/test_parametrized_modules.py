"""Modules whose weight is computed: weight norm, spectral norm, orthogonal weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from dni import DNI

from .networks import assert_is_backprop, assert_mixes, assert_same, tensors

PARAMETRIZATIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
each = pytest.mark.parametrize("change", PARAMETRIZATIONS.values(), ids=PARAMETRIZATIONS)
X = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)


def network(change: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    first, second = change(nn.Linear(6, 5).double()), change(nn.Linear(5, 3).double())
    return nn.Sequential(first, nn.ReLU(inplace=True), second)


def loss(net: nn.Module, **kwargs: Any) -> Tensor:
    return net(X, **kwargs).square().sum()


@each
def test_gradients_are_mixed(change: Callable[[nn.Module], nn.Module]) -> None:
    assert_mixes(network(change), loss, sites=["0", "2"])


@each
def test_three_steps_are_backprop(change: Callable[[nn.Module], nn.Module]) -> None:
    assert_is_backprop(network(change), loss)


@each
def test_the_module_is_the_site_not_its_parametrization(
    change: Callable[[nn.Module], nn.Module],
) -> None:
    net = DNI(network(change))
    for _ in range(2):
        loss(net).backward()
    assert sorted(net.interfaces) == ["0", "2"]
    assert net.updates == 2


def test_length_and_direction_of_a_normed_weight_both_learn() -> None:
    net = DNI(network(parametrizations.weight_norm), lambda_=0.0)
    before = {name: p.detach().clone() for name, p in net.network.named_parameters()}
    for _ in range(5):  # synthetic gradients start at zero and reach down a site in two steps
        loss(net).backward()
    assert any("original0" in name for name in before)
    for name, parameter in net.network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@each
def test_a_state_is_loaded_before_any_forward(change: Callable[[nn.Module], nn.Module]) -> None:
    net = DNI(network(change))
    loss(net).backward()
    other = DNI(network(change))
    other.load_state_dict(net.state_dict())
    assert_same(tensors(other), tensors(net))


def test_a_weight_cached_for_the_pass_is_backprop() -> None:
    def run(net: nn.Module) -> Tensor:
        with parametrize.cached():
            return loss(net)

    assert_is_backprop(network(parametrizations.weight_norm), run)


def test_a_parametrization_may_be_removed_after_detaching() -> None:
    net = DNI(network(parametrizations.weight_norm))
    loss(net).backward()
    plain = net.detach()
    expected = plain(X)
    for layer in (plain[0], plain[2]):
        parametrize.remove_parametrizations(layer, "weight")
    assert type(plain[0]) is nn.Linear
    torch.testing.assert_close(plain(X), expected)


def test_a_copy_of_a_parametrized_network_trains_alike() -> None:
    net = DNI(network(parametrizations.weight_norm))
    loss(net).backward()
    twin = copy.deepcopy(net)
    for module in (net, twin):
        loss(module).backward()
    assert_same(tensors(twin), tensors(net))
