"""The closed form of a critic is what autograd makes of the same critic, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, CriticDNI
from dni.closed_form import head_of

CRITERIA = ["cross_entropy", "mse", "binary_cross_entropy"]


def made(criterion: str, unlock: str = "none", share: float = 0.0, sobolev: float = 0.0) -> DNI:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Sequential(nn.Linear(6, 7), nn.Tanh()),
        nn.Sequential(nn.Linear(7, 8), nn.Tanh()),
        nn.Linear(8, 3),
    ).double()
    return DNI(
        network,
        dni_network="critic",
        dni_params={"criterion": criterion, "sobolev": sobolev},
        context_size=3,
        grad_lr=0.05,
        optim="sgd",
        lambda_=share,
        sites=["0", "1"],
        unlock=unlock,
    )


def listened(net: DNI) -> DNI:
    """The same wrapper on the path that every synthesizer takes: somebody listens to its calls."""
    for interface in net.interfaces.values():
        interface.synthesizer.register_forward_hook(lambda *_: None)
        assert head_of(interface.synthesizer) is None
    return net


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(9, 6, dtype=torch.float64, generator=generator),
            torch.randint(0, 3, (9,), generator=generator),
        )
        for _ in range(count)
    ]


def trained(net: DNI, steps: int = 12) -> DNI:
    for value, label in batches(steps):
        nn.functional.cross_entropy(net(value, context=label), label).backward()
    return net


@pytest.mark.parametrize("sobolev", [0.0, 0.2])
@pytest.mark.parametrize("unlock", ["none", "update"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_it_trains_networks_and_synthesizers_alike(
    criterion: str, share: float, unlock: str, sobolev: float
) -> None:
    if unlock == "update" and share:
        pytest.skip("unlocking is for λ = 0")
    closed, plain = (made(criterion, unlock, share, sobolev) for _ in range(2))
    trained(closed, 1), trained(plain, 1)  # the interfaces are there now
    for interface in closed.interfaces.values():
        assert head_of(interface.synthesizer) is not None
    trained(closed), trained(listened(plain))
    expected = dict(plain.named_parameters())
    moved = False
    for name, parameter in closed.named_parameters():
        # ρ and λ are kept in single precision, and their rounding differs between the two ways.
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-6)
        moved = moved or ("gain" in name and bool(parameter))
    assert moved
    for site, told in plain.statistics().items():
        assert closed.statistics()[site] == pytest.approx(told, rel=1e-3, abs=1e-6)


def test_positions_of_a_sequence_each_have_a_target() -> None:
    torch.manual_seed(0)
    results = []
    for prepare in (lambda net: net, listened):
        torch.manual_seed(1)
        net = DNI(
            nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(),
            dni_network="critic",
            context_size=3,
            sites=["0"],
            lambda_=0.0,
        )
        generator = torch.Generator().manual_seed(2)
        for step in range(6):
            value = torch.randn(2, 7, 4, dtype=torch.float64, generator=generator)
            label = torch.randint(0, 3, (2, 7), generator=generator)
            with net.context(label):
                out = net(value)
            nn.functional.cross_entropy(out.flatten(0, 1), label.flatten()).backward()
            if step == 0:
                prepare(net)
        results.append([p.detach() for p in net.parameters()])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_an_in_place_consumer_does_not_change_what_the_critic_saw() -> None:
    results = []
    for inplace in (False, True):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 3))
        net = DNI(network, dni_network="critic", context_size=3, sites=["0"], lambda_=0.0)
        for _ in range(5):
            label = torch.randint(0, 3, (8,))
            nn.functional.cross_entropy(net(torch.randn(8, 4), context=label), label).backward()
        results.append([p.detach() for p in net.parameters()])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize(
    "critic",
    [
        CriticDNI(4, 3, 4, context_size=3, num_layers=1),
        CriticDNI(4, 0, 4, context_size=3, maps=True),
        CriticDNI(4, 0, 4, context_size=3, criterion=nn.functional.cross_entropy),
        CriticDNI(4, 0, 4, context_size=3).half(),
    ],
    ids=["hidden layer", "maps", "own criterion", "half precision"],
)
def test_where_it_does_not_hold_autograd_does_it(critic: CriticDNI) -> None:
    assert head_of(critic) is None


@pytest.mark.parametrize("gain", [800.0, -800.0])
@pytest.mark.parametrize("unlock", ["none", "update"])
def test_a_gain_that_runs_away_raises_nothing(unlock: str, gain: float) -> None:
    net = trained(made("cross_entropy", unlock, sobolev=0.2), 2)
    synthesizer = net.interfaces.values()[0].synthesizer
    with torch.no_grad():
        synthesizer.get_parameter("gain").fill_(gain)
    trained(net, 1)
    assert net.updates == 3
