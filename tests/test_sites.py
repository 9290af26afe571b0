"""Which modules become sites, and what sites are called on disk."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dni import DNI
from dni.errors import SiteError
from dni.sites import escape, find_sites, unescape

AWKWARD = [
    "keys",
    "values",
    "items",
    "forward",
    "type",
    "train",
    "a#1",
    "a~b",
    "~",
    "a/b",
    "~0",
    "λ",
    "a b",
    "#",
]


def network() -> nn.Sequential:
    block = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU())
    return nn.Sequential(OrderedDict(body=block, tail=nn.Linear(6, 2)))


def test_every_leaf_with_trainable_parameters_is_a_site_in_the_order_of_the_network() -> None:
    found = find_sites(network())
    assert list(found) == ["body.0", "body.1", "tail"]
    assert isinstance(found["tail"], nn.Linear)


def test_frozen_leaves_are_no_sites() -> None:
    net = network()
    net.body[0].requires_grad_(False)
    net.body[1].weight.requires_grad_(False)  # its bias still learns
    assert list(find_sites(net)) == ["body.1", "tail"]


def test_a_network_that_is_a_leaf_itself_is_its_site() -> None:
    assert list(find_sites(nn.Linear(2, 2))) == [""]


def test_the_network_is_the_only_site_when_not_recursive() -> None:
    net = network()
    assert find_sites(net, recursive=False) == {"": net}


def test_a_shared_module_is_one_site_under_its_first_name() -> None:
    shared = nn.Linear(4, 4)
    assert list(find_sites(nn.Sequential(shared, nn.Sequential(shared), nn.Linear(4, 1)))) == [
        "0",
        "2",
    ]


def test_a_parametrized_module_is_a_leaf() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 1))
    assert list(find_sites(net)) == ["0", "1"]


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("tail", ["tail"]),
        (["tail", "body"], ["body", "tail"]),
        (nn.Linear, ["body.0", "tail"]),
        ([nn.LayerNorm, "tail"], ["body.1", "tail"]),
        ([nn.Module], ["", "body", "body.0", "body.1", "body.2", "tail"]),
        (lambda name, module: name.endswith("2"), ["body.2"]),
        (lambda name, module: isinstance(module, nn.Sequential), ["", "body"]),
        (iter(["tail"]), ["tail"]),
        ({"body"}, ["body"]),
    ],
    ids=["name", "names", "type", "mixed", "base", "predicate", "blocks", "iterator", "set"],
)
def test_sites_may_be_names_types_or_a_predicate(sites: Any, expected: list[str]) -> None:
    assert list(find_sites(network(), sites=sites)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["body", "tail"]),
        ("body.*", ["body.0", "body.1", "body.2"]),
        ("b?dy.[01]", ["body.0", "body.1"]),
    ],
)
def test_a_pattern_names_modules_of_one_level(pattern: str, expected: list[str]) -> None:
    assert list(find_sites(network(), sites=pattern)) == expected


def test_a_pattern_that_fits_nothing_is_told() -> None:
    with pytest.raises(SiteError, match=r"names 'bdy\*', which is no module"):
        find_sites(network(), sites=["bdy*"])


def test_blocks_inside_chosen_blocks_each_have_an_interface() -> None:
    net = DNI(network(), sites=["body", "body.0", ""])
    net(torch.randn(3, 4)).sum().backward()
    assert sorted(net.interfaces) == ["", "body", "body.0"]
    assert all(found["true_norm"] > 0 for found in net.statistics().values())


@pytest.mark.parametrize(
    "site", ["", "a", "a.b", "layer1.0.conv1", "0", *AWKWARD, "a.~.b", "~1", "~01", "a/b.c~d"]
)
def test_a_name_comes_back_from_its_key(site: str) -> None:
    assert unescape(escape(site)) == site
    assert "." not in escape(site)
    assert not hasattr(nn.Module(), escape(site))


def test_different_names_have_different_keys() -> None:
    names = ["", "a.b", "a/b", "a~1b", "a~b", "a~0b", "~", "~0", "~1", "/", "//", "a/.b", "a./b"]
    assert len({escape(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_site_may_have_any_name_torch_allows(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Linear(3, 3)
            setattr(self, name, nn.Linear(3, 3))

        def forward(self, input: Tensor) -> Tensor:
            return self._modules[name](self.x(input))

    def wrap() -> DNI:
        return DNI(Named())

    net = wrap()
    for _ in range(2):
        net(torch.randn(4, 3)).square().mean().backward()
    assert list(net.interfaces) == ["x", name]
    assert name in net.interfaces
    assert net.interfaces[name].site == name
    assert net.statistics()[name]["true_norm"] > 0
    other = wrap()
    other.load_training_state(net.training_state())
    assert other.statistics() == net.statistics()
