"""`DNI.compile`: the same training, read by a compiler, update unlocking included."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from dni import DNI
from dni.errors import ContextError, ShapeError
from dni.updates import Updates
from test_unlock import NETWORKS, assert_same, batches, loss_of, tensors, train, wrap

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*never been trained"),
]
IN_PARTS = {
    "recurrent",
    "residual, three sites",
    "u-shaped, few sites",
    "zero by site",
    "warm-up by site",
}
"""Not read whole: an LSTM, and activations that both a later site and the loss see."""


@pytest.fixture(autouse=True)
def in_double_precision(fresh_compiler: None) -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of gradients that each compiled pass forward computed."""
    counts: list[int] = []
    take = Updates.take

    def noted(updates: Updates, leaves: list[Tensor], gradients: list[Tensor]) -> None:
        counts.append(len(leaves))
        take(updates, leaves, gradients)

    monkeypatch.setattr(Updates, "take", noted)
    return counts


def compiled(net: DNI, **options: Any) -> DNI:
    net.compile(backend="aot_eager", **options)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_as_before(name: str, taken: list[int]) -> None:
    same_as_before(name, taken)


@pytest.mark.parametrize("name", ["critic", "two outputs", "residual", "residual, three sites"])
def test_it_trains_as_before(name: str, taken: list[int]) -> None:
    same_as_before(name, taken)


def assert_close(a: DNI, b: DNI) -> None:
    """To the digits of the scale, which compiled code takes as it is: in single precision."""
    for key, value in tensors(a).items():
        torch.testing.assert_close(value, tensors(b)[key], rtol=1e-6, atol=1e-6, msg=key)


def same_as_before(name: str, taken: list[int]) -> None:
    net, twin = compiled(wrap(name)), wrap(name)
    assert train(net, batches(8)) == pytest.approx(train(twin, batches(8)), rel=1e-8)
    assert_close(net, twin)
    assert bool(taken) == (name not in IN_PARTS)
    if name not in IN_PARTS:
        assert not counters["graph_break"]


@pytest.mark.parametrize(
    "options", [{"train_every": 2}, {"lambda_": lambda n: 0.0 if n % 2 else 0.5}]
)
def test_what_changes_from_pass_to_pass_is_compiled_anew(
    options: dict[str, Any], taken: list[int]
) -> None:
    nets = [wrap("critic", **options) for _ in range(2)]
    compiled(nets[0], fullgraph=True)
    losses = [train(net, batches(9)) for net in nets]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)
    assert_close(*nets)
    assert taken


@pytest.mark.parametrize("unlock", ["none", "update"])
@pytest.mark.parametrize("name", ["chain", "critic"])
def test_a_true_gradient_that_teaches_nothing_is_not_computed(
    name: str, unlock: Literal["none", "update"]
) -> None:
    """In an update without learning no more matrix products are made than without a compiler."""

    def products(net: DNI) -> int:
        train(net, batches(4))
        assert not net._updates.learns
        with torch.profiler.profile() as profile:
            train(net, batches(1))
        return sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))

    nets = [wrap(name, unlock=unlock, train_every=5) for _ in range(2)]
    assert products(compiled(nets[0], fullgraph=True)) == products(nets[1])


def test_updates_by_hand(taken: list[int]) -> None:
    losses: list[list[float]] = []
    for compiles in (False, True):
        net = wrap("critic", update="manual")
        if compiles:
            compiled(net, fullgraph=True)
        optimizer = torch.optim.SGD(net.network.parameters(), 0.1)
        losses.append([])
        for x, y in batches(6):
            optimizer.zero_grad()
            loss = loss_of(net, x, y)
            loss.backward()
            optimizer.step()
            net.step(network=False)
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)
    assert taken


def test_gradients_of_a_pass_without_backward_are_forgotten(taken: list[int]) -> None:
    net, twin = compiled(wrap("critic")), wrap("critic")
    for each in (net, twin):
        train(each, batches(4))
    x, y = batches(1, seed=9)[0]
    loss_of(net, 100 * x, y)  # no backward
    after = [train(each, batches(3, seed=1)) for each in (net, twin)]
    assert len(taken) > 3
    assert after[0] == pytest.approx(after[1], rel=1e-8)


