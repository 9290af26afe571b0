"""Copies of a wrapper train by themselves; copies of its network are plain modules."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni import DNI

from .networks import assert_same, batches, fit, hooks, mlp, site_hooks, tensors


def through_pickle(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def through_torch_save(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": through_pickle,
    "torch.save": through_torch_save,
    "twice": lambda thing: copy.deepcopy(through_pickle(thing)),
}
Copy = Callable[[Any], Any]
each_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


@each_copy
@pytest.mark.parametrize("steps", [0, 2])
def test_a_copied_wrapper_trains_as_the_original_does(copied: Copy, steps: int) -> None:
    # Sites 1 and 4 get their interfaces on the first forward pass, the others at once.
    net = DNI(mlp(), lambda_=0.25, sites=["0", "1", "4", "5"], grad_lr=0.01, hidden_size=6)
    data = batches(steps + 3)
    fit(net, data[:steps])
    twin = copied(net)
    assert_same(tensors(twin), tensors(net))
    assert (twin.updates, twin.λ) == (steps, 0.25)
    torch.manual_seed(5)
    fit(net, data[steps:])
    torch.manual_seed(5)
    fit(twin, data[steps:])
    assert_same(tensors(twin), tensors(net))
    assert twin.statistics() == net.statistics()
    assert twin.updates == steps + 3


@each_copy
def test_training_a_copy_leaves_the_original_alone(copied: Copy) -> None:
    net = DNI(mlp())
    fit(net, batches(2))
    twin = copied(net)
    before, statistics = tensors(net), net.statistics()
    fit(twin, batches(3))
    twin.λ = 0.0
    twin.detach()
    assert_same(tensors(net), before)
    assert net.statistics() == statistics
    assert (net.updates, net.λ) == (2, 0.5)
    fit(net, batches(1))
    assert net.updates == 3


@each_copy
def test_a_copy_of_the_network_is_a_plain_module(copied: Copy) -> None:
    net = DNI(mlp(), lambda_=0.0)
    fit(net, batches(2))
    plain, reference = copied(net.network), mlp()
    reference.load_state_dict(net.network.state_dict())
    before = tensors(net)
    for network in (plain, reference):
        network.zero_grad()
        fit(network, batches(1))
    for ours, theirs in zip(plain.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert_same(tensors(net), before)
    assert net.updates == 2


@each_copy
def test_a_copy_of_the_network_can_be_wrapped(copied: Copy) -> None:
    net = DNI(mlp())
    fit(net, batches(1))
    other = DNI(copied(net.network))
    fit(other, batches(2))
    assert (net.updates, other.updates) == (1, 2)
    assert site_hooks(other.network) == 3
    assert not list(hooks(other.detach()))


def test_a_copy_is_made_between_forward_and_backward() -> None:
    net = DNI(mlp())
    fit(net, batches(1))
    x, y = batches(1, seed=2)[0]
    loss = F.cross_entropy(net(x), y)
    twin = copy.deepcopy(net)
    before = tensors(twin)
    loss.backward()
    assert_same(tensors(twin), before)
    assert (net.updates, twin.updates) == (2, 1)
    fit(twin, [(x, y)])
    assert_same(tensors(twin), tensors(net))


def test_a_copy_is_made_inside_a_context() -> None:
    net = DNI(mlp(), context_size=3)
    x, y = batches(1)[0]
    with net.context(y):
        twin = copy.deepcopy(net)
    F.cross_entropy(twin(x, context=y), y).backward()
    assert (net.updates, twin.updates) == (0, 1)


def test_an_averaged_model_of_a_wrapper_follows_it() -> None:
    net = DNI(mlp())
    fit(net, batches(1))
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    fit(net, batches(1))
    average.update_parameters(net)
    assert net.updates == 2
    x = batches(1, seed=3)[0][0]
    assert average.eval()(x).shape == net.eval()(x).shape


def test_the_optimizer_of_a_copy_is_its_own() -> None:
    network = mlp()
    net = DNI(network, optim=torch.optim.SGD(network.parameters(), lr=0.1))
    twin = copy.deepcopy(net)
    assert twin.optimizer is not net.optimizer
    ours = {id(p) for p in twin.network.parameters()}
    assert {id(p) for g in twin.optimizer.param_groups for p in g["params"]} == ours


class Named(nn.Module):
    """A network with an attribute that a copy of the wrapper must find again."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.label = mlp(), "a name"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@each_copy
def test_attributes_of_the_network_are_found_through_a_copy(copied: Copy) -> None:
    assert copied(DNI(Named())).label == "a name"
    assert not hasattr(copied(DNI(Named())), "nonsense")
