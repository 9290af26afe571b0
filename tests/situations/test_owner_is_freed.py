"""Dropping a wrapper frees it, its synthesizers and what its passes kept; the network lives on."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from dni import DNI

from .networks import assert_same, batches, fit, gradients, hooks, mlp, site_hooks


def step(net: DNI) -> None:
    fit(net, batches(2))


def forward(net: DNI) -> None:
    net(batches(1)[0][0])


def aborted_forward(net: DNI) -> None:
    with pytest.raises(RuntimeError):
        net(torch.zeros(2, 2).double())


def aborted_backward(net: DNI) -> None:
    output = net(batches(1)[0][0])
    output.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.sum().backward()


def put_off(net: DNI) -> None:
    x, y = batches(1)[0]
    losses = [F.cross_entropy(net(x), y) for _ in range(2)]
    losses[0].backward()


def detached(net: DNI) -> None:
    step(net)
    net.detach()


def copied(net: DNI) -> None:
    step(copy.deepcopy(net))


def evaluated(net: DNI) -> None:
    step(net)
    net.eval()
    forward(net)
    net.statistics()
    net.training_state()


LIVES: list[Callable[[DNI], None]] = [
    lambda net: None,
    step,
    forward,
    aborted_forward,
    aborted_backward,
    put_off,
    detached,
    copied,
    evaluated,
]


@pytest.mark.parametrize("live", LIVES, ids=lambda live: live.__name__)
def test_a_dropped_wrapper_is_freed(live: Callable[[DNI], None]) -> None:
    network = mlp()
    net = DNI(network)
    live(net)
    owned = [net, *net.interfaces.values(), net.optimizer, net.synthesizer_optimizer]
    watched = [weakref.ref(thing) for thing in owned]
    del net, owned
    gc.collect()
    assert [ref() for ref in watched] == [None] * len(watched)
    # Its hooks, if they are still there, do nothing.
    network.zero_grad()
    fit(network, batches(1))
    plain = mlp()
    plain.load_state_dict(network.state_dict())
    fit(plain, batches(1))
    assert_same(gradients(network), gradients(plain))


def test_the_network_is_freed_with_its_wrapper() -> None:
    net = DNI(mlp())
    step(net)
    network = weakref.ref(net.network)
    del net
    gc.collect()
    assert network() is None


def test_no_cycle_keeps_a_trained_wrapper() -> None:
    gc.collect()
    gc.disable()
    try:
        net = DNI(mlp(), optim=torch.optim.SGD, grad_optim=torch.optim.SGD)
        step(net)
        watched = weakref.ref(net)
        del net
        assert watched() is None
    finally:
        gc.enable()


def test_the_hooks_of_a_freed_wrapper_are_replaced_not_added_to() -> None:
    network = mlp()
    for _ in range(3):
        step(DNI(network))
        gc.collect()
    net = DNI(network)
    assert site_hooks(network) == 3
    assert not list(hooks(net.detach()))


def test_a_graph_outlives_its_wrapper() -> None:
    net = DNI(mlp(), lambda_=1.0)
    network = net.network
    x, y = batches(1)[0]
    loss = F.cross_entropy(net(x), y)
    plain = copy.deepcopy(network)
    del net
    gc.collect()
    loss.backward()
    fit(plain, batches(1))
    assert_same(gradients(network), gradients(plain))
