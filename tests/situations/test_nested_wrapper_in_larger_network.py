"""A wrapped block inside a bigger network that is trained by the user's own optimizer."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI

from .networks import Batch, assert_same, batches, gradients, mlp, tensors


class Own(nn.Module):
    """A layer of the user's, whose interface is made on the first pass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def bigger(wrap: bool = True, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    block: nn.Module = nn.Sequential(Own(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6)).double()
    if wrap:
        block = DNI(block, optim="adam", **options)
    head = nn.Sequential(nn.Tanh(), nn.Linear(6, 3))
    return nn.Sequential(nn.Linear(6, 6), block, head).double()


def outer_parameters(net: nn.Sequential) -> list[nn.Parameter]:
    return [*net[0].parameters(), *net[2].parameters()]


def train(net: nn.Sequential, data: list[Batch], optimizer: torch.optim.Optimizer | None = None):
    optimizer = optimizer or torch.optim.Adam(outer_parameters(net))
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def test_the_whole_is_backprop_at_λ_one() -> None:
    net, plain = bigger(lambda_=1.0), bigger(wrap=False)
    train(net, batches(4))
    train(plain, batches(4), torch.optim.Adam(plain.parameters()))
    net[1] = net[1].detach()
    assert_same(tensors(net), tensors(plain))


def test_one_optimizer_for_everything_is_backprop_in_manual_mode() -> None:
    net, plain = bigger(lambda_=1.0, update="manual"), bigger(wrap=False)
    train(net, batches(4), torch.optim.Adam(net.parameters()))
    train(plain, batches(4), torch.optim.Adam(plain.parameters()))
    network = copy.deepcopy(net)
    network[1] = network[1].network
    assert_same(tensors(network), tensors(plain))


@pytest.mark.parametrize("is_strict", [True, False])
def test_the_state_of_the_whole_is_loaded_before_any_forward(is_strict: bool) -> None:
    net = bigger()
    train(net, batches(3))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = bigger()
    assert len(other[1].interfaces) < len(net[1].interfaces)
    found = other.load_state_dict(torch.load(file, weights_only=True), strict=is_strict)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert_same(tensors(other), tensors(net))
    assert other[1].statistics() == net[1].statistics()
    assert other[1].updates == 3
    x = batches(1, seed=4)[0][0]
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_the_state_is_loaded_into_a_network_that_has_trained() -> None:
    net, other = bigger(), bigger()
    train(net, batches(3))
    train(other, batches(2, seed=9))
    other.load_state_dict(net.state_dict())
    assert_same(tensors(other), tensors(net))
    train(other, batches(1))
    assert other[1].updates == 4


def test_keys_of_the_block_are_its_own_behind_its_place() -> None:
    net = bigger()
    train(net, batches(1))
    keys = [key for key in net.state_dict() if key.startswith("1.network.")]
    assert keys == [f"1.network.{key}" for key in net[1].network.state_dict()]
    assert all(key.startswith(("0.", "1.", "2.")) for key in net.state_dict())


def test_a_state_of_other_sizes_is_refused() -> None:
    net = bigger()
    train(net, batches(1))
    state = net.state_dict()
    other = nn.Sequential(nn.Linear(6, 6), DNI(nn.Linear(6, 7)), nn.Linear(7, 3)).double()
    before = tensors(other)
    with pytest.raises(RuntimeError):
        other.load_state_dict(state)
    assert tensors(other).keys() == before.keys()


def test_two_wrapped_blocks_in_one_network_train() -> None:
    torch.manual_seed(0)
    first, second = DNI(mlp(), lambda_=0.0), DNI(nn.Linear(3, 3).double(), lambda_=0.0)
    net = nn.Sequential(first, nn.Tanh(), second)
    before = gradients_of = tensors(net)
    for x, y in batches(20):
        F.cross_entropy(net(x), y).backward()
    assert (first.updates, second.updates) == (20, 20)
    assert all(key in gradients_of for key in before)
    assert not torch.equal(tensors(net)["0.network.0.weight"], before["0.network.0.weight"])
    twin = nn.Sequential(DNI(mlp()), nn.Tanh(), DNI(nn.Linear(3, 3).double()))
    twin.load_state_dict(net.state_dict())
    assert_same(tensors(twin), tensors(net))


def test_modes_devices_and_types_reach_the_block() -> None:
    net = bigger()
    net.eval()
    assert not net[1].training
    assert not net[1].network.training
    net.train().float()
    x, y = batches(1)[0]
    F.cross_entropy(net(x.float()), y).backward()
    assert net[1].network[2].weight.dtype == torch.float32


def test_a_gradient_reaches_what_is_below_the_block() -> None:
    net = bigger(lambda_=0.0)
    x, y = batches(1)[0]
    train(net, batches(20))
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    found = gradients(net)
    assert found["0.weight"].abs().max() > 0
    assert found["2.1.weight"].abs().max() > 0
