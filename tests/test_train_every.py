"""`train_every`: synthesizers learn in some updates; in the others no true gradient is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dni import DNI, AttachmentError, ConfigError
from dni.crossing import Crossing

SITES = ["blocks.0", "blocks.1", "blocks.2"]
MODES: dict[str, dict[str, Any]] = {
    "auto": {},
    "unlocked": {"unlock": "update"},
    "manual": {"update": "manual"},
    "manual, unlocked": {"update": "manual", "unlock": "update"},
}


class Skipping(nn.Module):
    """Three blocks, the last with a skip around it, and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()) for _ in range(3)]
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](x))
        result: Tensor = self.output(x + self.blocks[2](x))
        return result


def wrapped(build: Callable[[], nn.Module] = Skipping, kind: str = "critic", **kwargs: Any) -> DNI:
    torch.manual_seed(1)
    network = build().double()
    arguments = {"optim": "sgd", "grad_lr": 0.1, "λ": 0, "sites": SITES, "context_size": 3}
    return DNI(network, kind, **{**arguments, "train_every": 3, **kwargs})


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 6, generator=generator, dtype=torch.float64), torch.arange(8) % 3


def step(net: DNI, seed: int, pick: Callable[[Any], Tensor] = lambda out: out) -> float:
    x, y = batch(seed)
    loss = F.cross_entropy(pick(net(x, context=y)), y)
    loss.backward()
    if not net._updates.is_automatic:
        net.step()
        net.zero_grad()
    return loss.item()


def synthesizers(net: DNI) -> list[Tensor]:
    parts = [i.synthesizer for i in net.interfaces.values()]
    return [p.detach().clone() for part in parts for p in part.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_equal(net: DNI, other: DNI) -> None:
    for (name, a), b in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        if isinstance(a, Tensor):
            assert torch.equal(a, b), name


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch) -> Callable[[DNI], DNI]:
    """Makes a wrapper compute every true gradient, also those that nobody needs."""
    seeing: set[int] = set()
    begin = Crossing._begin_blind

    def begin_unless_seeing(crossing: Crossing) -> None:
        if id(crossing) not in seeing:
            begin(crossing)

    monkeypatch.setattr(Crossing, "_begin_blind", begin_unless_seeing)

    def make(net: DNI) -> DNI:
        seeing.add(id(net._crossing))
        return net

    return make


@pytest.mark.parametrize("kind", ["critic", "linear", "linear_batchnorm"])
@pytest.mark.parametrize("mode", MODES)
def test_not_computing_the_true_gradient_changes_no_bit(
    mode: str, kind: str, seeing: Callable[[DNI], DNI]
) -> None:
    blind, other = wrapped(kind=kind, **MODES[mode]), seeing(wrapped(kind=kind, **MODES[mode]))
    for seed in range(9):
        assert step(blind, seed) == step(other, seed)
    assert_equal(blind, other)


@pytest.mark.parametrize("mode", [*MODES, "forward"])
def test_synthesizers_learn_in_the_second_update_and_every_third_after_it(mode: str) -> None:
    net = wrapped(**MODES.get(mode, {"unlock": "forward", "sites": SITES[:2]}))
    learned = []
    for seed in range(9):
        before, running = synthesizers(net), [i.running.clone() for i in net.interfaces.values()]
        weights = [p.detach().clone() for p in net.network.parameters()]
        step(net, seed)
        learned.append(bool(before) and not same(before, synthesizers(net)))
        if seed and not learned[-1]:
            assert same(running, [i.running for i in net.interfaces.values()])
        assert not same(weights, [p.detach() for p in net.network.parameters()])
    # The first update shows the scale of the gradients alone.
    assert learned == [False, True, False, False, True, False, False, True, False]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_handed_on_needs_a_gradient_only_where_one_is_used(mode: str) -> None:
    net = wrapped(**MODES[mode])
    needed: list[bool] = []
    net.network.output.register_forward_pre_hook(lambda _, x: needed.append(x[0].requires_grad))
    for seed in range(5):
        step(net, seed)
    # The first two and the fifth learn. The skip passes the last site by: it keeps its graph,
    # but where the block below it was blind too, nothing is left of that.
    assert needed == [True, True, False, False, True]


@pytest.mark.parametrize("kind", ["critic", "linear"])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_boundary_that_takes_no_statistics_still_tells_of_the_pass(
    share: float, kind: str
) -> None:
    net = wrapped(kind=kind, λ=share, optim=None)
    step(net, 0)
    step(net, 1)
    (first, *_) = net.interfaces.values()
    x, context = (
        torch.randn(4, 6, dtype=torch.float64),
        torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]],
    )
    true = torch.randn(4, 6, dtype=torch.float64)
    found = []
    for hears in (True, False):
        h = x.clone().requires_grad_()
        out = first(h, context, train=False, hears=hears)
        found.append(torch.autograd.grad(out, [h, first.meter], true))
    (heard, sums), (unheard, nothing) = found
    assert torch.equal(heard, unheard)
    assert sums.any()
    assert torch.equal(nothing, torch.zeros_like(first.meter))


@pytest.mark.parametrize("mode", MODES)
def test_training_goes_on_from_a_saved_state_to_the_last_bit(mode: str) -> None:
    net = wrapped(**MODES[mode])
    for seed in range(3):
        step(net, seed)
    state = copy.deepcopy(net.training_state())
    other = wrapped(**MODES[mode])
    other.load_training_state(state)
    for seed in range(3, 9):
        assert step(net, seed) == step(other, seed)
    assert_equal(net, other)


