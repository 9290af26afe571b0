"""Sites that return views, their own input or a parameter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from .networks import assert_is_backprop, assert_mixes


class Site(nn.Module):
    """A layer whose output goes through a function that makes a view of it."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        return self.view(x @ self.weight)


class Weight(nn.Module):
    """Returns the parameter itself, as position embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda h: h.view(5, 2, 3),
    "transpose": lambda h: h.t(),
    "slice": lambda h: h[1:, ::2],
    "expand": lambda h: h.unsqueeze(1).expand(5, 3, 6),
    "unfold": lambda h: h.unfold(1, 3, 1),
    "diagonal": lambda h: h.diagonal().unsqueeze(0),
}


@pytest.mark.parametrize("is_written", [False, True], ids=["read", "written"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_gradients_are_mixed_at_a_view(view: Callable[[Tensor], Tensor], is_written: bool) -> None:
    network = nn.Sequential(Site(view), nn.ReLU(inplace=is_written)).double()
    x = torch.randn(5, 4, dtype=torch.float64)

    def run(net: nn.Module) -> Tensor:
        out = net(x)
        return (out * torch.linspace(-1, 1, out.numel()).view_as(out)).square().sum()

    assert_mixes(network, run)


@pytest.mark.parametrize("view", [v for k, v in VIEWS.items() if k != "expand"])
def test_three_steps_through_a_view_are_backprop(view: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(5, 4)
    assert_is_backprop(
        nn.Sequential(Site(view), nn.ReLU(inplace=True)), lambda net: net(x).square().sum()
    )


def test_views_of_one_tensor_in_a_tuple_may_be_written_into() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = Site(lambda h: h.chunk(2, dim=1))

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.parts(x)  # without an interface torch refuses to write into these
            return a.relu_() * b.sigmoid_()

    x = torch.randn(5, 4, dtype=torch.float64)
    assert_mixes(Halves().double(), lambda net: net(x).square().sum())


def test_a_site_may_return_its_input() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Identity(), nn.ReLU(inplace=True)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert_mixes(network, lambda net: net(x).square().sum(), sites=["0", "1"])


def test_a_site_may_return_a_parameter() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.head = Weight(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.positions(x) + x)

    x = torch.randn(5, 6, dtype=torch.float64)
    network = Positions().double()
    before = network.positions.weight.clone()
    assert_mixes(network, lambda net: net(x).square().sum())
    assert_is_backprop(network, lambda net: net(x).square().sum())
    assert torch.equal(network.positions.weight, before)


@pytest.mark.parametrize("layer", [nn.Flatten(), nn.Flatten(2), nn.Unflatten(1, (2, 1))])
def test_flatten_and_unflatten_may_be_sites(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.ReLU(inplace=True)).double()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    assert_mixes(network, lambda net: net(x).square().sum(), sites=["0", "1"])
