"""A module that is called several times in a forward pass: every call has its own boundary."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni import DNI

from .networks import assert_close, assert_is_backprop, assert_mixes, gradients


class Twice(nn.Module):
    """Two calls in a row, then two side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layer(torch.tanh(self.layer(x))))
        return self.head(h) * self.head(-h.square())


class Unrolled(nn.Module):
    """A cell called once for each time step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)


X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
SEQUENCE = torch.linspace(-1, 1, 30, dtype=torch.float64).view(2, 5, 3)


def test_gradients_are_mixed_at_every_call() -> None:
    assert_mixes(Twice().double(), lambda net: net(X).square().sum())
    assert_mixes(Unrolled().double(), lambda net: net(SEQUENCE).square().sum())


def test_three_steps_are_backprop() -> None:
    assert_is_backprop(Twice(), lambda net: net(X.float()).square().sum())
    assert_is_backprop(Unrolled(), lambda net: net(SEQUENCE.float()).square().sum())


def test_the_number_of_calls_may_change_from_step_to_step() -> None:
    net = DNI(Unrolled().double())
    for steps in (5, 1, 3):
        net(SEQUENCE[:, :steps]).square().sum().backward()
    assert net.updates == 3
    assert sorted(net.interfaces) == ["cell", "head"]


def test_a_synthesizer_learns_from_every_call() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.outputs = [self.layer(x), self.layer(2 * x)]
            return self.outputs[0].square().sum() + self.outputs[1].pow(3).sum()

    net = DNI(Seen().double(), dni_network="linear", scale_targets=False, update="manual")
    synthesizer = net.interfaces["layer"].synthesizer
    nn.init.normal_(synthesizer.final.weight)
    net(X).backward()

    h1, h2 = (h.detach() for h in net.network.outputs)
    expected = sum(
        (synthesizer(h, None)[0] - true).square().sum(-1).mean()
        for h, true in ((h1, 2 * h1), (h2, 3 * h2.square()))
    )
    names, parameters = zip(*synthesizer.named_parameters(), strict=True)
    oracle = torch.autograd.grad(expected, parameters)
    assert_close(gradients(synthesizer), dict(zip(names, oracle, strict=True)))


def test_statistics_cover_every_call() -> None:
    network, outputs = Twice().double(), []
    plain = copy.deepcopy(network)
    plain.layer.register_forward_hook(lambda m, a, output: outputs.append(output))
    true = torch.autograd.grad(plain(X).square().sum(), outputs)
    assert len(true) == 2

    net = DNI(network, lambda_=1.0)
    net(X).square().sum().backward()
    entries = torch.cat(true).square()
    statistics = net.statistics()["layer"]
    assert statistics["scale"] == pytest.approx(entries.mean().sqrt().item(), rel=1e-6)
    assert statistics["true_norm"] == pytest.approx((entries.sum() / 2).sqrt().item(), rel=1e-6)
