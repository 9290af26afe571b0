"""Several forward passes before the first backward: one update, when the last has come back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI

from .networks import Echo, assert_close, assert_same, batches, fit, gradients, mlp, tensors


def losses_of(net: nn.Module, count: int = 2, seed: int = 1) -> list[Tensor]:
    return [F.cross_entropy(net(x), y) for x, y in batches(count, seed=seed)]


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in_order", "reversed"])
@pytest.mark.parametrize("count", [2, 3])
def test_one_update_is_made_with_the_sum_of_the_gradients(count: int, is_reversed: bool) -> None:
    net = DNI(mlp(), lambda_=1.0)
    plain = copy.deepcopy(net.network)
    optimizer = torch.optim.Adam(plain.parameters())
    for step in range(3):
        optimizer.zero_grad()
        for module in (plain, net):
            losses = losses_of(module, count, seed=step)
            for number, loss in enumerate(reversed(losses) if is_reversed else losses, start=1):
                loss.backward()
                if module is net:
                    assert net.updates == step + (number == count)
        optimizer.step()
    assert_same(tensors(net.network), tensors(plain))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_two_backwards_are_one_backward_through_the_sum(share: float) -> None:
    def train(is_sum: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = DNI(mlp(), Echo, lambda_=share, scale_targets=False)
        for step in range(4):
            losses = losses_of(net, seed=step)
            if is_sum:
                sum(losses).backward()
            else:
                for loss in losses:
                    loss.backward()
        assert net.updates == 4
        return {k: v for k, v in tensors(net).items() if "running" not in k}

    assert_close(train(False), train(True))


@pytest.mark.parametrize("update", ["auto", "manual"])
@pytest.mark.parametrize("options", [{}, {"lambda_": 0.0}, {"context_size": 3}], ids=str)
def test_interfaces_made_on_the_first_passes_work(update: str, options: dict[str, Any]) -> None:
    net = DNI(mlp(), update=update, sites=["1", "4", "5"], **options)
    data = batches(2)
    for _ in range(9):
        losses = []
        for x, y in data:
            out = net(x, context=y) if "context_size" in options else net(x)
            losses.append(F.cross_entropy(out, y))
        for loss in losses:
            loss.backward()
        if update == "manual":
            net.step()
            net.zero_grad()
    assert net.updates == 9
    assert all(s["true_norm"] > 0 for s in net.statistics().values())


def test_manual_mode_gives_the_sum_of_the_gradients() -> None:
    net = DNI(mlp(), lambda_=1.0, update="manual")
    plain = copy.deepcopy(net.network)
    for module in (plain, net):
        for loss in losses_of(module):
            loss.backward()
    assert_same(gradients(net.network), gradients(plain))
    assert net.updates == 0


def test_one_pass_may_come_back_after_an_update_in_manual_mode() -> None:
    net = DNI(mlp().requires_grad_(), lambda_=0.5, update="manual", optim="sgd", grad_lr=1e-9)
    first, second = losses_of(net)
    first.backward()
    net.step()
    net.zero_grad()
    with pytest.raises(RuntimeError, match="inplace"):
        second.backward()  # as in torch: the step wrote into weights this graph needs
    net.zero_grad()
    fit(net, batches(1))
    net.step()
    assert net.updates == 2


def test_λ_may_change_between_forward_and_backward() -> None:
    def found(before: float, after: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = DNI(mlp(), Echo, lambda_=before, scale_targets=False, update="manual")
        (loss,) = losses_of(net, 1)
        net.λ = after
        loss.backward()
        return gradients(net.network)

    for before, after in ((0.25, 0.75), (1.0, 0.25), (0.0, 1.0)):
        actual = found(before, after)
        allowed = [found(share, share) for share in (before, after)]
        assert any(all(map(torch.equal, actual.values(), a.values())) for a in allowed)


def test_the_same_graph_may_come_back_twice_in_manual_mode() -> None:
    net = DNI(mlp(), lambda_=1.0, update="manual")
    plain = copy.deepcopy(net.network)
    for module in (plain, net):
        loss = losses_of(module)[0]
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same(gradients(net.network), gradients(plain))


def test_backward_from_two_parts_of_one_output_is_one_pass_each() -> None:
    net = DNI(mlp(), lambda_=1.0, update="manual")
    plain = copy.deepcopy(net.network)
    x, _ = batches(1)[0]
    for module in (plain, net):
        out = module(x)
        out[:, 0].sum().backward(retain_graph=True)
        out[:, 1].square().sum().backward()
    assert_same(gradients(net.network), gradients(plain))


def test_gradients_can_be_read_after_an_update_and_go_with_the_next_pass() -> None:
    net = DNI(mlp(), lambda_=1.0)
    plain = copy.deepcopy(net.network)
    fit(plain, batches(1))
    fit(net, batches(1))
    assert_same(gradients(net.network), gradients(plain))
    net(batches(1)[0][0])
    assert gradients(net.network) == {}


def test_autograd_grad_updates_nothing_and_is_right() -> None:
    net = DNI(mlp(), lambda_=1.0)
    plain = copy.deepcopy(net.network)
    for module in (plain, net):
        (loss,) = losses_of(module, 1)
        found = torch.autograd.grad(loss, list(getattr(module, "network", module).parameters()))
        if module is plain:
            expected = found
    assert all(map(torch.equal, found, expected))
    assert net.updates == 0
    fit(net, batches(2))
    assert net.updates == 2
