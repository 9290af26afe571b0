"""`detach()` gives back the network as it was, but for what it has learned."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, AttachmentError, ConfigError, DNINetwork, SiteError

from .networks import assert_same, batches, fit, hooks, mlp, site_hooks, tensors


def layout(network: nn.Module) -> dict[str, Any]:
    """Everything about a network but the values of its tensors."""
    found: dict[str, Any] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        found[name] = (type(module), list(vars(module)), module.training, id(module))
        for key, value in vars(module).items():
            if "hooks" in key:
                found[f"{name}.{key}"] = list(value or ())
    for name, parameter in network.named_parameters(remove_duplicate=False):
        found[f"{name} tensor"] = (type(parameter), vars(parameter), parameter.requires_grad)
    return found


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recursive": False},
        {"skip_last_layer": True},
        {"update": "manual"},
        {"sites": nn.Module},
        {"context_size": 3},
    ],
    ids=str,
)
def test_class_attributes_keys_and_hooks_are_as_before(steps: int, options: dict[str, Any]) -> None:
    network = mlp()
    before, keys = layout(network), list(network.state_dict())
    net = DNI(network, **options)
    assert layout(network) != before
    for x, y in batches(steps):
        kwargs = {"context": y} if "context_size" in options else {}
        nn.functional.cross_entropy(net(x, **kwargs), y).backward()
    net.eval()
    outputs = net(batches(1)[0][0])
    net.train()

    assert net.detach() is network
    assert layout(network) == before
    assert list(network.state_dict()) == keys
    assert not list(hooks(network))
    assert torch.equal(network.eval()(batches(1)[0][0]), outputs)


def test_detached_network_trains_by_plain_backprop() -> None:
    network = mlp()
    net = DNI(network, lambda_=0.0)
    fit(net, batches(2))
    net.detach()
    plain = copy.deepcopy(network)
    for module in (network, plain):
        module.zero_grad()
        fit(module, batches(2))
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert net.updates == 2


def test_a_second_detach_does_nothing() -> None:
    net = DNI(mlp())
    network = net.detach()
    again = DNI(network)
    assert net.detach() is network
    fit(again, batches(1))
    assert again.updates == 1
    assert len(again.statistics()) == 3


def test_hooks_of_the_user_stay_in_their_order() -> None:
    network, calls = mlp(), []
    network[0].register_forward_hook(lambda *_: calls.append("first"))
    net = DNI(network)
    network[0].register_forward_hook(lambda *_: calls.append("last"))
    net.detach()
    network(batches(1)[0][0])
    assert calls == ["first", "last"]


def test_a_detached_network_can_be_wrapped_again_and_again() -> None:
    network = mlp()
    before = layout(network)
    for _ in range(3):
        net = DNI(network)
        fit(net, batches(1))
        assert net.updates == 1
        assert site_hooks(network) == 3
        net.detach()
    assert layout(network) == before


def test_wrapping_a_wrapped_network_leaves_the_first_wrapper_whole() -> None:
    network = mlp()
    net = DNI(network)
    with pytest.raises(AttachmentError, match="detach"):
        DNI(network)
    with pytest.raises(AttachmentError, match="detach"):
        DNI(nn.Sequential(nn.Linear(6, 6), network))
    with pytest.raises(AttachmentError, match="detach"):
        DNI(net)
    assert site_hooks(network) == 3
    fit(net, batches(1))
    assert net.updates == 1


def test_the_wrapper_of_a_detached_network_is_the_network() -> None:
    net = DNI(mlp(), lambda_=0.0)
    fit(net, batches(1))
    net.detach()
    x, _ = batches(1)[0]
    assert torch.equal(net(x), net.network(x))
    before = tensors(net)
    fit(net, batches(2))
    assert_same(tensors(net), before)
    assert net.updates == 1


class Fussy(DNINetwork):
    """Refuses one width."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        if input_size == 5:
            raise TypeError("not five")

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        return 0 * input, hidden


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sites": ["0", "nine"]}, SiteError),
        ({"lambda_": 1.5}, ConfigError),
        ({"lambda_": {"nine": 0.5}}, ConfigError),
        ({"grad_optim": "adm"}, ConfigError),
        ({"optim": 3}, ConfigError),
        ({"dni_network": "conv2d"}, ConfigError),
        ({"dni_params": {"depth": 3}}, ConfigError),
        ({"hidden_size": 0}, ConfigError),
        ({"dni_network": Fussy, "sites": ["0", "3"]}, ConfigError),
    ],
    ids=str,
)
def test_a_failed_construction_leaves_nothing_behind(
    options: dict[str, Any], error: type[Exception]
) -> None:
    network = mlp().float()
    before = layout(network)
    with pytest.raises(error):
        DNI(network, **options)
    assert layout(network) == before
    DNI(network)
