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


def test_a_synthesizer_that_has_to_be_called_is_no_linear_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    with monkeypatch.context() as within:
        within.setattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", object())
        assert linear_map_of(LinearDNI(3, 0, 3, num_layers=0), like) is None
    for listen in ("register_hook", "register_post_accumulate_grad_hook"):
        for name in ("weight", "bias"):
            awaited = LinearDNI(3, 0, 3, num_layers=0)
            handle = getattr(getattr(awaited.final, name), listen)(lambda tensor: None)
            assert linear_map_of(awaited, like) is None
            handle.remove()
            assert linear_map_of(awaited, like) is not None


def test_hooks_of_the_synthesizer_are_called() -> None:
    net = TemporalDNI(nn.LSTM(INPUTS, UNITS))
    seen: list[Tensor] = []
    interface_of(net).synthesizer.final.weight.register_hook(seen.append)
    train(net, torch.randn(4, 3, BATCH, INPUTS))
    assert len(seen) == 3  # all windows but the one that begins the episode


@pytest.mark.parametrize("layers", [0, 1])
def test_a_state_that_asks_for_its_gradient_gets_it(layers: int) -> None:
    network = nn.GRU(INPUTS, UNITS)
    options: dict[str, Any] = {"dni_params": {"num_layers": layers}, "scale_targets": False}
    net = TemporalDNI(network, scale=0.0, **options)
    first, second = torch.randn(2, 3, BATCH, INPUTS)
    _, state = net(first)
    state.requires_grad_()
    before = interface_of(net).synthesizer.final.weight.clone()
    output, _ = net(second, state)
    loss_of(output).backward()
    leaf = state.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(network(second, leaf)[0]), leaf)
    torch.testing.assert_close(state.grad, expected)
    assert not torch.equal(before, interface_of(net).synthesizer.final.weight)


def test_gradients_of_the_users_own_teach_nothing() -> None:
    net, twin = (TemporalDNI(nn.GRU(INPUTS, UNITS), scale_targets=False) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    first, second = torch.randn(2, 3, BATCH, INPUTS)
    for wrapper in (net, twin):
        _, state = wrapper(first)
        output, _ = wrapper(second, state)
        if wrapper is net:
            torch.autograd.grad(loss_of(output), list(net.network.parameters()), retain_graph=True)
            assert net.updates == 0
        loss_of(output).backward()
        assert wrapper.updates == 1
    for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_every_backward_pass_through_a_window_teaches() -> None:
    net = TemporalDNI(nn.GRU(INPUTS, UNITS), update="manual", scale=0.0)
    final = interface_of(net).synthesizer.final
    nn.init.normal_(final.bias)  # so that even without units there is something to learn
    first, second = torch.randn(2, 3, BATCH, INPUTS)
    _, state = net(first)
    output, _ = net(second, state)
    loss_of(output).backward(retain_graph=True)
    once = final.weight.grad.clone()
    loss_of(output).backward()
    assert once.any()
    torch.testing.assert_close(final.weight.grad, 2 * once)


def test_a_synthesizer_learns_beside_a_frozen_network() -> None:
    net, head = TemporalDNI(nn.GRU(INPUTS, UNITS), scale_targets=False), nn.Linear(UNITS, 1)
    net.network.requires_grad_(False)
    state = None
    for x in torch.randn(3, 3, BATCH, INPUTS):
        output, state = net(x, state)
        loss_of(head(output)).backward()
    assert interface_of(net).synthesizer.final.weight.any()


class InPlace(nn.Module):
    """A user's module that writes to the state it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(INPUTS, UNITS)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        state = x.new_zeros(x.shape[1], UNITS) if state is None else state.mul_(0.9)
        outputs = []
        for step in x:
            state = self.cell(step, state)
            outputs.append(state)
        return torch.stack(outputs), state


def test_a_module_may_write_to_the_state_it_is_given() -> None:
    net = TemporalDNI(InPlace(), scale_targets=False)
    net(torch.randn(3, BATCH, INPUTS))  # which makes its interface
    assert train(net, torch.randn(4, 3, BATCH, INPUTS)) == [False, True, True, True]


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
        gradients = net._seam.future.gradients
        assert gradients is not None
        sent.append(bool(gradients[0].any()))
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


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_wrapper_trains_as_before() -> None:
    results = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        net = TemporalDNI(nn.GRU(4, 5))
        run = net
        state = None
        for step in range(5):
            if step == 2 and is_compiled:  # the first windows show what the state is
                run = torch.compile(net, backend="eager")
            out, state = run(torch.randn(3, 2, 4), state)
            out.square().mean().backward()
        assert net.updates == 5
        results.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*results)


class Telling(nn.Module):
    """Keeps what it computed where a loss finds it without the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)
        self.inner = torch.empty(0)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.inner = state = self.cell(x, state)
        return state * 1, state


def test_a_loss_that_goes_by_the_outputs_teaches_as_well() -> None:
    torch.manual_seed(0)
    net, state = TemporalDNI(Telling()), torch.zeros(2, 5)
    for _ in range(4):
        _, state = net(torch.randn(2, 4), state)
        net.network.inner.square().mean().backward()
    (interface,) = net.interfaces.values()
    assert net.updates == 4
    assert interface.running.any()
    assert any(p.any() for p in interface.synthesizer.parameters())
