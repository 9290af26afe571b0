"""λ: what it may be, when it changes, and that each site gets its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dni import DNI, DNINetwork
from dni.mixing import lambda_at

SITES = ["0", "2"]


class Constant(DNINetwork):
    """Answers 5 everywhere."""

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        return torch.full_like(input, 5.0), hidden


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def wrap(share: Any, **options: Any) -> DNI:
    """A wrapper whose synthetic gradient is 5 everywhere, and its true one 1 at the last site."""
    options = {"scale_targets": False, "optim": "sgd", "update": "manual", **options}
    return DNI(mlp(), Constant, λ=share, **options)


def arriving(net: DNI) -> float:
    """The gradient that arrives in the last layer: λ · 1 + (1 − λ) · 5."""
    net.zero_grad()
    net(torch.zeros(1, 3)).sum().backward()
    found = net.network[2].bias.grad
    assert found is not None
    assert found[0] == found[1]
    return float(found[0])


@pytest.mark.parametrize(
    "value", [0, 1, 0.25, True, np.float32(0.5), np.float64(0.1), np.int64(1)], ids=repr
)
def test_any_real_number_from_0_to_1_is_a_share(value: Any) -> None:
    assert lambda_at(value, 0, SITES) == {"0": float(value), "2": float(value)}


def test_a_mapping_leaves_half_to_the_sites_it_does_not_name() -> None:
    assert lambda_at({"2": 1}, 0, SITES) == {"0": 0.5, "2": 1.0}
    assert lambda_at({}, 0, SITES) == {"0": 0.5, "2": 0.5}


def test_a_function_of_the_update_may_return_a_number_or_a_mapping() -> None:
    assert lambda_at(lambda updates: updates / 4, 3, SITES) == {"0": 0.75, "2": 0.75}
    assert lambda_at(lambda updates: {"0": updates / 4}, 1, SITES) == {"0": 0.25, "2": 0.5}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_mixed_gradient_is_the_weighted_sum(share: float) -> None:
    assert arriving(wrap(share)) == share * 1 + (1 - share) * 5


@pytest.mark.parametrize("name", ["λ", "lambda_"])
def test_both_spellings_set_the_share_in_the_constructor_and_later(name: str) -> None:
    net = DNI(mlp(), Constant, scale_targets=False, update="manual", **{name: 0.25})
    assert net.λ == net.lambda_ == 0.25
    assert arriving(net) == 4.0
    setattr(net, name, 1.0)
    assert net.λ == net.lambda_ == 1.0
    assert arriving(net) == 1.0
    setattr(net, name, {"2": 0.75})
    assert arriving(net) == 2.0


def test_a_schedule_counts_the_updates_and_not_the_passes() -> None:
    net = wrap(lambda updates: (0.0, 0.5, 1.0)[updates])
    assert [arriving(net), arriving(net)] == [5.0, 5.0]
    net.step()
    assert [arriving(net), arriving(net)] == [3.0, 3.0]
    net.step()
    assert arriving(net) == 1.0
    assert net.updates == 2


def test_a_schedule_does_what_setting_the_share_by_hand_does() -> None:
    def schedule(updates: int) -> float | dict[str, float]:
        return 1 - updates / 6 if updates < 4 else {"0": 0.0, "2": updates / 10}

    network = mlp()
    by_hand = DNI(copy.deepcopy(network))
    scheduled = DNI(network, λ=schedule)
    input = torch.randn(6, 3)
    for updates in range(8):
        by_hand.λ = schedule(updates)
        for net in (by_hand, scheduled):
            net(input).square().mean().backward()
    assert scheduled.updates == by_hand.updates == 8
    for (name, a), b in zip(
        scheduled.state_dict().items(), by_hand.state_dict().values(), strict=True
    ):
        assert not isinstance(a, Tensor) or torch.equal(a, b), name


def test_a_schedule_goes_on_where_a_loaded_state_stopped() -> None:
    def schedule(updates: int) -> float:
        return (0.0, 0.5, 1.0)[updates]

    net = wrap(schedule)
    arriving(net)
    net.step()
    fresh = wrap(schedule)
    fresh.load_state_dict(net.state_dict())
    assert fresh.updates == 1
    assert arriving(fresh) == 3.0


def test_a_share_set_between_forward_and_backward_does_not_break_the_pass() -> None:
    net = wrap(0.0)
    loss = net(torch.zeros(1, 3)).sum()
    net.λ = 0.5
    loss.backward()
    assert net.network[2].bias.grad is not None
    assert arriving(net) == 3.0


@pytest.mark.parametrize("low", [0.0, 0.5])
def test_each_site_mixes_by_its_own_share(low: float) -> None:
    net = wrap({"0": low, "2": 1.0})
    input = torch.zeros(1, 3)
    net(input).sum().backward()
    network: nn.Sequential = net.network
    true = (1 - network[0](input).tanh() ** 2) * network[2].weight.sum(0)
    wanted = low * true + (1 - low) * 5
    found = network[0].bias.grad
    assert found is not None
    torch.testing.assert_close(found, wanted[0].detach())
    assert torch.equal(network[2].bias.grad, torch.ones(2))


SCHEDULES: dict[str, Callable[[int], Any]] = {
    "constant": lambda updates: 0.25,
    "mapping": lambda updates: {"2": 0.25},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_counts_from_zero_in_the_constructor(name: str) -> None:
    assert arriving(wrap(SCHEDULES[name])) == 4.0
