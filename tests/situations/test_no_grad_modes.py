"""eval(), no_grad and inference_mode: the wrapper is the network and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, LinearDNI

from .networks import assert_is_backprop, assert_same, batches, fit, mlp, tensors


class Counted(LinearDNI):
    """Counts how often synthesizers run."""

    calls = 0

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        Counted.calls += 1
        return super().forward(input, hidden)


def normed() -> nn.Sequential:
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(8, 3)).double()


MODES: dict[str, tuple[bool, Callable[[], AbstractContextManager[Any]]]] = {
    "eval": (False, nullcontext),
    "eval,no_grad": (False, torch.no_grad),
    "eval,inference": (False, torch.inference_mode),
    "train,no_grad": (True, torch.no_grad),
    "train,inference": (True, torch.inference_mode),
    "train,set_grad": (True, lambda: torch.set_grad_enabled(False)),
}


@pytest.mark.parametrize(("is_training", "mode"), MODES.values(), ids=MODES)
@pytest.mark.parametrize("steps", [0, 2])
def test_the_wrapper_is_the_network(
    is_training: bool, mode: Callable[[], AbstractContextManager[Any]], steps: int
) -> None:
    net = DNI(normed(), Counted, sites=["0", "1", "2", "4"])
    fit(net, batches(steps))
    plain = copy.deepcopy(net.network).train(is_training)
    net.train(is_training)
    before, calls = net.statistics(), Counted.calls
    x = batches(1, seed=2)[0][0]
    with mode():
        torch.manual_seed(3)
        expected = plain(x)
        torch.manual_seed(3)
        actual = net(x)
    assert torch.equal(actual, expected)
    assert actual.requires_grad == expected.requires_grad
    assert actual.is_inference() == expected.is_inference()
    assert Counted.calls == calls
    assert net.statistics().keys() == before.keys()
    assert_same(tensors(net.network), tensors(plain))


@pytest.mark.parametrize(("is_training", "mode"), MODES.values(), ids=MODES)
def test_training_is_the_same_with_other_passes_in_between(
    is_training: bool, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    def train(is_disturbed: bool) -> DNI:
        torch.manual_seed(0)
        net = DNI(mlp())
        for x, y in batches(3):
            if is_disturbed:
                net.train(is_training)
                with mode():
                    net(2 * x)
                net.train()
            fit(net, [(x, y)])
        assert net.updates == 3
        return net

    assert_same(tensors(train(True)), tensors(train(False)))


@pytest.mark.parametrize(("is_training", "mode"), MODES.values(), ids=MODES)
def test_other_passes_between_forward_and_backward_do_not_disturb(
    is_training: bool, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    def train(is_disturbed: bool) -> DNI:
        torch.manual_seed(0)
        net = DNI(mlp())
        for x, y in batches(3):
            loss = nn.functional.cross_entropy(net(x), y)
            if is_disturbed:
                net.train(is_training)
                with mode():
                    net(2 * x)
                net.train()
            loss.backward()
        assert net.updates == 3
        return net

    assert_same(tensors(train(True)), tensors(train(False)))


def test_the_gradient_of_the_input_is_plain_in_eval() -> None:
    net = DNI(mlp(), lambda_=0.0)
    fit(net, batches(2))
    net.eval()
    x = batches(1)[0][0].requires_grad_()
    (actual,) = torch.autograd.grad(net(x).square().sum(), x)
    (expected,) = torch.autograd.grad(copy.deepcopy(net.network)(x).square().sum(), x)
    assert torch.equal(actual, expected)
    assert net.updates == 2


def test_backward_in_eval_updates_nothing() -> None:
    net = DNI(mlp()).eval()
    before = tensors(net)
    fit(net, batches(2))
    assert net.updates == 0
    assert_same(tensors(net), before)
    assert net.network[0].weight.grad is not None


class Half(nn.Module):
    """A part of the network runs without grad, as a frozen feature extractor does."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.features(x)
        return self.head(h)


def test_a_part_without_grad_has_no_interface_and_no_complaint() -> None:
    x = batches(1)[0][0]
    assert_is_backprop(Half().double(), lambda net: net(x).square().sum())
    net = DNI(Half().double(), lambda_=0.0)
    fit(net, batches(3))
    assert net.updates == 3
    assert net.statistics()["features"]["true_norm"] == 0.0
    assert net.statistics()["head"]["true_norm"] > 0.0


def test_grad_may_be_enabled_inside_no_grad() -> None:
    net, (x, y) = DNI(mlp()), batches(1)[0]
    with torch.no_grad(), torch.enable_grad():
        nn.functional.cross_entropy(net(x), y).backward()
    assert net.updates == 1


def test_paused_is_backprop_and_the_next_pass_is_not() -> None:
    net, (x, y) = DNI(mlp(), Counted, lambda_=0.0, update="manual"), batches(1)[0]
    plain = copy.deepcopy(net.network)
    calls = Counted.calls
    with net.paused():
        nn.functional.cross_entropy(net(x), y).backward()
    nn.functional.cross_entropy(plain(x), y).backward()
    for ours, theirs in zip(net.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert Counted.calls == calls
    net(x)
    assert Counted.calls == calls + 3


def test_sites_in_eval_inside_a_training_network_keep_their_interface() -> None:
    net = DNI(normed())
    net.network[1].eval()  # frozen statistics, as in fine-tuning
    running = net.network[1].running_mean.clone()
    fit(net, batches(2))
    assert net.statistics()["1"]["true_norm"] > 0.0
    assert torch.equal(net.network[1].running_mean, running)