def test_hooks_of_the_user_hear_every_gradient(taken: list[int]) -> None:
    net, heard = compiled(wrap("critic")), []
    net.network[0].weight.register_hook(heard.append)
    train(net, batches(5))
    assert len(heard) == 5
    assert not taken


def test_evaluation_between_updates_and_copies(taken: list[int]) -> None:
    net, twin = compiled(wrap("critic")), wrap("critic")
    for each in (net, twin):
        train(each, batches(4))
    x, _ = batches(1)[0]
    outputs = []
    for each in (net, twin):
        each.eval()
        with torch.no_grad():
            outputs.append(each(x))
        each.train()
    torch.testing.assert_close(*outputs)
    again = copy.deepcopy(net)  # a copy is not compiled
    assert again._compiled_call_impl is None
    assert train(again, batches(3, seed=2)) == pytest.approx(
        train(net, batches(3, seed=2)), rel=1e-8
    )


def test_a_batch_without_samples_is_told() -> None:
    net = compiled(wrap("critic"))
    train(net, batches(4))
    before = tensors(net)
    with pytest.raises(ShapeError, match="at least one sample"):
        net(torch.zeros(0, 8), context=torch.zeros(0, dtype=torch.long))
    assert_same(tensors(net), before, exact=True)
    train(net, batches(2))


@pytest.mark.parametrize("unlock", ["none", "update"])
def test_labels_out_of_range_are_told(unlock: Literal["none", "update"]) -> None:
    net, twin = compiled(wrap("critic", unlock=unlock)), wrap("critic", unlock=unlock)
    losses = train(net, batches(4))
    x, y = batches(1)[0]
    with pytest.raises(ContextError, match="needs labels from 0 to 2"):
        net(x, context=y + 5)
    losses += train(net, batches(3))
    expected = train(twin, batches(4)) + train(twin, batches(3))
    assert losses == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("name", "unlock"), [("chain", "none"), ("critic", "update")])
def test_sizes_may_be_symbols_from_the_start(name: str, unlock: Literal["none", "update"]) -> None:
    nets = [wrap(name, unlock=unlock) for _ in range(2)]
    compiled(nets[0], fullgraph=True, dynamic=True)
    data = [(x[: 3 + number], y[: 3 + number]) for number, (x, y) in enumerate(batches(5))]
    losses = [train(net, data) for net in nets]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)
    assert_close(*nets)


def test_mixed_sites_are_compiled_whole() -> None:
    net, twin = wrap("critic", unlock="none"), wrap("critic", unlock="none")
    compiled(net, fullgraph=True)
    assert train(net, batches(6)) == pytest.approx(train(twin, batches(6)), rel=1e-8)
    assert not torch._dynamo.config.trace_autograd_ops


