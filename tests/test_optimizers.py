"""Optimizers by name, class, factory and instance, and the moment when backward ends."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from dni import DNI
from dni.backward_end import BackwardEnd
from dni.errors import ConfigError
from dni.optimizers import OPTIMIZERS, make_optimizer
from dni.synthesizer_optimizer import ordered_like

X, Y = torch.linspace(-1, 1, 24).view(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def train(net: DNI, steps: int = 3) -> None:
    for _ in range(steps):
        F.cross_entropy(net(X), Y).backward()


# -- by name, class, factory, instance -----------------------------------------------------------


@pytest.mark.parametrize("spec", ["sgd", "SGD", "Sgd", optim.SGD, lambda p: optim.SGD(p, lr=0.5)])
def test_every_way_to_name_an_optimizer_makes_it(spec: Any) -> None:
    parameters = list(mlp().parameters())
    made = make_optimizer(spec, parameters, lr=0.5, argument="optim")
    assert type(made) is optim.SGD
    assert made.param_groups[0]["lr"] == 0.5
    assert [p for g in made.param_groups for p in g["params"]] == parameters


def test_an_instance_is_taken_as_it_is() -> None:
    network = mlp()
    optimizer = optim.SGD(network[2].parameters(), lr=0.5)
    net = DNI(network, optim=optimizer)
    assert net.optimizer is optimizer
    before = copy.deepcopy(network)
    train(net)
    assert torch.equal(network[0].weight, before[0].weight)  # it was given the last layer only
    assert not torch.equal(network[2].weight, before[2].weight)


def test_every_optimizer_of_torch_has_a_name() -> None:
    assert {"adam", "adamw", "sgd", "rmsprop", "adagrad", "nadam"} <= set(OPTIMIZERS)
    assert "optimizer" not in OPTIMIZERS


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad", "nadam", "rprop"])
def test_an_optimizer_by_name_trains_network_and_synthesizers(name: str) -> None:
    network = mlp()
    net = DNI(network, grad_optim=name, grad_lr=0.01)
    assert type(net.optimizer) is type(net.synthesizer_optimizer) is OPTIMIZERS[name]
    before = copy.deepcopy(net.state_dict())
    train(net, 4)
    for key, value in net.state_dict().items():
        if "weight" in key or "bias" in key:
            assert value.isfinite().all(), key
            assert not torch.equal(value, before[key]), key


def test_what_a_factory_cannot_make_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"`optim` could not be made .* a number such as 1e-3"):
        DNI(mlp(), optim=lambda p: optim.SGD(p, lr="high"))  # type: ignore[arg-type]


def test_both_optimizers_get_their_own_kind_and_rate() -> None:
    net = DNI(mlp(), optim=lambda p: optim.SGD(p, lr=0.3), grad_optim="adam", grad_lr=0.02)
    assert type(net.optimizer) is optim.SGD
    assert type(net.synthesizer_optimizer) is optim.Adam
    assert net.optimizer.param_groups[0]["lr"] == 0.3
    assert net.synthesizer_optimizer.param_groups[0]["lr"] == 0.02


def test_a_frozen_parameter_is_in_no_optimizer() -> None:
    network = mlp()
    network[0].weight.requires_grad_(False)
    net = DNI(network)
    parameters = [p for g in net.optimizer.param_groups for p in g["params"]]
    assert not any(p is network[0].weight for p in parameters)
    before = network[0].weight.clone()
    train(net)
    assert torch.equal(network[0].weight, before)


def test_a_learning_rate_scheduler_of_the_users_works_on_both() -> None:
    net = DNI(mlp(), optim="sgd", grad_optim="sgd", grad_lr=1.0)
    schedulers = [
        optim.lr_scheduler.StepLR(o, 1, gamma=0.0)
        for o in (net.optimizer, net.synthesizer_optimizer)
    ]
    train(net, 2)
    for scheduler in schedulers:
        scheduler.step()
    before = copy.deepcopy(net.state_dict())
    train(net, 2)
    for key, value in net.state_dict().items():
        if "weight" in key or "bias" in key:
            assert torch.equal(value, before[key]), key


def test_synthesizers_made_late_are_optimized_too() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, input: Tensor) -> Tensor:
            return input + self.layer(input)

    net = DNI(nn.Sequential(Skip(), nn.Linear(4, 3)), sites=["0", "1"])
    train(net, 3)
    assert set(net.interfaces) == {"0", "1"}
    assert all(i.synthesizer.final.weight.any() for i in net.interfaces.values())


# -- order ---------------------------------------------------------------------------------------


def test_a_saved_state_finds_its_synthesizers_in_another_order() -> None:
    class Branches(nn.Module):
        """Its blocks show their layout when they are called, in an order that may turn."""

        def __init__(self, *, turned: bool) -> None:
            super().__init__()
            self.a = nn.ModuleList([nn.Linear(4, 3)])
            self.left, self.right = Block(5), Block(7)
            self.turned = turned

        def forward(self, input: Tensor) -> Tensor:
            order = (self.right, self.left) if self.turned else (self.left, self.right)
            return self.a[0](input) + sum(block(input).sum(1, keepdim=True) for block in order)

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(4, width)

        def forward(self, input: Tensor) -> Tensor:
            return self.layer(input).tanh()

    one, two = Branches(turned=False), Branches(turned=True)
    two.load_state_dict(one.state_dict())
    saved, other = (DNI(n, sites=["left", "right"]) for n in (one, two))
    train(saved)
    train(other, 1)
    assert list(saved.interfaces) != list(other.interfaces)
    other.load_training_state(saved.training_state())
    for site in ("left", "right"):
        for a, b in zip(
            saved.interfaces[site].synthesizer.parameters(),
            other.interfaces[site].synthesizer.parameters(),
            strict=True,
        ):
            assert torch.equal(a, b)
            for key in ("exp_avg", "exp_avg_sq", "step"):
                mine = saved.synthesizer_optimizer.state[a][key]
                assert torch.equal(mine, other.synthesizer_optimizer.state[b][key])


def test_a_state_in_the_same_order_stays_as_it_is() -> None:
    net = DNI(mlp())
    train(net, 1)
    saved = net.synthesizer_optimizer.state_dict()
    assert ordered_like(saved, net.synthesizer_optimizer)["param_groups"] == saved["param_groups"]


# -- the end of backward -------------------------------------------------------------------------


class Counter:
    """Notes the gradients it sees each time a backward pass ends."""

    def __init__(self, leaves: list[Tensor], *, expects: bool = True) -> None:
        self.leaves, self.expects = leaves, expects
        self.seen: list[list[float | None]] = []
        self.end = BackwardEnd(self.note, self.is_expected)

    def note(self, is_heard: bool) -> None:
        assert is_heard
        self.seen.append([None if p.grad is None else p.grad.item() for p in self.leaves])

    def is_expected(self) -> bool:
        return self.expects


def scalars(count: int) -> list[Tensor]:
    return [torch.tensor(1.0, requires_grad=True) for _ in range(count)]


def test_the_end_is_told_once_when_all_gradients_are_there() -> None:
    a, b, c = scalars(3)
    counter = Counter([a, b, c])
    for leaf in (a, b):
        counter.end.listen(leaf)
    (a * b * c * 2).backward()
    assert counter.seen == [[2.0, 2.0, 2.0]]
    (a * 3).backward()
    assert counter.seen[1:] == [[5.0, 2.0, 2.0]]
    (c * 3).backward()  # reaches none that is listened to
    assert len(counter.seen) == 2


def test_gradients_asked_for_by_name_are_no_end() -> None:
    a, b = scalars(2)
    counter = Counter([a, b])
    counter.end.listen(a)
    torch.autograd.grad(a * b, b)
    assert counter.seen == []


@pytest.mark.parametrize("expects", [True, False])
def test_a_leaf_may_count_only_while_it_is_expected(expects: bool) -> None:
    (a,) = scalars(1)
    counter = Counter([a], expects=expects)
    counter.end.listen_if_expected(a)
    (a * 2).backward()
    assert len(counter.seen) == expects


@pytest.mark.parametrize("listens", [True, False])
def test_a_pass_may_be_expected_before_any_gradient_is_there(listens: bool) -> None:
    class Told(Counter):
        def note(self, is_heard: bool) -> None:
            self.seen.append([float(is_heard)])

    (a,) = scalars(1)
    counter = Told([a])
    if listens:
        counter.end.listen_if_expected(a)
    middle = a * 2
    middle.register_hook(lambda _: counter.end.expect())
    middle.backward()
    assert counter.seen == [[float(listens)]]
    torch.autograd.grad(a * 2, a)
    assert len(counter.seen) == 1


def test_a_handle_ends_the_listening() -> None:
    (a,) = scalars(1)
    counter = Counter([a])
    counter.end.listen(a).remove()
    (a * 2).backward()
    assert counter.seen == []


def test_a_pass_that_raised_does_not_swallow_the_next_one() -> None:
    a, b = scalars(2)
    counter = Counter([a, b])
    counter.end.listen(a)

    def burn(gradient: Tensor) -> None:
        raise ArithmeticError("burnt")

    handle = b.register_hook(burn)
    with pytest.raises(ArithmeticError):
        (b * 1 + a * 2).backward()
    handle.remove()
    counter.end.forget()
    assert counter.seen == []
    a.grad = b.grad = None
    (a * 2).backward()
    assert counter.seen == [[2.0, None]]


def test_the_listener_is_not_kept_alive() -> None:
    (a,) = scalars(1)
    counter = Counter([a])
    counter.end.listen(a)
    gone = weakref.ref(counter)
    del counter
    gc.collect()
    assert gone() is None
    (a * 2).backward()
    assert a.grad == 2
