"""`torch.compile` around a wrapper: one graph, or where that cannot be, the same losses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, ConfigError, DNIWarning

from .networks import Batch, batches, tensors

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler")
each_backend = pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=needs_compiler)]
)
Compile = Callable[[DNI], nn.Module]
# What torch warns of on its own account while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture(autouse=True)
def forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def fcn() -> nn.Module:
    first = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def conv() -> nn.Module:
    layers = [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 3))


class Own(nn.Module):
    """A layer that does not tell its layout: its interface is made on the first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def own() -> nn.Module:
    return nn.Sequential(Own(), nn.ReLU(inplace=True), nn.Linear(6, 3))


class Recurrent(nn.Module):
    """Dynamo itself leaves recurrent layers out of its graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.view(-1, 2, 3))[0][:, -1])


DATA: list[Batch] = [(x.float(), y) for x, y in batches(6, size=8)]


def train(net: nn.Module, data: list[Batch] = DATA, **kwargs: Any) -> list[float]:
    losses = []
    for x, y in data:
        loss = F.cross_entropy(net(x, **kwargs), y)
        loss.backward()
        losses.append(loss.item())
    return losses


def made(make: Callable[[], nn.Module], **options: Any) -> DNI:
    torch.manual_seed(0)
    return DNI(make(), grad_lr=0.01, **options)


def one_graph(net: nn.Module, backend: str = "eager") -> nn.Module:
    """Compiled, or an error; the backend ``eager`` runs dynamo's graph as it is, which is quick."""
    return torch.compile(net, backend=backend, fullgraph=True)


def assert_alike(compiled: DNI, eager: DNI) -> None:
    """The same parameters, statistics and number of updates within the rounding of floats."""
    expected = tensors(eager)
    for key, value in tensors(compiled).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
    assert compiled.updates == eager.updates
    assert compiled.statistics().keys() == eager.statistics().keys()
    for site, statistics in eager.statistics().items():
        assert compiled.statistics()[site] == pytest.approx(statistics, rel=1e-2, abs=1e-4)


@each_backend
def test_a_static_network_is_one_graph_with_the_same_losses(backend: str) -> None:
    eager, net, data = made(fcn), made(fcn), DATA + DATA[:4]
    losses = train(one_graph(net, backend), data)
    # Inductor's rounding differs, and Adam turns that of a tiny gradient into whole steps.
    within = 1e-3 if backend == "inductor" else 1e-5
    assert losses == pytest.approx(train(eager, data), rel=within)
    assert net.updates == 10
    assert losses[6] < losses[0]


def test_feature_maps_are_one_graph() -> None:
    eager, net = made(conv), made(conv)
    assert train(one_graph(net, "aot_eager")) == pytest.approx(train(eager), abs=1e-5)
    assert_alike(net, eager)


def test_λ_may_change_in_between() -> None:
    def run(wrap: Compile) -> tuple[DNI, list[float]]:
        net = made(fcn)
        module, losses = wrap(net), []
        for number, share in enumerate((0.25, 1.0, 0.0)):
            net.λ = share
            losses += train(module, DATA[2 * number : 2 * number + 2])
        return net, losses

    (eager, expected), (net, actual) = run(lambda net: net), run(one_graph)
    assert actual == pytest.approx(expected, abs=1e-5)
    assert_alike(net, eager)
    assert expected != pytest.approx(train(made(fcn)), abs=1e-5)


@pytest.mark.filterwarnings("ignore:The synthesizers at .* are frozen")
@pytest.mark.parametrize(
    "options",
    [
        {"lambda_": lambda updates: max(0.0, 1 - updates / 3)},
        {"lambda_": {"0": 0.0, "5": 1.0}},
        {"update": "manual"},
        {"clip": 0.1, "scale_targets": False},
        {"train_synthesizers": False},
        {"dni_network": "linear_batchnorm", "sites": ["0", "3"]},
    ],
    ids=", ".join,
)
def test_every_option_is_one_graph(options: dict[str, Any]) -> None:
    def run(wrap: Compile) -> tuple[DNI, list[float]]:
        net = made(fcn, **options)
        module, losses = wrap(net), []
        for batch in DATA:
            losses += train(module, [batch])
            if "update" in options:
                net.step()
                net.zero_grad()
        return net, losses

    (eager, expected), (net, actual) = run(lambda net: net), run(one_graph)
    assert actual == pytest.approx(expected, abs=1e-5)
    assert_alike(net, eager)


