"""A network that is called while it is being called, or while its backward runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI

from .networks import assert_is_backprop, assert_mixes, assert_same, batches, mlp, tensors


class Tree(nn.Module):
    """Calls itself, through the wrapper if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.join = nn.Linear(4, 4), nn.Linear(8, 4)
        self.outer: list[nn.Module] = [self]

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        h = torch.tanh(self.layer(x))
        if depth == 0:
            return h
        net = self.outer[0]
        return self.join(torch.cat((net(h, depth - 1), net(-h, depth - 1)), dim=-1))


X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)


def test_gradients_are_mixed_when_a_network_calls_itself() -> None:
    assert_mixes(Tree().double(), lambda net: net(X).square().sum())


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_network_may_call_its_wrapper(share: float) -> None:
    def train(is_through_wrapper: bool) -> DNI:
        torch.manual_seed(0)
        net = DNI(Tree().double(), lambda_=share)
        if is_through_wrapper:
            net.network.outer = [net]
        for _ in range(3):
            net(X).square().sum().backward()
        assert net.updates == 3
        net.network.outer = [net.network]
        return net

    assert_same(tensors(train(True)), tensors(train(False)))


def test_a_network_that_calls_itself_is_backprop() -> None:
    assert_is_backprop(Tree(), lambda net: net(X.float()).square().sum())


@pytest.mark.parametrize("mode", ["eval", "no_grad", "train"])
@pytest.mark.parametrize("where", ["forward hook", "backward hook"])
def test_a_pass_from_inside_a_hook_does_not_disturb(where: str, mode: str) -> None:
    def train(is_disturbed: bool) -> DNI:
        torch.manual_seed(0)
        net = DNI(mlp())
        is_busy = False

        def look(*_: object) -> None:
            nonlocal is_busy
            if is_busy:
                return
            is_busy = True
            if mode == "eval":
                net.eval()
            with torch.set_grad_enabled(mode == "train"):
                net(torch.ones(2, 6, dtype=torch.float64))
            net.train()
            is_busy = False

        for x, y in batches(3):
            handle = None
            if is_disturbed and where == "forward hook":
                handle = net.network[1].register_forward_hook(look)
            out = net(x)
            if is_disturbed and where == "backward hook":
                out.register_hook(lambda gradient: look())
            F.cross_entropy(out, y).backward()
            if handle is not None:
                handle.remove()
        net.training_state()  # makes an update that was put off
        assert net.updates == 3
        return net

    assert_same(tensors(train(True)), tensors(train(False)))


def test_a_training_step_from_inside_a_backward_hook_is_made() -> None:
    net, other = DNI(mlp()), DNI(mlp())
    x, y = batches(1)[0]

    def train_the_other(gradient: Tensor) -> None:
        with torch.enable_grad():
            F.cross_entropy(other(x), y).backward()

    for _ in range(2):
        out = net(x)
        out.register_hook(train_the_other)
        F.cross_entropy(out, y).backward()
    assert (net.updates, other.updates) == (2, 2)


def test_an_inner_context_ends_with_the_inner_call() -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.outer = nn.Linear(4, 4), []

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            inner = self.outer[0](x[:1], context=labels) if labels is not None else x[:1]
            return self.layer(x) + inner

    net = DNI(Conditioned().double(), context_size=5)
    net.network.outer.append(net)
    net(X, torch.tensor([4]), context=torch.tensor([0, 1, 2])).square().sum().backward()
    assert net.updates == 1