def test_activations_go_as_the_pass_goes_on() -> None:
    """What a deep network's pass forward leaves for backward is one module's."""

    def saved(depth: int, run: Callable[[DNI], Any]) -> int:
        torch._dynamo.reset()
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(depth)]
        network = nn.Sequential(*blocks, nn.Linear(8, 3))
        sites = [str(number) for number in range(depth)]
        net = DNI(network, "critic", λ=0, sites=sites, context_size=3, unlock="update")
        run(net)
        x, y = torch.randn(50, 8), torch.randint(3, (50,))
        for _ in range(3):
            F.cross_entropy(net(x, context=y), y).backward()
        kept: set[int] = set()

        def pack(tensor: Tensor) -> Tensor:
            if tensor.shape[:1] == (50,):
                kept.add(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = F.cross_entropy(net(x, context=y), y)
        loss.backward()
        return len(kept)

    assert saved(6, compiled) <= saved(2, compiled)


def test_within_what_the_user_compiles(taken: list[int]) -> None:
    net, twin = compiled(wrap("critic")), wrap("critic")

    def run(x: Tensor, context: Tensor) -> Tensor:
        return net(x, context=context) * 1.0

    losses = train(net, batches(5), run=torch.compile(run, backend="aot_eager"))
    assert losses == pytest.approx(train(twin, batches(5)), rel=1e-8)
    assert taken
    again = copy.deepcopy(net)  # nobody would take its gradients
    losses = train(again, batches(3), run=torch.compile(again, backend="aot_eager"))
    assert losses == pytest.approx(train(twin, batches(3)), rel=1e-8)


def test_unlocked_passes_within_a_user_s_compilation_run_as_they_are(taken: list[int]) -> None:
    net, twin = wrap("critic"), wrap("critic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = torch.compile(net, backend="aot_eager")
        losses = train(net, batches(5), run=run)
    assert losses == pytest.approx(train(twin, batches(5)), rel=1e-8)
    assert not taken


class Failing(nn.Module):
    """Raises when told to, behind what a compiler does not read if told so."""

    def __init__(self, *, breaks: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.breaks, self.fails = breaks, False

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        if self.breaks:
            torch._dynamo.graph_break()
        if self.fails:
            raise ZeroDivisionError
        return self.head(self.second(h).tanh())


@pytest.mark.parametrize("breaks", [False, True])
def test_a_pass_that_raises_half_way_leaves_nothing(breaks: bool, taken: list[int]) -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        options: Any = {"sites": ["first", "second"], "context_size": 3, "unlock": "update"}
        nets.append(DNI(Failing(breaks=breaks), "critic", λ=0, **options))
    net, twin = compiled(nets[0]), nets[1]
    for each in nets:
        train(each, batches(6))
    assert_close(net, twin)  # a graph break hides what came back to the first site
    assert bool(taken) != breaks
    for each in nets:
        each.network.fails = True  # type: ignore[assignment]
        with pytest.raises(ZeroDivisionError):
            loss_of(each, *batches(1)[0])
        each.network.fails = False  # type: ignore[assignment]
    after = [train(each, batches(3, seed=1)) for each in nets]
    assert after[0] == pytest.approx(after[1], rel=1e-8)
    assert_close(net, twin)


class Loose(nn.Module):
    """The output of one block feeds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.loose, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        self.loose(h)
        return self.head(h)


@pytest.mark.filterwarnings("ignore:Nothing that was made from the output")
def test_a_site_that_feeds_nothing_is_not_compiled(taken: list[int]) -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        options: Any = {"sites": ["first", "loose"], "context_size": 3, "unlock": "update"}
        nets.append(DNI(Loose(), "critic", λ=0, **options))
    compiled(nets[0])
    losses = [train(net, batches(5)) for net in nets]
    assert losses[0] == losses[1]
    assert not taken


def test_what_the_user_changes_is_still_seen() -> None:
    """Guards on the program are left out, those on networks, values and the user's names kept."""
    net, twin = compiled(wrap("critic")), wrap("critic")
    for each in (net, twin):
        train(each, batches(4))
        each.network[2] = nn.Tanh()
        train(each, batches(2))
        each.network[0].weight.requires_grad_(False)
        train(each, batches(2))
        next(iter(each.interfaces.values())).synthesizer.sobolev = 1.0
        train(each, batches(2))
        each.λ = 0.5
        train(each, batches(2))
    assert_close(net, twin)


def test_a_method_that_an_object_of_the_user_overrides_is_seen() -> None:
    net, twin = compiled(wrap("critic")), wrap("critic")
    for each in (net, twin):
        train(each, batches(4))
        each.network[0].forward = lambda x, layer=each.network[0]: (
            2 * F.linear(x, layer.weight, layer.bias)
        )
        train(each, batches(3))
    assert_close(net, twin)


def test_options_of_the_user_stay_theirs() -> None:
    heard: list[int] = []

    def keep_all(guards: Any) -> list[bool]:
        heard.append(len(guards))
        return [True] * len(guards)

    options = {"guard_filter_fn": keep_all}
    net = compiled(wrap("critic"), options=options)
    train(net, batches(4))
    assert heard
    assert options == {"guard_filter_fn": keep_all}
