"""The wrapper itself: when it updates, what it leaves readable, and how it is saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from dni import DNI, CheckpointError

X, Y = torch.linspace(-1, 1, 24).view(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def backward(net: nn.Module) -> float:
    loss = F.cross_entropy(net(X), Y)
    loss.backward()
    return loss.item()


def pair(**options: Any) -> tuple[nn.Sequential, DNI]:
    """A network and a wrapper of its copy, with the same random synthesizers every time."""
    network = mlp()
    torch.manual_seed(1)
    net = DNI(copy.deepcopy(network), **options)
    return network, net


def weights(net: DNI) -> dict[str, Tensor]:
    """Copies of what optimizers change."""
    return {n: p.detach().clone() for n, p in net.named_parameters() if not n.endswith("meter")}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def gradients(network: nn.Module) -> list[Tensor]:
    found = [p.grad for p in network.parameters()]
    assert all(g is not None for g in found)
    return [g.clone() for g in found if g is not None]


def assert_equal(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


# -- update="auto" -------------------------------------------------------------------------------


def test_gradients_are_readable_after_an_automatic_update_and_cleared_by_the_next_forward() -> None:
    network, net = pair(λ=1.0, optim="sgd", grad_lr=0.1)
    backward(network)
    backward(net)
    assert_equal(gradients(net.network), gradients(network))
    net(X)
    assert all(p.grad is None for p in net.network.parameters())


@pytest.mark.parametrize("way", ["eval", "no_grad", "paused"])
def test_gradients_stay_where_no_training_forward_comes(way: str) -> None:
    _, net = pair()
    backward(net)
    before = gradients(net.network)
    if way == "eval":
        net.eval()(X)
    elif way == "no_grad":
        with torch.no_grad():
            net(X)
    else:
        with net.paused():
            net(X)
    assert_equal(gradients(net.network), before)


def test_each_backward_makes_one_update() -> None:
    _, net = pair()
    assert net.updates == 0
    for count in (1, 2, 3):
        before = weights(net)
        backward(net)
        assert net.updates == count
        assert {n for n in before if n.startswith("network")} <= changed(before, weights(net))


def test_a_zero_grad_of_the_users_between_passes_changes_nothing() -> None:
    _, one = pair()
    two = copy.deepcopy(one)
    for _ in range(4):
        backward(one)
        two.zero_grad()
        two.optimizer.zero_grad(set_to_none=False)
        backward(two)
    assert changed(weights(one), weights(two)) == set()


def test_gradients_that_no_update_has_used_are_not_cleared() -> None:
    _, net = pair()
    with net.paused():
        backward(net)  # nothing steps: no interface was passed
    before = gradients(net.network)
    assert net.updates == 0
    net(X)
    assert_equal(gradients(net.network), before)


# -- update="manual" -----------------------------------------------------------------------------


def test_nothing_steps_by_itself_when_updates_are_manual() -> None:
    _, net = pair(update="manual")
    before = weights(net)
    for _ in range(3):
        backward(net)
    assert net.updates == 0
    assert changed(before, weights(net)) == set()


def test_manual_steps_do_what_automatic_updates_do() -> None:
    _, manual = pair(update="manual")
    automatic = pair(update="auto")[1]
    automatic.load_training_state(manual.training_state())
    for _ in range(5):
        backward(automatic)
        manual.zero_grad()
        backward(manual)
        manual.step()
    assert changed(weights(automatic), weights(manual)) == set()
    assert automatic.statistics() == manual.statistics()
    assert automatic.updates == manual.updates == 5


def test_a_step_may_leave_out_the_network_or_the_synthesizers() -> None:
    _, net = pair(update="manual", scale_targets=False)
    backward(net)
    before = weights(net)
    net.step(network=False)
    middle = weights(net)
    assert changed(before, middle) == {n for n in before if "final" in n}, "the rest starts at zero"
    backward(net)
    net.step(synthesizers=False)
    assert changed(middle, weights(net)) == {n for n in before if n.startswith("network")}


def test_an_optimizer_of_an_outer_loop_over_the_network_gets_the_mixed_gradients() -> None:
    _, net = pair(update="manual", λ=0.5, optim="sgd", grad_lr=0.05)
    twin = copy.deepcopy(net)
    outer = optim.SGD(net.network.parameters(), lr=0.05)
    for _ in range(5):
        outer.zero_grad()
        backward(net)
        outer.step()
        net.step(network=False)
        twin.zero_grad()
        backward(twin)
        twin.step()
    assert changed(weights(net), weights(twin)) == set()
    assert net.statistics() == twin.statistics()


def test_an_optimizer_of_an_outer_loop_over_everything_trains_the_synthesizers_too() -> None:
    """What Lightning and Accelerate do: one optimizer over ``net.parameters()``."""
    _, net = pair(update="manual", λ=0.5, grad_lr=0.01)
    twin = copy.deepcopy(net)
    outer = optim.SGD(net.parameters(), lr=0.05)
    network = optim.SGD(twin.network.parameters(), lr=0.05)
    synthesizers = optim.SGD(
        [p for i in twin.interfaces.values() for p in i.synthesizer.parameters()], lr=0.05
    )
    for _ in range(5):
        outer.zero_grad()
        backward(net)
        outer.step()
        backward(twin)
        for optimizer in (network, synthesizers):
            optimizer.step()
            optimizer.zero_grad()
        twin.zero_grad()
    assert changed(weights(net), weights(twin)) == set()
    assert changed(weights(net), weights(pair(update="manual")[1])) == set(weights(net))
    net(X)  # what the last backward told is taken in here at the latest
    assert all(found["true_norm"] > 0 for found in net.statistics().values())
    assert all(found["scale"] > 0 for found in net.statistics().values())


# -- clip ----------------------------------------------------------------------------------------


def test_clipping_bounds_the_norm_of_the_network_and_of_the_synthesizers() -> None:
    network, net = pair(λ=1.0, optim="sgd", grad_lr=0.1, clip=0.01)
    optimizer = optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        backward(network)
        assert nn.utils.clip_grad_norm_(network.parameters(), 0.01) > 0.01
        optimizer.step()
        backward(net)
        assert_equal(gradients(net.network), gradients(network))
    assert_equal(net.network.parameters(), network.parameters())


def test_clipping_bounds_the_update_of_the_synthesizers_by_itself() -> None:
    _, net = pair(optim="adam", grad_optim="sgd", grad_lr=1.0, clip=0.01, scale_targets=False)
    with torch.no_grad():
        for interface in net.interfaces.values():
            interface.synthesizer.final.bias.fill_(3.0)
    before = weights(net)
    backward(net)
    after = weights(net)
    moves = [after[n] - before[n] for n in before if n.startswith("interfaces")]
    norm = torch.stack([move.norm() for move in moves]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-4)


# -- train_synthesizers=False --------------------------------------------------------------------


def test_synthesizers_stay_as_they_are_when_they_are_not_trained() -> None:
    _, net = pair(train_synthesizers=False, λ=0.5, scale_targets=False)
    with torch.no_grad():
        for interface in net.interfaces.values():
            interface.synthesizer.final.bias.fill_(0.1)
    before = weights(net)
    for _ in range(3):
        backward(net)
    assert net.synthesizer_optimizer is None
    assert changed(before, weights(net)) == {n for n in before if n.startswith("network")}
    for found in net.statistics().values():  # they are still watched, and still mixed in
        assert found["true_norm"] > 0
        assert found["synthetic_norm"] > 0
    assert all(p.grad is None for i in net.interfaces.values() for p in i.synthesizer.parameters())


def test_synthesizers_may_be_trained_elsewhere_and_then_used_frozen() -> None:
    _, net = pair()
    for _ in range(5):
        backward(net)
    fixed = DNI(copy.deepcopy(net.network), train_synthesizers=False)
    fixed.load_state_dict(net.state_dict())
    before = weights(fixed)
    backward(fixed)
    assert changed(before, weights(fixed)) == {n for n in before if n.startswith("network")}
    assert all(found["synthetic_norm"] > 0 for found in fixed.statistics().values())


# -- skip_last_layer -----------------------------------------------------------------------------


class Backwards(nn.Module):
    """Registers its modules in another order than it calls them in."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(8, 3)
        self.hidden = nn.Linear(4, 8)

    def forward(self, input: Tensor) -> Tensor:
        return self.output(self.hidden(input).tanh())


