"""A state that does not fit is refused, and nothing of it is loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from checks import INPUT, LABELS, assert_trains, mlp
from dni import DNI, CheckpointError


def trained(network: nn.Module, steps: int = 2, **options: Any) -> DNI:
    net = DNI(network, **options)
    for _ in range(steps):
        F.cross_entropy(net(INPUT), LABELS).backward()
    return net


def wide() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))


def deep() -> nn.Sequential:
    return nn.Sequential(*mlp(), nn.ReLU(), nn.Linear(3, 3))


STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "wider": (lambda: trained(wide()).state_dict(), r"network\.0\.weight.*\(9, 4\).*\(8, 4\)"),
    "deeper": (lambda: trained(deep()).state_dict(), "'4'.*no site"),
    "shallower": (lambda: trained(nn.Sequential(nn.Linear(4, 3))).state_dict(), "missing"),
    "synthesizer": (
        lambda: trained(mlp(), dni_network="linear_sigmoid").state_dict(),
        "LinearSigmoidDNI.*'0'.*LinearDNI",
    ),
    "hidden-size": (
        lambda: trained(mlp(), hidden_size=7).state_dict(),
        r"interfaces\./0.*\(7, 8\).*\(10, 8\)",
    ),
    "context": (
        lambda: DNI(mlp(), context_size=3).state_dict(),
        r"interfaces\./0.*\(10, 11\).*\(10, 8\)",
    ),
    "fewer-sites": (lambda: trained(mlp(), sites=["0"]).state_dict(), r"interfaces\./2.*missing"),
    "plain": (lambda: mlp().state_dict(), "missing"),
    "empty": (dict, "missing"),
}


def snapshot(net: DNI) -> dict[str, Any]:
    return copy.deepcopy(net.training_state())


def assert_snapshot(net: DNI, wanted: Any, found: Any = None, where: str = "") -> None:
    """Assert that nothing in a wrapper has changed: parameters, statistics, moments."""
    found = net.training_state() if found is None else found
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key, value in wanted.items():
            assert_snapshot(net, value, found[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, value in enumerate(wanted):
            assert_snapshot(net, value, found[index], f"{where}.{index}")
    elif isinstance(wanted, Tensor):
        assert torch.equal(found, wanted), where
    else:
        assert found == wanted or wanted is None, where


@pytest.mark.parametrize(
    ("make", "pattern"), [pytest.param(*row, id=name) for name, row in STATES.items()]
)
def test_a_state_of_another_architecture_is_refused_and_nothing_of_it_is_loaded(
    make: Callable[[], Any], pattern: str
) -> None:
    network = mlp()
    twin = trained(copy.deepcopy(network))
    net = trained(network)
    state = make()
    keys = list(state)
    before = snapshot(net)
    optimizers = net.optimizer, net.synthesizer_optimizer
    with pytest.raises(CheckpointError, match=f"(?s){pattern}"):
        net.load_state_dict(state)
    assert list(state) == keys
    assert_snapshot(net, before)
    assert (net.optimizer, net.synthesizer_optimizer) == optimizers
    assert_trains(net, twin=twin)


def test_a_state_that_does_not_fit_leaves_a_fresh_wrapper_as_it_was() -> None:
    block = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3))
    wrapper = DNI(block, skip_last_layer=True)
    state = trained(wide(), skip_last_layer=True).state_dict()
    with pytest.raises(CheckpointError):
        wrapper.load_state_dict(state)
    assert len(wrapper.interfaces) == 0
    assert wrapper.synthesizer_optimizer is None
    assert_trains(wrapper)


TRAINING_STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "model-only": (lambda: trained(mlp()).state_dict(), "lacks 'model'.*load_state_dict"),
    "empty": (dict, "lacks 'model', 'optimizer'"),
    "wider": (lambda: trained(wide()).training_state(), r"network\.0\.weight"),
    "deeper": (lambda: trained(deep()).training_state(), "sizes|site"),
    "other-optimizer": (lambda: trained(mlp(), optim="sgd").training_state(), "(?i)optimizer"),
    "other-synthesizer-optimizer": (
        lambda: trained(mlp(), optim="adam", grad_optim="sgd").training_state(),
        "(?i)optimizer",
    ),
    "no-synthesizer-optimizer": (
        lambda: trained(mlp(), train_synthesizers=False, lambda_=1).training_state(),
        "(?i)synthesizer",
    ),
}


@pytest.mark.parametrize(
    ("make", "pattern"), [pytest.param(*row, id=name) for name, row in TRAINING_STATES.items()]
)
def test_a_training_state_that_does_not_fit_is_refused_and_nothing_of_it_is_loaded(
    make: Callable[[], Any], pattern: str
) -> None:
    network = mlp()
    twin = trained(copy.deepcopy(network))
    net = trained(network)
    before = snapshot(net)
    state = make()
    with pytest.raises(CheckpointError, match=f"(?s){pattern}"):
        net.load_training_state(state)
    assert_snapshot(net, before)
    assert_trains(net, twin=twin)
