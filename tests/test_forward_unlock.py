"""`unlock="forward"`: modules start from synthetic activations; evaluation from real ones."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, CheckpointError, ConfigError, ContextError, ShapeError, SiteError
from dni.activations import EPSILON, ActivationNetwork

SITES = ["0", "2"]


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def wrapped(net: nn.Module | None = None, **kwargs: Any) -> DNI:
    arguments: dict[str, Any] = {
        "dni_network": "critic",
        "optim": "sgd",
        "grad_lr": 0.1,
        "λ": 0,
        "sites": SITES,
        "context_size": 3,
        "unlock": "forward",
    }
    return DNI(network() if net is None else net, **{**arguments, **kwargs})


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 6, generator=generator), torch.arange(8) % 3


def fit(net: DNI, steps: int, start: int = 0) -> list[float]:
    losses = []
    for seed in range(start, start + steps):
        x, y = batch(seed)
        loss = F.cross_entropy(net(x, context=y), y)
        loss.backward()
        losses.append(loss.item())
    return losses


# -- what it computes ----------------------------------------------------------------------------


def predicted(net: DNI, name: str, x: Tensor, real: Tensor) -> Tensor:
    """The synthetic activation of a pass, slowly: the target's moments count this batch in."""
    twin = copy.deepcopy(net.activations[name])
    twin.observe(real)
    twin.train()
    with torch.no_grad():
        return twin(x)


def test_a_step_is_the_paper_s_complete_unlock() -> None:
    """Each module learns by plain autograd from its synthetic input and its synthetic gradient."""
    net = wrapped()
    fit(net, 12)
    x, y = batch(50)
    context = F.one_hot(y, 3).to(x)
    seen = torch.cat((x, context), 1)
    old = copy.deepcopy(net.network)
    interfaces = copy.deepcopy(net.interfaces)
    lower, upper, head = old[0], old[2], old[4]

    real0 = lower(x)
    guess0 = predicted(net, "0", seen, real0.detach()).requires_grad_()
    real1 = upper(guess0.tanh())
    guess1 = predicted(net, "2", seen, real1.detach()).requires_grad_()
    loss = F.cross_entropy(head(guess1.tanh()), y)

    def synthetic(name: str, real: Tensor) -> Tensor:
        interface = interfaces[name]
        return (interface.predict(real.detach(), context) * interface.scale).detach()

    expected = {
        "0": torch.autograd.grad(real0, list(lower.parameters()), synthetic("0", real0)),
        "4": torch.autograd.grad(loss, [*head.parameters(), guess1]),
    }
    *for_upper, true0 = torch.autograd.grad(
        real1, [*upper.parameters(), guess0], synthetic("2", real1)
    )
    expected["2"], true1 = tuple(for_upper), expected["4"][-1]

    output = net(x, context=y)
    torch.testing.assert_close(output, head(guess1.tanh()))
    heard = [net.interfaces[name].running.clone() for name in SITES]
    F.cross_entropy(output, y).backward()
    for name in ("0", "2", "4"):
        module, before = net.network.get_submodule(name), old.get_submodule(name)
        for p, q, gradient in zip(
            module.parameters(), before.parameters(), expected[name], strict=False
        ):
            torch.testing.assert_close(p, q - 0.1 * gradient)
    for name, true, before_running in zip(SITES, (true0, true1), heard, strict=True):
        gained = net.interfaces[name].running[0] - 0.98 * before_running[0]
        torch.testing.assert_close(gained, 0.02 * true.square().sum().float(), rtol=1e-3, atol=0)


def test_evaluation_is_the_network() -> None:
    net = wrapped()
    fit(net, 3)
    x, _ = batch(9)
    net.eval()
    assert torch.equal(net(x), net.network(x))
    plain = network()
    plain.load_state_dict(net.network.state_dict())
    assert torch.equal(net(x), plain(x))


