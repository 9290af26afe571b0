"""Names of sites that are attributes of modules, contain separators, or are empty."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DNI

from .networks import assert_same, tensors


class Sum(nn.Module):
    """Adds up what its children, under any names, make of the input."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        for name in names:
            self._modules[name] = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return sum(child(x) for child in self._modules.values())


class Nested(nn.Module):
    """The same one level down."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.block, self.head = Sum(names), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


NAMES = {
    "attention": ["keys", "values", "queries"],
    "container": ["items", "pop", "update", "clear", "get"],
    "module": ["forward", "train", "eval", "type", "parameters", "to", "state_dict", "training"],
    "interfaces": ["make", "mix", "share", "sites", "discard", "set_share", "is_backprop"],
    "interface": ["synthesizer", "meter", "scale", "running", "interfaces", "network"],
    "separators": ["a/b", "a~b", "~", "/", "~0", "~1", "a~1b", "-", " ", "a b"],
    "hash": ["a#1", "#", "a#b#2", "a"],
    "clash": ["a/b", "a~1b", "a~0b", "a~b"],
    "unicode": ["λ", "größe", "層", "🙂"],
    "keywords": ["class", "None", "0", "1", "_private", "__dunder__", "_extra_state"],
}
X = torch.linspace(-1, 1, 8).view(2, 4)
each_list = pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)


def trained(network: nn.Module, **options: Any) -> DNI:
    net = DNI(network, **options)
    for _ in range(2):
        net(X).square().sum().backward()
    return net


def through_disk(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@each_list
@pytest.mark.parametrize("make", [Sum, Nested])
def test_every_name_trains_and_is_found(make: type[nn.Module], names: list[str]) -> None:
    net = trained(make(names), lambda_=dict.fromkeys([], 0.5))
    prefix = "" if make is Sum else "block."
    expected = {f"{prefix}{name}" for name in names} | (set() if make is Sum else {"head"})
    assert set(net.interfaces) == set(net.statistics()) == expected
    assert net.updates == 2
    for site in expected:
        assert site in net.interfaces
        assert net.interfaces[site].site == site
        assert net.statistics()[site]["true_norm"] > 0


@each_list
@pytest.mark.parametrize("make", [Sum, Nested])
def test_every_name_is_saved_and_loaded_before_any_forward(
    make: type[nn.Module], names: list[str]
) -> None:
    net = trained(make(names))
    state = through_disk(net.state_dict())
    other = DNI(make(names))
    other.load_state_dict(state)
    assert_same(tensors(other), tensors(net))
    assert other.statistics() == net.statistics()
    resumed = DNI(make(names))
    resumed.load_training_state(through_disk(net.training_state()))
    for module in (net, resumed):
        module(X).square().sum().backward()
    assert_same(tensors(resumed), tensors(net))


@each_list
def test_every_name_can_be_given_a_λ_a_synthesizer_and_be_chosen(names: list[str]) -> None:
    name = names[0]
    net = trained(Sum(names), lambda_={name: 0.0}, dni_network={name: "linear_sigmoid"})
    assert type(net.interfaces[name].synthesizer).__name__ == "LinearSigmoidDNI"
    chosen = trained(Sum(names), sites=[name])
    assert list(chosen.interfaces) == [name]


@pytest.mark.parametrize("options", [{"recursive": False}, {"sites": [""]}], ids=str)
def test_the_network_itself_may_be_the_site(options: dict[str, Any]) -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    net = trained(network, **options)
    assert list(net.statistics()) == [""]
    other = DNI(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), **options)
    other.load_state_dict(through_disk(net.state_dict()))
    assert_same(tensors(other), tensors(net))


def test_a_network_that_is_a_leaf_is_its_own_site() -> None:
    net = trained(nn.Linear(4, 3))
    assert list(net.statistics()) == [""]
    other = DNI(nn.Linear(4, 3))
    other.load_state_dict(through_disk(net.state_dict()))
    assert torch.equal(other(X), net(X))


def test_interfaces_made_on_the_first_pass_are_made_again_on_load() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x @ self.weight, x @ self.weight.square()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.keys = Own(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.values(x)
            return self.keys(a + b)

    net = trained(Wrapped())
    assert set(net.interfaces) == {"values", "values#1", "keys"}
    other = DNI(Wrapped())
    assert set(other.interfaces) == {"keys"}
    other.load_state_dict(through_disk(net.state_dict()))
    assert_same(tensors(other), tensors(net))
    assert set(other.interfaces) == {"values", "values#1", "keys"}


def test_keys_of_the_network_are_its_own_behind_one_prefix() -> None:
    network = Nested(["keys", "values"])
    keys = list(network.state_dict())
    net = trained(network)
    ours = [key for key in net.state_dict() if key.startswith("network.")]
    assert ours == [f"network.{key}" for key in keys]
    assert list(net.network.state_dict()) == keys
    plain = Nested(["keys", "values"])
    plain.load_state_dict(net.network.state_dict())
    assert torch.equal(plain(X), net.network(X))
    rest = [key for key in net.state_dict() if not key.startswith(("network.", "interfaces."))]
    assert rest == ["_extra_state"]


def test_loading_leaves_the_given_state_alone() -> None:
    net = trained(Nested(["keys", "values"]))
    state = net.state_dict()
    keys, metadata = list(state), dict(state._metadata)
    DNI(Nested(["keys", "values"])).load_state_dict(state)
    assert (list(state), dict(state._metadata)) == (keys, metadata)
