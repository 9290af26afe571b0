"""`update_probability`: each site learns in a step with this probability, synthesizer included."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, AttachmentError, ConfigError

SITES = ["0", "2", "4"]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def wrapped(**kwargs: Any) -> DNI:
    arguments = {"optim": "sgd", "grad_lr": 0.1, "λ": 0, "sites": SITES, "context_size": 3}
    return DNI(network(), "critic", **{**arguments, **kwargs})


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 6, generator=generator), torch.arange(8) % 3


def backward(net: DNI, seed: int = 0) -> float:
    x, y = batch(seed)
    loss = F.cross_entropy(net(x, context=y), y)
    loss.backward()
    return loss.item()


def values(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters() if "meter" not in name}


def moved(before: dict[str, Tensor], net: nn.Module) -> set[str]:
    return {name for name, value in values(net).items() if not torch.equal(before[name], value)}


def parts(site: str) -> tuple[str, str]:
    return f"network.{site}.", f"interfaces./{site}.synthesizer."


def learned(names: set[str], site: str) -> tuple[bool, bool]:
    """Whether the module and the synthesizer of a site are among what has moved."""
    module, synthesizer = parts(site)
    return (
        any(name.startswith(module) for name in names),
        any(name.startswith(synthesizer) for name in names),
    )


MODES = {
    "auto": {},
    "unlocked": {"unlock": "update"},
    "forward": {"unlock": "forward"},
    "manual": {"update": "manual"},
    "manual, unlocked": {"update": "manual", "unlock": "update"},
}


def step(net: DNI, seed: int = 0) -> None:
    backward(net, seed)
    if not net._updates.is_automatic:
        net.step()
        net.zero_grad()


@pytest.mark.parametrize("mode", MODES)
def test_a_probability_of_one_is_the_default_to_the_last_bit(mode: str) -> None:
    plain, sure = wrapped(**MODES[mode]), wrapped(update_probability=1, **MODES[mode])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for seed in range(4):
        step(plain, seed)
        step(sure, seed)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    assert moved(values(plain), sure) == set()


@pytest.mark.parametrize("mode", MODES)
def test_a_site_learns_as_drawn_module_and_synthesizer_alike(mode: str) -> None:
    net = wrapped(**MODES[mode])
    for seed in range(15):  # from here every synthesizer has something to say
        step(net, seed)
    net._updates.draw.probability = 0.5
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        expected = [x < 0.5 for x in torch.rand(len(SITES)).tolist()]
        torch.manual_seed(seed)
        before = values(net)
        step(net, seed)
        names = moved(before, net)
        assert [learned(names, site) for site in SITES] == [(x, x) for x in expected]
        assert {"network.6.weight", "network.6.bias"} <= names  # of no site
        seen.add(tuple(expected))
    assert len(seen) > 3


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_learns_the_same(mode: str) -> None:
    nets = [wrapped(update_probability=0.3, **MODES[mode]) for _ in range(2)]
    for net in nets:
        torch.manual_seed(5)
        for seed in range(8):
            step(net, seed)
    assert moved(values(nets[0]), nets[1]) == set()


def test_unlocked_and_locked_learning_are_drawn_alike() -> None:
    nets = [wrapped(update_probability=0.5, unlock=unlock) for unlock in ("none", "update")]
    for net in nets:
        torch.manual_seed(5)
        for seed in range(10):
            backward(net, seed)
    first, second = (values(net) for net in nets)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)


def test_about_that_share_of_the_steps_is_made() -> None:
    net = wrapped(update_probability=0.2)
    count = dict.fromkeys(SITES, 0)
    torch.manual_seed(0)
    for seed in range(300):
        before = values(net)
        backward(net, seed % 5)
        names = moved(before, net)
        for site in SITES:
            count[site] += learned(names, site)[0]
    for steps in count.values():  # 60 expected, standard deviation 7
        assert 30 < steps < 95


def test_a_momentum_does_not_move_a_site_that_is_left_out() -> None:
    net = wrapped(update_probability=0.4, optim=lambda p: torch.optim.Adam(p, weight_decay=0.1))
    torch.manual_seed(2)
    kept = 0
    for seed in range(12):
        before = values(net)
        backward(net, seed)
        names = moved(before, net)
        kept += sum(not learned(names, site)[0] for site in SITES)
    assert kept > 6


def test_an_outer_optimizer_leaves_the_site_out_and_a_new_step_draws_anew() -> None:
    net = wrapped(update_probability=0.5, update="manual")
    outer = torch.optim.Adam(net.parameters(), lr=0.01)  # nobody calls `net.step`
    torch.manual_seed(4)
    seen = set()
    for seed in range(12):
        before = values(net)
        outer.zero_grad()
        backward(net, seed)
        outer.step()
        names = moved(before, net)
        seen.add(tuple(learned(names, site)[0] for site in SITES))
    assert len(seen) > 3


def test_accumulated_passes_share_one_draw() -> None:
    net = wrapped(update_probability=0.5, update="manual")
    torch.manual_seed(4)
    for seed in range(6):
        net.zero_grad()
        backward(net, seed)
        first = net._updates.draw.idle
        backward(net, seed + 1)
        assert net._updates.draw.idle == first
        for site in SITES:
            assert (net.network.get_submodule(site).weight.grad is None) == (site in first)
        net.step()


def test_two_passes_for_one_backward_in_which_no_site_learns_change_no_synthesizer() -> None:
    net = wrapped(update_probability=0.01)
    backward(net)
    before = values(net.interfaces)
    torch.manual_seed(0)
    losses = [F.cross_entropy(net(x, context=y), y) for x, y in (batch(1), batch(2))]
    torch.stack(losses).sum().backward()
    assert not moved(before, net.interfaces)


def test_the_innermost_site_has_the_say() -> None:
    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    torch.manual_seed(0)
    net = DNI(nn.Sequential(block, nn.Linear(6, 3)), sites=["0", "0.0"], λ=1, grad_lr=0.1)
    net._updates.draw.probability = 0.5
    outcomes = set()
    for seed in range(16):
        torch.manual_seed(seed)
        drawn = [x < 0.5 for x in torch.rand(2).tolist()]
        torch.manual_seed(seed)
        before = block[0].weight.detach().clone()
        F.cross_entropy(net(batch(seed)[0]), batch(seed)[1]).backward()
        learns = not torch.equal(before, block[0].weight)
        assert learns == drawn[1]
        outcomes.add(tuple(drawn))
    assert len(outcomes) == 4


def test_copies_draw_too() -> None:
    net = wrapped(update_probability=0.5)
    backward(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for each in (net_copy := copy.deepcopy(net), other):
            torch.manual_seed(9)
            backward(each)
        assert moved(values(net_copy), other) == set()


@pytest.mark.parametrize("value", [0, -0.1, 1.5, True, "half", None, float("nan")])
def test_a_probability_that_cannot_work_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="`update_probability` is .*above 0"):
        wrapped(update_probability=value)


def test_processes_of_ddp_would_draw_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    ddp = nn.parallel.DistributedDataParallel
    monkeypatch.setattr(ddp, "_get_active_ddp_module", classmethod(lambda cls: object()))
    backward(wrapped(update_probability=1))
    with pytest.raises(AttachmentError, match="update_probability=1"):
        backward(wrapped(update_probability=0.5))