def test_a_real_activation_plays_no_part_in_what_is_handed_on() -> None:
    """The module above does not wait for the one below: its input does not depend on it."""
    net = wrapped()
    fit(net, 5)
    frozen = wrapped(net.detach(), train_synthesizers=False)
    frozen.load_state_dict(net.state_dict())
    x, y = batch(60)
    seen: list[Tensor] = []
    frozen.network[1].register_forward_hook(lambda m, args, out: seen.append(args[0].detach()))
    for _ in range(2):
        frozen(x, context=y)
        with torch.no_grad():
            frozen.network[0].weight.normal_()
    assert torch.equal(seen[0], seen[1])


def test_the_guesses_come_near_the_activations() -> None:
    net = wrapped(grad_lr=0.01, optim=lambda p: torch.optim.SGD(p, lr=0.0))
    x, y = batch()
    for _ in range(300):
        F.cross_entropy(net(x, context=y), y).backward()
    with torch.no_grad():
        real, guess = net.network[0](x), net.activations["0"](torch.cat((x, F.one_hot(y, 3)), 1))
    assert (guess - real).square().mean() < 0.05 * real.var()


def test_an_activation_network_learns_the_normalized_target() -> None:
    torch.manual_seed(0)
    predictor = ActivationNetwork(4, (2, 3))
    x, real = torch.randn(7, 4), 5 + 3 * torch.randn(7, 2, 3)
    torch.testing.assert_close(predictor.learn(x, real), real.mean(0).expand(7, 2, 3))
    bias = predictor.final.bias.grad
    normal = (real - real.mean(0)) / (real.var(0, correction=0) + EPSILON).sqrt()
    torch.testing.assert_close(bias, (-2 * normal / 42).sum(0).flatten())
    later = 1 + torch.randn(7, 2, 3)
    predictor.observe(later)
    torch.testing.assert_close(predictor.mean, 0.9 * real.mean(0) + 0.1 * later.mean(0))


def test_it_learns() -> None:
    torch.manual_seed(0)
    centres = 3 * torch.randn(3, 6)
    net = wrapped(grad_optim="adam", grad_lr=0.01, optim=lambda p: torch.optim.Adam(p, lr=0.01))
    y = torch.arange(60) % 3
    x = centres[y] + torch.randn(60, 6)
    for _ in range(150):
        F.cross_entropy(net(x, context=y), y).backward()
    net.eval()
    assert (net(x).argmax(1) == y).double().mean() > 0.9


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        return self.head((stem + self.block(stem)).flatten(1))


def test_feature_maps_and_a_skip() -> None:
    net = wrapped(Residual(), sites=["stem", "block"], dni_network=None, context_size=None)
    before = copy.deepcopy(net.state_dict())
    for _ in range(12):
        loss = F.cross_entropy(net(torch.randn(6, 1, 4, 4)), torch.arange(6) % 3)
        loss.backward()
    assert net.activations["stem"].shape == (4, 4, 4)
    after = net.state_dict()
    for name, _ in net.named_parameters():
        if "meter" not in name:
            assert not torch.equal(before.get(name, torch.zeros(())), after[name]), name


def test_the_last_layer_may_be_skipped_by_itself() -> None:
    net = wrapped(sites=None, skip_last_layer=True)
    fit(net, 3)
    assert list(net.activations) == ["0", "2"]


def test_a_warm_up_runs_on_real_activations() -> None:
    net = wrapped(λ=lambda updates: 1.0 if updates < 2 else 0.0)
    fit(net, 2)
    assert list(net.activations) == []
    fit(net, 1)
    assert list(net.activations) == SITES


def test_frozen_networks_stay_as_they_are() -> None:
    net = wrapped()
    fit(net, 4)
    frozen = wrapped(train_synthesizers=False)
    frozen.load_state_dict(net.state_dict())
    before = copy.deepcopy(frozen.activations.state_dict())
    fit(frozen, 2)
    after = frozen.activations.state_dict()
    # The batch normalization inside counts its batches, as it does everywhere.
    changed = {k for k, v in before.items() if isinstance(v, Tensor) and not v.equal(after[k])}
    assert all("running" in key or "num_batches" in key for key in changed)


# -- life ----------------------------------------------------------------------------------------