@pytest.mark.parametrize("is_block", [False, True], ids=["argument", "block"])
def test_context_is_part_of_the_graph(is_block: bool) -> None:
    def run(wrap: Compile) -> tuple[DNI, list[float]]:
        net = made(fcn, context_size=3)
        module, losses = wrap(net), []
        for x, y in DATA:
            if is_block:
                with net.context(y):
                    losses += train(module, [(x, y)])
            else:
                losses += train(module, [(x, y)], context=y)
        return net, losses

    (eager, expected), (net, actual) = run(lambda net: net), run(one_graph)
    assert actual == pytest.approx(expected, abs=1e-5)
    assert_alike(net, eager)


@pytest.mark.parametrize("make", [own, Recurrent])
def test_what_cannot_be_one_graph_says_so_and_falls_back(make: Callable[[], nn.Module]) -> None:
    """An interface that is made on the first pass, and what dynamo leaves out itself."""
    with pytest.raises(torch._dynamo.exc.Unsupported):
        train(one_graph(made(make)))
    torch._dynamo.reset()
    eager, net = made(make), made(make)
    losses = train(torch.compile(net, backend="eager"))
    assert losses == pytest.approx(train(eager), abs=1e-5)
    assert_alike(net, eager)


def test_after_one_eager_pass_every_interface_is_there_and_it_is_one_graph() -> None:
    eager, net = made(own), made(own)
    losses = train(net, DATA[:1]) + train(one_graph(net), DATA[1:])
    assert losses == pytest.approx(train(eager), abs=1e-5)
    assert_alike(net, eager)


def test_the_last_layer_is_skipped_after_one_eager_pass() -> None:
    eager, net = made(fcn, skip_last_layer=True), made(fcn, skip_last_layer=True)
    losses = train(net, DATA[:1]) + train(one_graph(net), DATA[1:])
    assert losses == pytest.approx(train(eager), abs=1e-5)
    assert sorted(net.interfaces) == sorted(eager.interfaces) == ["0", "1", "3"]
    assert_alike(net, eager)


def test_a_compiled_first_pass_cannot_show_the_last_layer_and_says_so() -> None:
    net = made(fcn, skip_last_layer=True)
    with pytest.raises(ConfigError, match="eager"):
        train(torch.compile(net, backend="eager"), DATA[:1])


def test_eval_and_no_grad_of_a_compiled_wrapper_are_the_network() -> None:
    net = made(fcn)
    module = one_graph(net)
    train(module, DATA[:2])
    before = tensors(net)
    with torch.no_grad():
        expected = net.network.eval()(DATA[0][0])
        net.network.train()
        torch.testing.assert_close(module.eval()(DATA[0][0]), expected)
    assert all(torch.equal(value, before[key]) for key, value in tensors(net).items())
    train(module.train(), DATA[:1])
    assert net.updates == 3


def test_eager_and_compiled_passes_may_alternate() -> None:
    eager, net = made(fcn), made(fcn)
    module, losses = one_graph(net), []
    for number, batch in enumerate(DATA):
        losses += train(net if number % 2 else module, [batch])
    assert losses == pytest.approx(train(eager), abs=1e-5)
    assert_alike(net, eager)


def test_a_wrapper_around_a_compiled_network_trains_alike() -> None:
    eager = made(fcn)
    torch.manual_seed(0)
    net = DNI(torch.compile(fcn(), backend="eager"), grad_lr=0.01)
    assert train(net) == pytest.approx(train(eager), abs=0.1)
    assert net.updates == 6


def test_a_batch_of_another_size_is_compiled_again() -> None:
    data = [(x[: 3 + number], y[: 3 + number]) for number, (x, y) in enumerate(DATA[:3])]
    eager, net = made(fcn), made(fcn)
    assert train(one_graph(net), data) == pytest.approx(train(eager, data), abs=1e-5)
    assert_alike(net, eager)


def test_two_compiled_passes_then_two_backwards_in_manual_mode() -> None:
    def gradients(wrap: Compile) -> list[Tensor]:
        net = made(fcn, update="manual")
        module = wrap(net)
        train(module, DATA[:1])
        net.step()
        net.zero_grad()
        losses = [F.cross_entropy(module(x), y) for x, y in DATA[1:3]]
        for loss in losses:
            loss.backward()
        return [p.grad for p in net.network.parameters()]

    for actual, expected in zip(gradients(one_graph), gradients(lambda net: net), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_silent_sites_are_named_when_the_first_pass_is_eager() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    net = made(Branch)
    with pytest.warns(DNIWarning, match="'unused'"):
        train(net, DATA[:1])
    train(one_graph(net), DATA[1:])
    assert net.updates == 6
