"""An exception in the middle of a forward pass: the next call works as if it had not happened."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, ContextError, DNINetwork, SiteError

from .networks import assert_same, batches, fit, mlp, site_hooks, tensors


class Fuse(nn.Module):
    """Passes its input on; raises when it is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_armed = False

    def forward(self, x: Tensor) -> Tensor:
        if self.is_armed:
            raise KeyError("burnt")
        return x


def wrapped(**options: Any) -> tuple[DNI, Fuse]:
    torch.manual_seed(0)
    fuse = Fuse()
    network = mlp()
    network.insert(4, fuse)
    return DNI(network, hidden_size=6, **options), fuse


def abort(net: DNI, fuse: Fuse, x: Tensor, **kwargs: Tensor) -> None:
    fuse.is_armed = True
    with pytest.raises(KeyError, match="burnt"):
        net(x, **kwargs)
    fuse.is_armed = False


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("update", ["auto", "manual"])
@pytest.mark.parametrize("skip", [False, True], ids=["all", "skip_last"])
def test_training_goes_on_as_if_nothing_had_happened(before: int, update: str, skip: bool) -> None:
    def train(is_aborted: bool) -> DNI:
        net, fuse = wrapped(update=update, skip_last_layer=skip)
        for step, (x, y) in enumerate(batches(5)):
            if is_aborted and step == before:
                abort(net, fuse, x)
                abort(net, fuse, x)
            fit(net, [(x, y)])
            if update == "manual":
                net.step()
                net.zero_grad()
        assert net.updates == 5
        return net

    expected, actual = train(False), train(True)
    assert_same(tensors(actual), tensors(expected))
    assert actual.statistics() == expected.statistics()
    assert site_hooks(actual.network) == site_hooks(expected.network)


def test_the_context_of_an_aborted_pass_is_forgotten() -> None:
    net, fuse = wrapped(context_size=3)
    x, y = batches(1)[0]
    abort(net, fuse, x, context=y)
    with pytest.raises(ContextError, match="'0'"):
        net(x)
    fuse.is_armed = True
    with pytest.raises(KeyError, match="burnt"), net.context(y):
        net(x)
    fuse.is_armed = False
    with pytest.raises(ContextError, match="'0'"):
        net(x)
    F.cross_entropy(net(x, context=y), y).backward()
    assert net.updates == 1


def test_an_aborted_pass_between_forward_and_backward_changes_nothing() -> None:
    def train(is_aborted: bool) -> DNI:
        net, fuse = wrapped()
        for x, y in batches(3):
            loss = F.cross_entropy(net(x), y)
            if is_aborted:
                abort(net, fuse, x)
            loss.backward()
        net.training_state()  # makes what is still due
        assert net.updates == 3
        return net

    assert_same(tensors(train(True)), tensors(train(False)))


def test_paused_ends_with_an_exception() -> None:
    net, fuse = wrapped()
    x, y = batches(1)[0]
    fuse.is_armed = True
    with pytest.raises(KeyError, match="burnt"), net.paused():
        net(x)
    fuse.is_armed = False
    fit(net, [(x, y)])
    assert net.updates == 1


def test_a_synthesizer_that_raises_is_named_and_the_next_call_works() -> None:
    class Moody(DNINetwork):
        is_armed = False

        def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
            if Moody.is_armed:
                raise RuntimeError("bad mood")
            return 0 * input, hidden

    net = DNI(mlp(), {"3": Moody})
    data = batches(2)
    Moody.is_armed = True
    with pytest.raises(SiteError, match=r"`Moody` at site '3'.*bad mood") as raised:
        net(data[0][0])
    assert isinstance(raised.value.__cause__, RuntimeError)
    Moody.is_armed = False
    fit(net, data)
    assert net.updates == 2
