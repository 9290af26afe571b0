"""A graph recorded before `detach()` runs as plain autograd after it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni import DNI

from .networks import Echo, assert_same, batches, fit, gradients, mlp, tensors


def expected_gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    plain = copy.deepcopy(network)
    plain.zero_grad()
    fit(plain, batches(1))
    return gradients(plain)


@pytest.mark.parametrize("update", ["auto", "manual"])
@pytest.mark.parametrize("has_new_wrapper", [False, True], ids=["bare", "wrapped_again"])
def test_gradients_are_plain_and_nothing_is_updated(update: str, has_new_wrapper: bool) -> None:
    net = DNI(mlp(), Echo, lambda_=0.0, scale_targets=False, update=update)
    x, y = batches(1)[0]
    loss = F.cross_entropy(net(x), y)
    network = net.detach()
    other = DNI(network, lambda_=0.0) if has_new_wrapper else None
    expected, before = expected_gradients(network), tensors(net)
    loss.backward()
    assert_same(gradients(network), expected)
    assert_same(tensors(net), before)
    assert net.updates == 0
    if other is not None:
        assert other.updates == 0
        fit(other, batches(1))
        assert other.updates == 1


def test_synthesizers_do_not_learn_from_it() -> None:
    net = DNI(mlp(), update="manual")
    x, y = batches(1)[0]
    loss = F.cross_entropy(net(x), y)
    net.detach()
    loss.backward()
    assert all(p.grad is None for p in net.interfaces.parameters())
    assert all(s["true_norm"] == 0.0 for s in net.statistics().values())


def test_every_graph_is_released_not_only_the_last() -> None:
    net = DNI(mlp(), Echo, lambda_=0.0, scale_targets=False, update="manual")
    x, y = batches(1)[0]
    losses = [F.cross_entropy(net(x), y) for _ in range(3)]
    network = net.detach()
    expected = expected_gradients(network)
    for loss in losses:
        network.zero_grad()
        loss.backward()
        assert_same(gradients(network), expected)


def test_an_update_that_was_put_off_is_made_before_detaching() -> None:
    def train(is_detached: bool) -> tuple[DNI, nn.Module]:
        torch.manual_seed(0)
        net = DNI(mlp())
        (x, y), (x2, _) = batches(2)
        loss, other = F.cross_entropy(net(x), y), net(x2)
        loss.backward()  # the graph of `other` still needs the parameters as they are
        if is_detached:
            net.detach()
        else:
            net(x)
        del other
        assert net.updates == 1
        return net, net.network

    assert_same(tensors(train(True)[1]), tensors(train(False)[1]))


def test_detaching_while_backward_runs_is_safe() -> None:
    net = DNI(mlp(), Echo, lambda_=0.0, scale_targets=False)
    x, y = batches(1)[0]
    output = net(x)
    output.register_hook(lambda _: net.detach() and None)
    expected = expected_gradients(copy.deepcopy(net.network))
    F.cross_entropy(output, y).backward()
    assert_same(gradients(net.network), expected)
    assert net.updates == 0