def test_going_on_from_a_saved_state_changes_nothing() -> None:
    net = wrapped(grad_optim="adam")
    fit(net, 5)
    file = io.BytesIO()
    torch.save(net.training_state(), file)
    file.seek(0)
    other = wrapped(grad_optim="adam")
    other.load_training_state(torch.load(file, weights_only=True))
    assert list(other.activations) == SITES
    assert fit(net, 5, start=5) == fit(other, 5, start=5)
    for key, value in net.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_go_on_alike(copied: Any) -> None:
    net = wrapped()
    fit(net, 3)
    other = copied(net)
    assert fit(net, 3, start=3) == fit(other, 3, start=3)


def test_a_state_for_other_inputs_is_refused_and_nothing_is_loaded() -> None:
    net = wrapped()
    fit(net, 2)
    wider = wrapped(nn.Sequential(nn.Flatten(), *network()), sites=["1", "3"])
    with pytest.raises(CheckpointError):
        wider.load_state_dict(net.state_dict())
    assert list(wider.activations) == []
    fit(wider, 1)
    with pytest.raises(CheckpointError, match="unlock|activations"):
        wrapped(unlock="update").load_state_dict(net.state_dict())


def test_a_forward_pass_without_backward_is_forgotten() -> None:
    net, other = wrapped(), wrapped()
    fit(net, 12)
    fit(other, 12)
    x, y = batch(70)
    net(x, context=y)  # no backward: the modules have learned, the synthesizers have not
    with torch.no_grad():
        other.network.load_state_dict(net.network.state_dict())
        other.activations.load_state_dict(net.activations.state_dict())
    fit(net, 1, start=71)
    fit(other, 1, start=71)
    for name, p in other.named_parameters():
        assert torch.equal(p, net.get_parameter(name)), name


def test_the_input_of_a_pass_is_let_go() -> None:
    net = wrapped()
    x, y = batch()
    x = x.clone()
    F.cross_entropy(net(x, context=y), y).backward()
    ref = weakref.ref(x)
    del x
    gc.collect()
    assert ref() is None


# -- what cannot work ----------------------------------------------------------------------------


def test_a_site_whose_output_is_returned_is_refused() -> None:
    net = wrapped(sites=["0", "2", "4"])
    with pytest.raises(ConfigError, match="returns the output of site '4'.*skip_last_layer"):
        fit(net, 1)
    with pytest.raises(ConfigError, match="the output of the network itself"):
        fit(wrapped(sites=None, recursive=False), 1)


def test_a_share_of_the_true_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match="unlock='forward'.*λ=0.5"):
        wrapped(λ=0.5)


def test_tokens_are_refused() -> None:
    net = wrapped(
        nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3)),
        sites=["0"],
        dni_network=None,
        context_size=None,
    )
    with pytest.raises(ConfigError, match="no floating-point tensor.*unlock='update'"):
        net(torch.zeros(6, 2, dtype=torch.long))


def test_a_batch_that_is_not_in_front_is_refused() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.transpose(0, 1))[0][-1])

    net = wrapped(TimeFirst(), sites=["rnn"], dni_network=None, context_size=None)
    with pytest.raises(SiteError, match="site 'rnn'.*first axis of both must be the batch"):
        net(torch.randn(6, 2, 3))


def test_a_module_called_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.shared(self.shared(x).tanh()).tanh())

    net = wrapped(Twice(), sites=["shared"])
    for _ in range(2):
        with pytest.raises(SiteError, match="calls it more than once"):
            fit(net, 1)


def test_other_sizes_are_refused() -> None:
    net = wrapped(
        nn.Sequential(nn.Conv1d(1, 2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 3)),
        sites=["0"],
        dni_network="linear",
        context_size=None,
    )
    net(torch.randn(6, 1, 5)).sum().backward()
    with pytest.raises(ShapeError, match=r"\(2, 5\) at site '0' from 5 .* shape \(2, 7\) and 7"):
        net(torch.randn(6, 1, 7))


def test_an_unknown_way_to_unlock_is_refused() -> None:
    with pytest.raises(ConfigError, match="'none', 'update' or 'forward'"):
        wrapped(unlock="backward")


def test_a_context_of_other_samples_is_refused() -> None:
    net = wrapped()
    with pytest.raises(ContextError, match="context, which has 7 samples"):
        net(batch()[0], context=torch.zeros(7, dtype=torch.long))
