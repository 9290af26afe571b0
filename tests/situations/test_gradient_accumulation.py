"""Gradients of several small batches, accumulated in manual mode, are those of one big batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dni import DNI

from .networks import assert_close, batches, gradients, mlp, tensors


def net_with(**options: Any) -> DNI:
    torch.manual_seed(0)
    options = {"grad_lr": 0.01, "hidden_size": 6, **options}
    return DNI(mlp(), update="manual", **options)


def accumulate(net: DNI, x: Tensor, y: Tensor, parts: int) -> None:
    """One step on a batch in parts, as torch's users write it."""
    context = net.interfaces.context_size is not None
    for some_x, some_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
        out = net(some_x, context=some_y) if context else net(some_x)
        (F.cross_entropy(out, some_y) / parts).backward()


def train(parts: int, steps: int = 4, **options: Any) -> DNI:
    net = net_with(**options)
    for x, y in batches(steps, size=8):
        accumulate(net, x, y, parts)
        net.step()
        net.zero_grad()
    assert net.updates == steps
    return net


def learned(net: DNI) -> dict[str, Tensor]:
    """Synthesizers and scales; the running sums also count calls."""
    return {k: v for k, v in tensors(net.interfaces).items() if not k.endswith("running")}


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_network_learns_the_same_as_from_one_big_batch(share: float, parts: int) -> None:
    big, small = train(1, lambda_=share), train(parts, lambda_=share)
    assert_close(tensors(small.network), tensors(big.network), rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_gradients_are_those_of_one_big_batch_in_float64(share: float) -> None:
    def found(parts: int) -> dict[str, Tensor]:
        net = net_with(lambda_=share, scale_targets=False)
        for interface in net.interfaces.values():
            torch.nn.init.normal_(interface.synthesizer.final.weight)
        accumulate(net, *batches(1, size=8)[0], parts)
        return gradients(net.network)

    assert_close(found(4), found(1))


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("options", [{}, {"grad_optim": "sgd"}, {"context_size": 3}], ids=str)
def test_synthesizers_learn_the_same_as_from_one_big_batch(
    share: float, options: dict[str, Any]
) -> None:
    big, small = train(1, lambda_=share, **options), train(4, lambda_=share, **options)
    assert_close(learned(small), learned(big), rtol=1e-4)
    assert learned(big)["/5.synthesizer.final.weight"].abs().max() > 1e-4


def test_nothing_moves_until_step() -> None:
    net = net_with()
    before = tensors(net.network)
    accumulate(net, *batches(1, size=8)[0], 4)
    assert all(torch.equal(v, before[k]) for k, v in tensors(net.network).items())
    assert net.updates == 0
    net.step()
    assert not any(torch.equal(v, before[k]) for k, v in tensors(net.network).items())
    assert net.updates == 1


def test_a_users_own_optimizer_may_step_the_network() -> None:
    ours, theirs = net_with(), net_with()
    optimizer = torch.optim.Adam(theirs.network.parameters(), lr=0.01)
    for x, y in batches(3, size=8):
        accumulate(ours, x, y, 2)
        ours.step()
        ours.zero_grad()
        accumulate(theirs, x, y, 2)
        optimizer.step()
        theirs.step(network=False)
        optimizer.zero_grad()
    assert_close(tensors(theirs), tensors(ours))
