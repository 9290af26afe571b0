"""What windows with synthetic gradients promise beside the gradients of an exact synthesizer."""

from __future__ import annotations

import copy
import io
import pickle
import resource
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import TemporalDNI
from dni.states import Form, rebuilt, tensors_in
from test_temporal import BATCH, INPUTS, NETWORKS, UNITS, WINDOW, Loop, run


def windows(count: int, *, length: int = WINDOW, batch: int = BATCH) -> list[Tensor]:
    return list(torch.randn(count, length, batch, INPUTS))


def loss_of(output: Tensor) -> Tensor:
    return (output - 0.3).square().mean()


def interface_of(net: TemporalDNI) -> Any:
    return net.interfaces["state"]


def teach(net: TemporalDNI) -> None:
    """Give the synthesizer weights that say something."""
    interface = interface_of(net)
    with torch.no_grad():
        for parameter in interface.synthesizer.parameters():
            parameter.normal_(std=0.1)
        interface.scale.fill_(0.5)
        interface.inverse_scale.fill_(2.0)


def sent_by(net: TemporalDNI) -> Tensor:
    """The synthetic gradient at the last window's end, a row for each sequence."""
    future = net._seam.future
    assert future.gradients is not None
    assert future.form is not None
    return future.form.join(future.gradients)


def detached(state: Any) -> Any:
    return rebuilt(state, [t.detach() for t in tensors_in(state)])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("has_optim", [False, True])
@pytest.mark.parametrize("name", [name for name in NETWORKS if "batch first" not in name])
def test_scale_0_is_truncated_backpropagation_bit_for_bit(name: str, has_optim: bool) -> None:
    network = NETWORKS[name]()
    twin = copy.deepcopy(network)
    net = TemporalDNI(network, scale=0.0, optim="sgd" if has_optim else None, grad_lr=0.1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    twins = torch.optim.SGD(twin.parameters(), lr=0.1)
    state = twin_state = None
    for x in windows(5, length=1 if name.endswith("Cell") else WINDOW):
        x = x[0] if name.endswith("Cell") else x
        output, state = net(x, state)
        if not has_optim:
            optimizer.zero_grad()
        loss_of(output).backward()
        if not has_optim:
            optimizer.step()
        expected, twin_state = run(twin, x, None if twin_state is None else detached(twin_state))
        twins.zero_grad()
        loss_of(expected).backward()
        twins.step()
        assert torch.equal(output, expected)
        for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
            assert torch.equal(parameter, other)


def test_the_first_synthetic_gradient_is_zero_and_later_ones_are_not() -> None:
    net = TemporalDNI(nn.GRU(INPUTS, UNITS), scale=1.0)
    state, sent = None, []
    for x in windows(5):
        output, state = net(x, state)
        sent.append(sent_by(net))
        loss_of(output).backward()
    assert not sent[0].any()
    assert not sent[1].any()  # before the first target its scale is unknown
    assert sent[-1].any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layers", [0, 1])
def test_the_synthesizer_gets_the_gradient_of_its_regression(layers: int, masked: bool) -> None:
    network = nn.LSTM(INPUTS, UNITS, num_layers=2)
    net = TemporalDNI(network, dni_params={"num_layers": layers}, update="manual", scale=0.7)
    teach(net)
    first, second = windows(2)
    goes_on = torch.tensor([True, False, True, not masked])
    _, state = net(first, None, done=~goes_on if masked else None)
    form = Form(state, 1)
    last = form.join(state)
    if not masked:
        goes_on = torch.ones(BATCH, dtype=torch.bool)
    output, _ = net(second, state)
    sent = sent_by(net)
    loss_of(output).backward()

    # The same with plain autograd.
    leaves = [t.clone().requires_grad_() for t in state]
    expected, end = network(second, tuple(leaves))
    total = loss_of(expected) + (form.join(end) * sent).sum()
    target = form.join(torch.autograd.grad(total, leaves))[goes_on] / 0.5
    synthesizer = interface_of(net).synthesizer
    prediction = synthesizer(last.asinh(), None)[0][goes_on]
    loss = (prediction - target).square().sum(1).mean()
    wanted = torch.autograd.grad(loss, list(synthesizer.parameters()))
    for parameter, gradient in zip(synthesizer.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)
    net.step()
    count = goes_on.sum() * target.shape[1]
    rms = (target * 0.5).square().sum().div(count).sqrt()
    torch.testing.assert_close(interface_of(net).scale, rms, rtol=1e-4, atol=0)


def test_the_auxiliary_task_trains_the_network_and_its_head() -> None:
    network = nn.GRU(INPUTS, UNITS)
    net = TemporalDNI(network, scale=0.0, auxiliary=0.6, update="manual")
    teach(net)
    (x,) = windows(1)
    net(x)
    assert net.auxiliary_head is not None
    nn.init.normal_(net.auxiliary_head.weight)
    output, _ = net(x)
    target = net._seam.future.target
    assert target is not None
    loss_of(output).backward()
    head = net.auxiliary_head
    plain = network(x)[0]
    total = loss_of(plain) + 0.6 * F.mse_loss(head(plain), target.expand(WINDOW, -1, -1))
    parameters = [*network.parameters(), *head.parameters()]
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)


