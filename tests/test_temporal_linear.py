"""A linear synthesizer in closed form against its own graph; and what learns in which window."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dni import LinearDNI, TemporalDNI
from dni.linear_map import linear_map_of

BATCH, INPUTS, UNITS = 4, 3, 5


def loss_of(output: Tensor) -> Tensor:
    return (output - 0.3).square().mean()


def interface_of(net: TemporalDNI) -> Any:
    return net.interfaces["state"]


def train(
    net: TemporalDNI, inputs: Tensor, *, done: Tensor | None = None, episode: int = 99
) -> list[bool]:
    """Train on windows; in which of them the synthesizer learned."""
    optimizer, state, learned = torch.optim.SGD(net.network.parameters(), lr=0.1), None, []
    for number, x in enumerate(inputs):
        labels = torch.arange(BATCH) % 2 if net.interfaces.context_size else None
        before = [p.clone() for p in interface_of(net).synthesizer.parameters()]
        output, state = net(x, state if number % episode else None, done=done, context=labels)
        optimizer.zero_grad()
        loss_of(output).backward()
        optimizer.step()
        after = interface_of(net).synthesizer.parameters()
        learned.append(any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
    return learned


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "without bias": {"dni_params": {"bias": False}},
    "with a context": {"context_size": 2},
    "without units": {"scale_targets": False, "limit": None},
    "without compression": {"compress": False},
    "shortened": {"limit": 0.01},
    "auxiliary": {"auxiliary": 0.5},
    "frozen": {"train_synthesizers": False},
    "scale 0": {"scale": 0.0},
    "every second": {"train_every": 2},
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_closed_form_is_the_graph_of_the_synthesizer(name: str, masked: bool) -> None:
    options = {"scale": 0.9, "grad_lr": 0.05, **OPTIONS[name]}
    net = TemporalDNI(nn.LSTM(INPUTS, UNITS).double(), **options)
    for parameter in interface_of(net).synthesizer.parameters():
        nn.init.normal_(parameter, std=0.2)
    twin = copy.deepcopy(net)
    calls: list[Any] = []
    interface_of(twin).synthesizer.register_forward_hook(lambda *args: calls.append(args))
    inputs = torch.randn(7, 3, BATCH, INPUTS, dtype=torch.float64)
    done = torch.tensor([False, True, False, False]) if masked else None
    train(net, inputs, done=done)
    train(twin, inputs, done=done)
    assert calls
    expected = twin.state_dict()
    for key, value in net.state_dict().items():
        if isinstance(value, Tensor):
            exact = 1e-9 if value.dtype == torch.float64 else 1e-5  # the meter is in single
            torch.testing.assert_close(value, expected[key], rtol=exact, atol=exact)


def test_the_closed_form_makes_no_graph_of_the_synthesizer() -> None:
    net, x = TemporalDNI(nn.GRU(INPUTS, UNITS)), torch.randn(2, BATCH, INPUTS)
    net(x)
    carry = net._seam.carry
    assert carry is not None
    assert carry.said is not None
    assert not carry.said.prediction.requires_grad
    assert not carry.said.seen.requires_grad


class Other(LinearDNI):
    """Its `forward` could be anything."""


def test_a_synthesizer_that_has_to_be_called_is_no_linear_map() -> None:
    like = torch.zeros(1, 3)
    assert linear_map_of(LinearDNI(3, 0, 3, num_layers=0), like) is not None
    assert linear_map_of(LinearDNI(3, 4, 3, num_layers=1), like) is None
    assert linear_map_of(Other(3, 0, 3, num_layers=0), like) is None
    assert linear_map_of(LinearDNI(3, 0, 3, num_layers=0), like.double()) is None
    assert linear_map_of(LinearDNI(3, 0, 3, num_layers=0).half(), like.half()) is None
    parametrized = LinearDNI(3, 0, 3, num_layers=0)
    parametrizations.weight_norm(parametrized.final)
    assert linear_map_of(parametrized, like) is None
    for listen in ("register_forward_hook", "register_forward_pre_hook"):
        for part in ("", "final"):
            heard = LinearDNI(3, 0, 3, num_layers=0)
            handle = getattr(heard.get_submodule(part), listen)(lambda *args: None)
            assert linear_map_of(heard, like) is None
            handle.remove()
            assert linear_map_of(heard, like) is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_map_of(LinearDNI(3, 0, 3, num_layers=0), like) is None


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize(
    ("every", "episode", "expected"),
    [
        (1, 99, [1, 2, 3, 4, 5, 6, 7]),
        (2, 99, [1, 3, 5, 7]),
        (3, 99, [1, 4, 7]),
        (1, 4, [1, 2, 3, 5, 6, 7]),
        (2, 2, [1, 3, 5, 7]),  # a window that begins an episode does not use up the turn
        (4, 4, [1, 5]),
    ],
)
def test_the_synthesizer_learns_in_one_of_so_many_windows(
    layers: int, every: int, episode: int, expected: list[int]
) -> None:
    net = TemporalDNI(
        nn.GRU(INPUTS, UNITS),
        scale_targets=False,  # else the first target is in units yet unknown
        train_every=every,
        dni_params={"num_layers": layers},
        hidden_size=8,
    )
    learned = train(net, torch.randn(8, 3, BATCH, INPUTS), episode=episode)
    assert [number for number, did in enumerate(learned) if did] == expected


class Watched(nn.GRU):
    """Notes whether a gradient of its start is asked for."""

    def forward(self, x: Tensor, state: Tensor | None = None) -> Any:  # type: ignore[override]
        self.asked = state is not None and state.requires_grad
        return super().forward(x, state)


def test_no_gradient_of_the_start_is_computed_where_nothing_learns() -> None:
    network = Watched(INPUTS, UNITS)
    net, state, asked, sent = TemporalDNI(network, train_every=3, scale=1.0), None, [], []
    for x in torch.randn(9, 3, BATCH, INPUTS):
        output, state = net(x, state)
        asked.append(network.asked)
        gradient = net._seam.future.gradient
        assert gradient is not None
        sent.append(bool(gradient.any()))
        loss_of(output).backward()
    assert [number for number, was in enumerate(asked) if was] == [1, 4, 7]
    assert all(sent[5:])  # what is known is used in every window


def test_a_turn_that_is_owed_is_saved() -> None:
    def make() -> TemporalDNI:
        return TemporalDNI(nn.GRU(INPUTS, UNITS), scale_targets=False, train_every=3)

    net, inputs = make(), torch.randn(7, 3, BATCH, INPUTS)
    assert train(net, inputs[:5], episode=4) == [False, True, False, False, False]
    resumed = make()
    resumed.load_training_state(net.training_state())
    carry = net._seam.carry
    assert carry is not None
    for wrapper in (net, resumed):
        before = interface_of(wrapper).synthesizer.final.weight.clone()
        output, _ = wrapper(inputs[5], carry.rows[None])
        loss_of(output).backward()
        assert not torch.equal(before, interface_of(wrapper).synthesizer.final.weight)
    assert torch.equal(
        interface_of(net).synthesizer.final.weight, interface_of(resumed).synthesizer.final.weight
    )