def test_copies_go_on_alike() -> None:
    net = wrapped()
    for seed in range(3):
        step(net, seed)
    other = copy.deepcopy(net)
    for seed in range(3, 8):
        assert step(net, seed) == step(other, seed)


class Head(nn.Module):
    """A network whose output `form` makes of the last activation."""

    def __init__(self, form: Callable[[Tensor], Any], *, has_layer: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)])
        self.output = nn.Linear(3, 3) if has_layer else nn.Identity()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.form(self.output(x))


class Result:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


FORMS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda x: x, lambda out: out),
    "softmax": (lambda x: x.log_softmax(1), lambda out: out),
    "tuple": (lambda x: (x, x.detach()), lambda out: out[0]),
    "mapping": (lambda x: {"a": x.detach().argmax(), "b": x}, lambda out: out["b"]),
    "object": (Result, lambda out: out.logits),
}


@pytest.mark.parametrize("has_layer", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_any_output_leads_the_backward_pass_to_the_sites(
    form: str, mode: str, has_layer: bool, seeing: Callable[[DNI], DNI]
) -> None:
    make, pick = FORMS[form]

    def build() -> nn.Module:
        return Head(make, has_layer=has_layer)

    nets = [wrapped(build, **MODES[mode]) for _ in range(2)]
    seeing(nets[1])
    for seed in range(6):
        assert step(nets[0], seed, pick) == step(nets[1], seed, pick)
    assert_equal(*nets)


def test_what_the_network_detaches_stays_detached() -> None:
    net = wrapped(lambda: Head(lambda x: (x, x.detach())))
    for seed in range(4):
        x, y = batch(seed)
        output, detached = net(x, context=y)
        assert not detached.requires_grad
        F.cross_entropy(output, y).backward()


def test_an_output_may_be_changed_in_place() -> None:
    net = wrapped()
    for seed in range(4):
        x, y = batch(seed)
        F.cross_entropy(net(x, context=y).mul_(2), y).backward()
    assert net.updates == 4


def test_gradients_can_be_asked_for_without_backward(seeing: Callable[[DNI], DNI]) -> None:
    blind, other = wrapped(update="manual"), seeing(wrapped(update="manual"))
    found = []
    for net in (blind, other):
        for seed in range(2):
            step(net, seed)
        x, y = batch(2)
        loss = F.cross_entropy(net(x, context=y), y)
        found.append(torch.autograd.grad(loss, list(net.network.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_pass_without_backward_is_forgotten() -> None:
    net, twin = (wrapped(lambda: Head(lambda x: x)) for _ in range(2))
    for seed in range(8):
        step(net, seed)
        step(twin, seed)
        x, y = batch(seed + 10)
        net(x, context=y)
    assert_equal(net, twin)


def test_an_unlocked_pass_without_backward_leaves_nothing_waiting() -> None:
    net = wrapped(unlock="update")
    for seed in range(8):
        step(net, seed)
        x, y = batch(seed + 10)
        net(x, context=y)
    assert net.updates == 8


def test_a_failing_pass_leaves_no_thread_behind() -> None:
    net = wrapped()
    for seed in range(2):
        step(net, seed)
    broken = net.network.output.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(net, 2)
    broken.remove()
    step(net, 2)
    assert net.updates == 3
    assert not net._crossing._threads.ends


class Checkpointing(Skipping):
    """The second block is run again in backward."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        x = checkpoint(self.blocks[1], x, use_reentrant=False)
        result: Tensor = self.output(x + self.blocks[2](x))
        return result


def test_a_checkpoint_runs_a_blind_site_again(seeing: Callable[[DNI], DNI]) -> None:
    blind, other = wrapped(Checkpointing), seeing(wrapped(Checkpointing))
    for seed in range(6):
        assert step(blind, seed) == step(other, seed)
    assert_equal(blind, other)


@pytest.mark.parametrize("share", [0.5, 1.0, {"blocks.0": 0.0, "blocks.1": 0.5, "blocks.2": 0.0}])
def test_a_share_of_the_true_gradient_is_never_left_out(
    share: Any, seeing: Callable[[DNI], DNI]
) -> None:
    blind, other = wrapped(λ=share), seeing(wrapped(λ=share))
    for seed in range(6):
        assert step(blind, seed) == step(other, seed)
    assert_equal(blind, other)


def test_a_warm_up_sees_until_it_is_over() -> None:
    net = wrapped(λ=lambda update: 1.0 if update < 3 else 0.0)
    needed: list[bool] = []
    net.network.output.register_forward_pre_hook(lambda _, x: needed.append(x[0].requires_grad))
    for seed in range(7):
        step(net, seed)
    assert needed == [True, True, True, False, True, False, False]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_a_period_that_cannot_work_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="`train_every` is .*whole number"):
        wrapped(train_every=value)


def test_ddp_waits_for_synthesizers(monkeypatch: pytest.MonkeyPatch) -> None:
    net, sparse = wrapped(train_every=1), wrapped(train_every=2)
    step(net, 0)
    step(sparse, 0)
    ddp = nn.parallel.DistributedDataParallel
    monkeypatch.setattr(ddp, "_get_active_ddp_module", classmethod(lambda cls: object()))
    step(net, 1)
    with pytest.raises(AttachmentError, match="train_every=1"):
        step(sparse, 1)