def test_the_synthetic_gradient_adds_up_over_the_windows_to_come() -> None:
    class Sum(nn.Module):
        """The state is a running sum, so that each later loss has gradient 1 in it."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
            state = self.weight * x + (torch.zeros_like(x) if state is None else state)
            return state, state

    net = TemporalDNI(Sum(), scale=0.5, grad_lr=0.01)
    state = None
    for _ in range(400):
        output, state = net(torch.ones(3, 2), state)
        output.sum().backward()
    found = interface_of(net)
    learned = found.scale * found.predict(state)
    torch.testing.assert_close(learned, torch.full((3, 2), 2.0), rtol=0.1, atol=0)  # 1 + ½ + ¼ …
    statistics = net.statistics()["state"]
    assert statistics["cosine"] > 0.99
    assert statistics["relative_error"] < 0.1


@pytest.mark.parametrize("how", ["end_episode", "done", "end_episode(done)"])
def test_an_ended_episode_expects_nothing_and_trains_nothing(how: str) -> None:
    network = nn.LSTM(INPUTS, UNITS)
    net = TemporalDNI(network, scale=1.0, update="manual")
    teach(net)
    (x,) = windows(1)
    every = torch.ones(BATCH, dtype=torch.bool)
    output, state = net(x, None, done=every if how == "done" else None)
    if how != "done":
        net.end_episode(*([every] if "done" in how else []))
    loss_of(output).backward()
    for parameter, gradient in zip(
        network.parameters(),
        torch.autograd.grad(loss_of(network(x)[0]), list(network.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(parameter.grad, gradient)
    output, _ = net(x, state)
    loss_of(output).backward()
    assert all(p.grad is None for p in interface_of(net).synthesizer.parameters())


def test_a_state_of_one_tensor_that_is_written_to_does_not_go_on() -> None:
    net, (x,) = TemporalDNI(nn.GRU(INPUTS, UNITS), update="manual"), windows(1)
    _, state = net(x)
    state.zero_()
    output, _ = net(x, state)
    loss_of(output).backward()
    assert interface_of(net)._heard is None


@pytest.mark.parametrize("change", ["clone", "in place", "loaded", "other"])
def test_a_state_goes_on_by_its_values(change: str) -> None:
    net = TemporalDNI(nn.LSTM(INPUTS, UNITS), update="manual")
    (x,) = windows(1)
    _, (h, c) = net(x)
    if change == "clone":
        h = h.clone()
    elif change == "in place":
        h[:, :2] = 0
    elif change == "loaded":
        buffer = io.BytesIO()
        torch.save((h, c), buffer)
        buffer.seek(0)
        h, c = torch.load(buffer)
    else:
        h, c = torch.randn_like(h), torch.randn_like(c)
    output, _ = net(x, (h, c))
    loss_of(output).backward()
    meter = interface_of(net)._heard
    rows = {"clone": BATCH, "in place": BATCH - 2, "loaded": BATCH, "other": 0}[change]
    assert (0 if meter is None else round(float(meter[3]) * 2**40)) == rows * 2 * UNITS


def test_a_learned_start_gets_its_gradient() -> None:
    network = nn.GRU(INPUTS, UNITS)
    net = TemporalDNI(network)
    first, second = windows(2)
    start = torch.zeros(1, BATCH, UNITS, requires_grad=True)
    output, state = net(first, start)
    loss_of(output).backward()
    (expected,) = torch.autograd.grad(loss_of(network(first, start)[0]), start)
    torch.testing.assert_close(start.grad, expected)
    start.grad = None
    ended = torch.tensor([True, False, False, True])
    net.end_episode(ended)
    output, _ = net(second, torch.where(ended[:, None], start, state))
    loss_of(output).backward()
    assert start.grad is not None
    assert [bool(row.any()) for row in start.grad[0]] == ended.tolist()


def test_gradients_of_several_windows_add_up() -> None:
    network = nn.LSTM(INPUTS, UNITS)
    net, state = TemporalDNI(network, scale=0.0), None
    expected = [torch.zeros_like(p) for p in network.parameters()]
    for x in windows(3):
        before = None if state is None else detached(state)
        output, state = net(x, state)
        loss_of(output).backward()
        grads = torch.autograd.grad(loss_of(network(x, before)[0]), list(network.parameters()))
        expected = [a + b for a, b in zip(expected, grads, strict=True)]
    assert net.updates == 3
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_one_backward_through_several_windows() -> None:
    net = TemporalDNI(nn.LSTMCell(INPUTS, UNITS), scale=1.0)
    for _ in range(4):
        state, losses = None, []
        for x in windows(5, length=1):
            output, state = net(x[0], state)
            losses.append(loss_of(output))
        net.end_episode()
        torch.stack(losses).sum().backward()
    net.eval()
    assert net.updates == 4
    assert net.statistics()["state"]["true_norm"] > 0


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("done", [True, numpy.True_, torch.ones(BATCH, dtype=torch.bool)])
def test_a_last_window_asks_nothing_and_trains_as_if_it_had(done: Any, layers: int) -> None:
    net = TemporalDNI(nn.LSTM(INPUTS, UNITS), scale=0.8, dni_params={"num_layers": layers})
    twin = copy.deepcopy(net)
    asked: list[Any] = []
    for each, is_told in ((net, True), (twin, False)):
        torch.manual_seed(1)
        for _ in range(3):
            state = None
            for number, x in enumerate(windows(3)):
                is_last = number == 2
                output, state = each(x, state, done=done if is_last and is_told else False)
                asked.append(each._seam.future.gradients)
                if is_last and not is_told:
                    each.end_episode()
                loss_of(output).backward()
                with torch.no_grad():
                    for parameter in each.network.parameters():
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
    assert [number for number, gradients in enumerate(asked) if gradients is None][:3] == [2, 5, 8]
    for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_optim_is_stepped_and_cleared() -> None:
    network, head = nn.GRU(INPUTS, UNITS), nn.Linear(UNITS, 2)
    everything = [*network.parameters(), *head.parameters()]
    net = TemporalDNI(network, optim=torch.optim.SGD(everything, lr=0.1))
    before = [p.detach().clone() for p in everything]
    state = None
    for x in windows(3):
        output, state = net(x, state)
        assert all(p.grad is None for p in everything)
        loss_of(head(output)).backward()
    assert all(not torch.equal(a, b) for a, b in zip(before, everything, strict=True))
    assert net.optimizer is not None


@pytest.mark.parametrize("name", ["LSTM", "a loop over a cell", "LSTMCell"])
def test_without_training_the_wrapper_is_the_network(name: str) -> None:
    network = NETWORKS[name]()
    net = TemporalDNI(network)
    x = windows(1)[0]
    x = x[0] if name.endswith("Cell") else x
    _, state = net(x)
    saved = copy.deepcopy(net.training_state())
    expected, _ = run(network, x, state)
    net.eval()
    output, after = net(x, state)
    assert torch.equal(output, expected)
    assert tensors_in(after)[0].requires_grad
    net.train()
    with torch.no_grad():
        assert torch.equal(net(x, state)[0], expected)
    assert str(net.training_state()) == str(saved)


def test_windows_may_have_any_length_and_batches_may_change_between_episodes() -> None:
    net, state = TemporalDNI(nn.LSTM(INPUTS, UNITS)), None
    for length in (4, 1, 7):
        output, state = net(torch.randn(length, BATCH, INPUTS), state)
        loss_of(output).backward()
    net.end_episode()
    output, state = net(torch.randn(2, 9, INPUTS))
    loss_of(output).backward()
    output, _ = net(torch.randn(2, 9, INPUTS), state)
    loss_of(output).backward()
    assert net.updates == 5


def test_the_context_belongs_to_the_end_of_its_window() -> None:
    net = TemporalDNI(nn.GRU(INPUTS, UNITS), context_size=2, update="manual")
    seen: list[Tensor] = []
    interface_of(net).synthesizer.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    first, second = windows(2)
    labels = torch.tensor([0, 1, 1, 0])
    _, state = net(first, context=labels)
    output, _ = net(second, state, context=torch.full((BATCH, 2), 0.5))
    loss_of(output).backward()
    assert torch.equal(seen[0][:, UNITS:], F.one_hot(labels, 2).float())
    assert torch.equal(seen[1][:, UNITS:], torch.full((BATCH, 2), 0.5))


@pytest.mark.parametrize("limit", [1.0, 3.0, None])
def test_a_prediction_beyond_its_limit_is_shortened_and_no_nan_is_sent(limit: Any) -> None:
    net = TemporalDNI(nn.GRU(INPUTS, UNITS), scale=1.0, limit=limit)
    teach(net)
    (x,) = windows(1)
    with torch.no_grad():
        interface_of(net).synthesizer.final.weight.zero_()
        interface_of(net).synthesizer.final.bias.fill_(50.0)
    net(x)
    sent = sent_by(net)
    wanted = 0.5 * (50.0 if limit is None else limit)  # in units of the scale
    torch.testing.assert_close(sent, torch.full_like(sent, wanted))
    with torch.no_grad():
        interface_of(net).synthesizer.final.bias.fill_(torch.nan)
    net(x)
    assert not sent_by(net).any()


RESUMED: dict[str, dict[str, Any]] = {
    "linear": {},
    "a hidden layer": {"dni_params": {"num_layers": 1}},
    "auxiliary": {"auxiliary": 1.0},
    "context": {"context_size": 3},
    "rnn": {"synthesizer": "rnn"},
    "optim": {"optim": "adam"},
    "every third": {"train_every": 3, "auxiliary": 0.5},
}


def train(net: TemporalDNI, optimizer: Any, inputs: list[Tensor], state: Any) -> Any:
    for number, x in enumerate(inputs):
        done = torch.arange(BATCH) == number % 5
        context = done.float()[:, None].expand(BATCH, 3) if net.interfaces.context_size else None
        output, state = net(x, state, done=done, context=context)
        optimizer.zero_grad()
        loss_of(output).backward()
        if net.optimizer is None:
            optimizer.step()
    return state


@pytest.mark.parametrize("make", [lambda: nn.LSTM(INPUTS, UNITS, num_layers=2), Loop])
@pytest.mark.parametrize("name", RESUMED)
def test_training_resumes_amid_a_sequence_bit_for_bit(name: str, make: Any) -> None:
    options = {"scale": 0.8, **RESUMED[name]}
    inputs = windows(9)
    net = TemporalDNI(make(), **options)
    optimizer = torch.optim.Adam(net.network.parameters())
    state = train(net, optimizer, inputs[:4], None)
    buffer = io.BytesIO()
    torch.save((net.training_state(), optimizer.state_dict(), state), buffer)
    pickled = pickle.dumps((net, optimizer, state))
    train(net, optimizer, inputs[4:], state)

    buffer.seek(0)
    training_state, of_optimizer, state = torch.load(buffer, weights_only=True)
    resumed = TemporalDNI(make(), **options)
    optimizer = torch.optim.Adam(resumed.network.parameters())
    resumed.load_training_state(training_state)
    optimizer.load_state_dict(of_optimizer)
    train(resumed, optimizer, inputs[4:], state)
    copied, of_copy, state = pickle.loads(pickled)
    train(copied, of_copy, inputs[4:], state)
    assert net.updates == resumed.updates == copied.updates == 9
    for other in (resumed, copied):
        for key, value in net.state_dict().items():
            if isinstance(value, Tensor):
                assert torch.equal(value, other.state_dict()[key]), key


def test_a_model_around_the_wrapper_is_saved_and_loaded() -> None:
    model = nn.ModuleDict({"core": TemporalDNI(Loop(), auxiliary=1.0), "head": nn.Linear(2, 2)})
    output, _ = model["core"](windows(1)[0])
    loss_of(output).backward()
    other = nn.ModuleDict({"core": TemporalDNI(Loop(), auxiliary=1.0), "head": nn.Linear(2, 2)})
    other.load_state_dict(model.state_dict())
    for key, value in model.state_dict().items():
        assert not isinstance(value, Tensor) or torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_is_flat_over_many_windows(count: int) -> None:
    net, state = TemporalDNI(nn.LSTM(8, 64), auxiliary=1.0), None
    head = nn.Linear(64, 4)
    everything = [*net.network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(everything, lr=0.01)
    x = torch.randn(4, 32, 8)

    def window() -> None:
        nonlocal state
        optimizer.zero_grad()
        output, state = net(x, state)
        loss_of(head(output)).backward()
        optimizer.step()

    for _ in range(100):
        window()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        window()
    # A window that stayed would hold 0.2 MiB: gates, outputs and states of 4 × 32 steps.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


@pytest.mark.parametrize(
    ("shapes", "batch_dim"),
    [
        ([(5, 3), (5, 2)], 0),
        ([(5,), (5, 2)], 0),
        ([(2, 5, 3), (2, 5, 3)], 1),
        ([(2, 5, 3), (1, 5, 4)], 1),
        ([(2, 3, 5), (4, 2, 5)], 2),
        ([(2, 3, 5, 7)], 2),
    ],
)
def test_a_state_is_taken_apart_as_it_was_put_together(shapes: Any, batch_dim: int) -> None:
    state = [torch.randn(shape) for shape in shapes]
    form = Form(state, batch_dim)
    rows = form.join(state)
    assert rows.shape[0] == 5
    back = form.split(rows)
    assert all(torch.equal(a, b) for a, b in zip(back, state, strict=True))
    for number, row in enumerate(rows):  # a row has the entries of its sequence, and no others
        own = torch.cat([tensor.select(batch_dim, number).flatten() for tensor in state])
        assert torch.equal(row.sort().values, own.sort().values)
