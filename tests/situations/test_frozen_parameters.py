"""Parameters that do not train: before wrapping, after it, and thawed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dni import DNI, DNIWarning, SiteError

from .networks import assert_is_backprop, assert_mixes, assert_same, batches, fit, mlp, tensors


def frozen(*places: int) -> nn.Sequential:
    network = mlp()
    for place in places:
        network[place].requires_grad_(False)
    return network


X, Y = batches(1)[0]


def loss(net: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(net(X), Y)


@pytest.mark.parametrize("places", [(0,), (3,), (5,), (0, 3), (3, 5), (0, 5)], ids=str)
def test_frozen_layers_stay_as_they_are_and_the_others_learn(places: tuple[int, ...]) -> None:
    network = frozen(*places)
    before = tensors(network)
    net = DNI(network, lambda_=0.5)
    fit(net, batches(3))
    after = tensors(network)
    for key, value in before.items():
        is_frozen = int(key.split(".")[0]) in places
        assert torch.equal(after[key], value) == is_frozen, key
    assert sorted(net.statistics()) == [str(p) for p in (0, 3, 5) if p not in places]


@pytest.mark.parametrize("places", [(0,), (3,), (5,), (0, 3), (3, 5)], ids=str)
def test_the_others_learn_by_backprop_at_λ_one(places: tuple[int, ...]) -> None:
    assert_is_backprop(frozen(*places), loss)


@pytest.mark.parametrize("places", [(0,), (3,), (5,), (0, 3)], ids=str)
def test_gradients_are_mixed_at_frozen_sites_that_were_chosen(places: tuple[int, ...]) -> None:
    assert_mixes(frozen(*places), loss, sites=["0", "3", "5"])


def test_a_site_below_which_nothing_trains_has_no_work() -> None:
    net = DNI(frozen(0), sites=["0", "3"])
    fit(net, batches(3))
    assert net.updates == 3
    assert net.statistics().get("0", {"true_norm": 0.0})["true_norm"] == 0.0
    assert net.statistics()["3"]["true_norm"] > 0.0


@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_layer_may_be_frozen_after_wrapping_and_thawed_again(place: int) -> None:
    net = DNI(mlp(), lambda_=0.5, optim="sgd", grad_lr=0.1)
    fit(net, batches(2))
    layer = net.network[place].requires_grad_(False)
    before = tensors(layer)
    fit(net, batches(3))
    assert_same(tensors(layer), before)
    layer.requires_grad_(True)
    fit(net, batches(1))
    assert not torch.equal(layer.weight, before["weight"])
    assert net.updates == 6


def test_a_bias_may_be_frozen_alone() -> None:
    network = mlp()
    network[3].bias.requires_grad_(False)
    assert_mixes(network, loss)
    net = assert_is_backprop(network, loss)
    assert list(net.interfaces) == ["0", "3", "5"]


@pytest.mark.parametrize("options", [{}, {"recursive": False}], ids=str)
def test_a_network_that_is_all_frozen_is_refused(options: dict[str, Any]) -> None:
    network = frozen(0, 3, 5)
    with pytest.raises(SiteError, match="requires_grad"):
        DNI(network, **options)
    network.requires_grad_(True)
    fit(DNI(network, **options), batches(1))


def test_an_input_that_wants_a_gradient_gets_the_mixed_one() -> None:
    x = X.clone().requires_grad_()
    net = DNI(frozen(0, 3), lambda_=1.0, sites=["0", "3", "5"])
    plain = frozen(0, 3)
    plain.load_state_dict(net.network.state_dict())
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    (actual,) = torch.autograd.grad(net(x).square().sum(), x)
    assert torch.equal(actual, expected)


def test_synthesizers_can_be_frozen_as_a_whole() -> None:
    net = DNI(mlp(), train_synthesizers=False)
    before = tensors(net.interfaces)
    learning = [key for key in before if "synthesizer" in key]
    with pytest.warns(DNIWarning, match="never been trained"):
        fit(net, batches(3))
    after = tensors(net.interfaces)
    assert learning
    assert all(torch.equal(after[key], before[key]) for key in learning)
    assert net.updates == 3
    assert all(s["true_norm"] > 0 for s in net.statistics().values())


def test_one_synthesizer_can_be_frozen() -> None:
    net = DNI(mlp())
    fit(net, batches(1))
    net.interfaces["3"].synthesizer.requires_grad_(False)
    before = tensors(net.interfaces)
    fit(net, batches(3))
    after = tensors(net.interfaces)
    keys = [key for key in before if "synthesizer" in key]
    moved = {key.split(".")[0][-1] for key in keys if not torch.equal(after[key], before[key])}
    assert moved == {"0", "5"}
    assert net.updates == 4


@pytest.mark.parametrize("share", [0.5, lambda updates: 1.0 if updates < 9 else 0.0])
def test_synthesizers_frozen_before_they_were_trained_are_told_once(share: Any) -> None:
    net = DNI(mlp(), train_synthesizers=False, λ=share)
    with pytest.warns(DNIWarning, match=r"site '0', site '3', site '5' are frozen"):
        fit(net, batches(1))
    fit(net, batches(2))


def test_frozen_synthesizers_that_were_loaded_or_have_no_share_are_not_told() -> None:
    trained = DNI(mlp())
    fit(trained, batches(2))
    net = DNI(mlp(), train_synthesizers=False)
    net.load_state_dict(trained.state_dict())
    fit(net, batches(2))
    fit(DNI(mlp(), train_synthesizers=False, λ=1), batches(2))
