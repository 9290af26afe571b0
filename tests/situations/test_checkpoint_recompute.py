"""Activation checkpointing, re-entrant and not: inside a site, around sites, around everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dni import DNI, ContextError

from .networks import assert_close, assert_same, batches, mlp, tensors


class Checkpointed(nn.Module):
    """Runs a module under a checkpoint."""

    def __init__(self, inner: nn.Module, *, is_reentrant: bool) -> None:
        super().__init__()
        self.inner, self.is_reentrant = inner, is_reentrant

    def forward(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        x = x if x.requires_grad else x.clone().requires_grad_()
        return checkpoint(self.inner, x, use_reentrant=self.is_reentrant, **kwargs)


class Straight(Checkpointed):
    """The same module names without a checkpoint."""

    def forward(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        return self.inner(x, **kwargs)


Wrap = Callable[[nn.Module], nn.Module]
OPTIONS = {"lambda_": 0.5, "hidden_size": 6, "grad_lr": 0.01}


def inside_a_site(wrap: Wrap) -> nn.Module:
    network = mlp(dropout=0.5)
    network[0] = wrap(network[0])
    return DNI(network, sites=["0", "3", "5"], **OPTIONS)


def around_some_sites(wrap: Wrap) -> nn.Module:
    network = mlp(dropout=0.5)
    return DNI(nn.Sequential(wrap(network[:3]), wrap(network[3:5]), network[5]), **OPTIONS)


def around_sites_that_are_all(wrap: Wrap) -> nn.Module:
    return DNI(wrap(mlp(dropout=0.5)), **OPTIONS)


def around_the_wrapper(wrap: Wrap) -> nn.Module:
    return wrap(DNI(mlp(dropout=0.5), **OPTIONS))


def around_a_wrapper_made_on_the_first_pass(wrap: Wrap) -> nn.Module:
    return wrap(DNI(mlp(dropout=0.5), sites=["1", "4"], **OPTIONS))


PLACES = [
    inside_a_site,
    around_some_sites,
    around_sites_that_are_all,
    around_the_wrapper,
    around_a_wrapper_made_on_the_first_pass,
]


def wrapper_in(net: nn.Module) -> DNI:
    return next(m for m in net.modules() if isinstance(m, DNI))


def trained(make: Callable[[Wrap], nn.Module], wrap: Wrap) -> tuple[nn.Module, list[float]]:
    """Three steps, and the losses."""
    torch.manual_seed(0)
    net, losses = make(wrap), []
    for x, y in batches(3):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        losses.append(loss.item())
    return net, losses


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
@pytest.mark.parametrize("make", PLACES)
def test_training_is_the_same_as_without_checkpoint(
    make: Callable[[Wrap], nn.Module], is_reentrant: bool
) -> None:
    expected, losses = trained(make, lambda m: Straight(m, is_reentrant=False))
    net, checkpointed = trained(make, lambda m: Checkpointed(m, is_reentrant=is_reentrant))
    assert checkpointed == losses
    assert wrapper_in(net).updates == 3
    assert_same(tensors(net), tensors(expected))
    assert wrapper_in(net).statistics() == wrapper_in(expected).statistics()


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
@pytest.mark.parametrize("is_block", [False, True], ids=["argument", "block"])
def test_sites_that_are_recomputed_keep_their_context(is_reentrant: bool, is_block: bool) -> None:
    def train(wrap: Wrap) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = mlp()
        network = nn.Sequential(wrap(network[:3]), wrap(network[3:5]), network[5])
        net = DNI(network, context_size=3, **OPTIONS)
        for x, y in batches(3):
            if is_block:
                with net.context(y):
                    out = net(x)
            else:
                out = net(x, context=y)
            F.cross_entropy(out, y).backward()
        assert net.updates == 3
        return tensors(net)

    expected = train(lambda m: Straight(m, is_reentrant=False))
    assert_same(train(lambda m: Checkpointed(m, is_reentrant=is_reentrant)), expected)


def test_a_checkpoint_around_the_wrapper_passes_the_context_on() -> None:
    def train(wrap: Wrap) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = wrap(DNI(mlp(), context_size=3, **OPTIONS))
        for x, y in batches(3):
            F.cross_entropy(net(x, context=y), y).backward()
        return tensors(net)

    expected = train(lambda m: Straight(m, is_reentrant=False))
    assert_same(train(lambda m: Checkpointed(m, is_reentrant=False)), expected)


def test_a_recomputed_context_that_could_be_one_of_two_is_refused() -> None:
    inner = Checkpointed(mlp(), is_reentrant=False)
    net = DNI(inner, context_size=3, update="manual", **OPTIONS)
    losses = [F.cross_entropy(net(x, context=y), y) for x, y in batches(2)]
    with pytest.raises(ContextError, match="cannot be told"):
        losses[0].backward()


def test_two_checkpointed_passes_then_two_backwards_update_once() -> None:
    def train(wrap: Wrap) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = DNI(wrap(mlp()), **OPTIONS)
        for _ in range(2):
            losses = [F.cross_entropy(net(x), y) for x, y in batches(2)]
            for loss in losses:
                loss.backward()
        assert net.updates == 2
        return tensors(net)

    expected = train(lambda m: Straight(m, is_reentrant=False))
    assert_same(train(lambda m: Checkpointed(m, is_reentrant=False)), expected)


def test_a_reentrant_pass_that_waits_is_not_known_so_every_backward_updates() -> None:
    torch.manual_seed(0)
    net = DNI(Checkpointed(mlp(), is_reentrant=True), **OPTIONS)
    losses = [F.cross_entropy(net(x), y) for x, y in batches(2)]
    for number, loss in enumerate(losses, start=1):
        loss.backward()
        assert net.updates == number
    assert all(value.isfinite().all() for value in tensors(net).values())


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
def test_two_checkpointed_calls_of_the_wrapper_come_back_in_one_backward(
    is_reentrant: bool,
) -> None:
    """The second call is recomputed when gradients of the first are there already."""

    def train(wrap: Wrap) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = DNI(mlp(), **OPTIONS)
        module = wrap(net)
        for (x, y), (x2, y2) in zip(batches(3), batches(3, seed=2), strict=True):
            (F.cross_entropy(module(x), y) + F.cross_entropy(module(x2), y2)).backward()
        assert net.updates == 3
        return tensors(net)

    expected = train(lambda m: Straight(m, is_reentrant=False))
    actual = train(lambda m: Checkpointed(m, is_reentrant=is_reentrant))
    assert_close(actual, expected, rtol=1e-4)  # the statistics are summed in another order