def test_the_site_that_is_called_last_keeps_its_true_gradient() -> None:
    net = DNI(Backwards(), skip_last_layer=True, λ=0.0, update="manual")
    backward(net)
    net.step()
    assert list(net.interfaces) == ["hidden"]
    plain = copy.deepcopy(net.network)
    net.zero_grad()
    plain.zero_grad()
    backward(net)
    backward(plain)
    assert_equal(gradients(net.network.output), gradients(plain.output))
    assert not torch.equal(net.network.hidden.weight.grad, plain.hidden.weight.grad)


def test_the_first_pass_is_backprop_while_the_last_layer_is_not_known() -> None:
    network, net = pair(skip_last_layer=True, λ=0.0, update="manual")
    backward(network)
    backward(net)
    assert_equal(gradients(net.network), gradients(network))
    net.step()
    net.zero_grad()
    backward(net)
    assert not torch.equal(gradients(net.network)[0], gradients(network)[0])
    assert net.λ == 0.0


def test_a_state_without_the_last_layer_goes_into_a_fresh_wrapper_before_any_forward() -> None:
    _, net = pair(skip_last_layer=True, λ=0.0)
    for _ in range(4):
        backward(net)
    assert list(net.interfaces) == ["0", "2"]
    state = copy.deepcopy(net.training_state())  # like a state_dict, it holds the live tensors
    assert not any("interfaces./4" in key for key in state["model"])

    _, fresh = pair(skip_last_layer=True, λ=0.0)
    fresh.load_training_state(state)
    assert list(fresh.interfaces) == ["0", "2"]
    for _ in range(3):  # the first of them is no pass of plain backprop: the last layer is known
        backward(net)
        backward(fresh)
    assert changed(weights(net), weights(fresh)) == set()
    assert fresh.statistics() == net.statistics()


def test_a_state_without_the_last_layer_does_not_fit_a_wrapper_that_has_it() -> None:
    _, net = pair(skip_last_layer=True)
    backward(net)
    with pytest.raises(CheckpointError, match=r"interfaces\./4"):
        pair()[1].load_state_dict(net.state_dict())


def test_a_copy_made_before_the_first_pass_skips_the_last_layer_too() -> None:
    _, net = pair(skip_last_layer=True, λ=0.0)
    twin = copy.deepcopy(net)
    for wrapper in (net, twin):
        for _ in range(3):
            backward(wrapper)
        assert list(wrapper.interfaces) == ["0", "2"]
    assert changed(weights(net), weights(twin)) == set()


def test_a_network_of_one_layer_trains_by_backprop_when_its_last_layer_is_skipped() -> None:
    plain = nn.Linear(4, 3)
    net = DNI(copy.deepcopy(plain), skip_last_layer=True, λ=0.0, optim="sgd", grad_lr=0.1)
    optimizer = optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        backward(net)
        optimizer.zero_grad()
        backward(plain)
        optimizer.step()
    assert net.updates == 3
    assert len(net.interfaces) == 0
    assert_equal(net.network.parameters(), plain.parameters())


# -- gradients of gradients ----------------------------------------------------------------------


def test_a_gradient_penalty_at_share_one_is_that_of_the_network() -> None:
    network, net = pair(λ=1.0, update="manual")
    for module in (network, net):
        input = X.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(input).sum(), input, create_graph=True)
        slope.square().sum().backward()
    for a, b in zip(net.network.parameters(), network.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


def test_a_gradient_penalty_does_not_train_synthesizers_through_what_they_propagated() -> None:
    net = DNI(nn.Linear(4, 3), λ=0.0, scale_targets=False, update="manual")
    synthesizer = net.interfaces[""].synthesizer
    with torch.no_grad():
        synthesizer.final.bias.fill_(1.0)
    input = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(input).sum(), input, create_graph=True)
    slope.square().sum().backward()
    # The slope is that of the linear map alone, Wᵀs: nothing asks for a regression here.
    assert net.network.weight.grad.any()
    assert all(p.grad is None or not p.grad.any() for p in synthesizer.parameters())


# -- transparency --------------------------------------------------------------------------------


def test_the_wrapper_is_the_network_in_evaluation_and_without_grad() -> None:
    network, net = pair()
    state = copy.deepcopy(net.state_dict())
    calls: list[int] = []
    for interface in net.interfaces.values():
        interface.synthesizer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(net(X), network(X))
    net.eval()
    network.eval()
    output = net(X)
    assert torch.equal(output, network(X))
    output.sum().backward()  # gradients for the asking, and no update
    assert calls == []
    assert net.updates == 0
    for key, value in net.state_dict().items():
        assert not isinstance(value, Tensor) or torch.equal(value, state[key]), key


def test_attributes_of_the_network_are_reached_through_the_wrapper() -> None:
    class Tagged(nn.Sequential):
        tag = "mine"

        def count(self) -> int:
            return len(self)

    net = DNI(Tagged(nn.Linear(4, 3)))
    assert net.tag == "mine"
    assert net.count() == 1
    assert net.network.state_dict().keys() == Tagged(nn.Linear(4, 3)).state_dict().keys()


def test_train_and_eval_reach_network_and_synthesizers() -> None:
    _, net = pair(dni_network="linear_batchnorm")
    net.eval()
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())


def test_synthesizers_do_not_depend_on_the_order_in_which_they_are_made() -> None:
    torch.manual_seed(7)
    all_at_once = DNI(mlp())
    torch.manual_seed(7)
    network = mlp()
    one_only = DNI(network, sites=["2"])
    assert_equal(
        one_only.interfaces["2"].synthesizer.parameters(),
        all_at_once.interfaces["2"].synthesizer.parameters(),
    )
    different = [i.synthesizer.hidden_layers[0].weight for i in all_at_once.interfaces.values()][:2]
    assert not torch.equal(*different)


def test_another_seed_makes_other_synthesizers() -> None:
    network = mlp()
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        net = DNI(copy.deepcopy(network))
        made.append(net.interfaces["0"].synthesizer.hidden_layers[0].weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_making_a_wrapper_takes_nothing_from_the_random_stream() -> None:
    network = mlp()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    DNI(network, hidden_size=32)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.initial_seed() == 5


# -- a wrapper inside a larger network -----------------------------------------------------------


def test_the_state_of_a_larger_network_brings_the_interfaces_of_a_wrapper_inside() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, input: Tensor) -> Tensor:
            return input + self.layer(input)

    def build() -> nn.Sequential:
        return nn.Sequential(DNI(Residual(), recursive=False), nn.Linear(4, 3))

    outer = build()
    for _ in range(3):
        backward(outer)
    fresh = build()
    assert len(fresh[0].interfaces) == 0
    fresh.load_state_dict(outer.state_dict())
    assert list(fresh[0].interfaces) == [""]
    assert fresh[0].statistics() == outer[0].statistics()
    assert fresh.state_dict().keys() == outer.state_dict().keys()
