"""The critic: its gradient is that of its local loss, and it learns the true one."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from checks import assert_trains, assert_untouched, mlp
from dni import DNI, ConfigError, ContextError, CriticDNI

# What torch warns of on its own account while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

D, C = 6, 4

REFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}
every_criterion = pytest.mark.parametrize("criterion", REFERENCES)


def awake(critic: CriticDNI) -> CriticDNI:
    """The critic in double precision, with weights that do not answer zero."""
    critic.double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return critic


def local_loss(critic: CriticDNI, criterion: str, rows: Tensor, target: Tensor) -> Tensor:
    """The loss whose gradient the critic is to give, written out once more."""
    output = critic.first(rows)
    if critic.final is not None:
        units = output[:, C:].relu()
        for layer in critic.hidden_layers:
            units = layer(units).relu()
        output = output[:, :C] + critic.final(units)
    return critic.gain.exp() * REFERENCES[criterion](output, target)


def one_hot(*shape: int) -> Tensor:
    return F.one_hot(torch.randint(C, shape), C).double()


def through_autograd(loss: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    leaf = input.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    return gradient


@every_criterion
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 2)], ids=["[B,D]", "[B,T,D]", "[B,*,D]"])
def test_the_gradient_is_that_of_the_local_loss(
    criterion: str, layers: int, shape: tuple[int, ...]
) -> None:
    critic = awake(CriticDNI(D, 7, D, C, criterion=criterion, num_layers=layers))
    input, target = torch.randn(*shape, D).double(), one_hot(*shape)

    def loss(leaf: Tensor) -> Tensor:
        return local_loss(critic, criterion, leaf.view(-1, D), target.view(-1, C))

    gradient, hidden = critic(input, "passed on", target)
    assert hidden == "passed on"
    torch.testing.assert_close(gradient, through_autograd(loss, input))


@every_criterion
@pytest.mark.parametrize("layers", [0, 1])
def test_a_criterion_of_ones_own_gives_the_same_gradient(criterion: str, layers: int) -> None:
    named = awake(CriticDNI(D, 7, D, C, criterion=criterion, num_layers=layers))
    own = CriticDNI(D, 7, D, C, criterion=REFERENCES[criterion], num_layers=layers).double()
    own.load_state_dict(named.state_dict())
    input, target = torch.randn(5, D).double(), one_hot(5)
    torch.testing.assert_close(own(input, None, target)[0], named(input, None, target)[0])
    # The same to the regression too: its gradient for every weight.
    teacher = torch.randn(5, D).double()
    for critic in (own, named):
        ((critic(input, None, target)[0] - teacher) ** 2).sum().backward()
    for (name, a), b in zip(own.named_parameters(), named.parameters(), strict=True):
        assert a.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad)


@every_criterion
def test_every_weight_learns_the_right_gradient(criterion: str) -> None:
    critic = awake(CriticDNI(D, 7, D, C, criterion=criterion))
    input, target = torch.randn(5, D).double(), one_hot(5)
    names = [name for name, _ in critic.named_parameters()]

    def gradient_with(*weights: Tensor) -> Tensor:
        found: tuple[Tensor, object] = torch.func.functional_call(
            critic, dict(zip(names, weights, strict=True)), (input, None, target)
        )
        return found[0]

    weights = tuple(p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(gradient_with, weights)


@every_criterion
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("size", [(4, 4), (4, 8), (2, 2), (5, 7), (1, 3)], ids=str)
def test_a_map_gets_the_gradient_through_the_pooling(
    criterion: str, layers: int, size: tuple[int, int]
) -> None:
    critic = CriticDNI(3, 5, 3, C, criterion=criterion, num_layers=layers, maps=True, pool_size=2)
    awake(critic)
    input, target = torch.randn(5, 3, *size).double(), one_hot(5)

    def loss(leaf: Tensor) -> Tensor:
        grid = F.adaptive_avg_pool2d(leaf, (min(size[0], 2), min(size[1], 2)))
        corner = torch.zeros(5, 3, 2, 2).double()
        corner[..., : grid.shape[-2], : grid.shape[-1]] = grid
        return local_loss(critic, criterion, corner.flatten(1), target)

    gradient = critic(input, None, target)[0]
    torch.testing.assert_close(gradient, through_autograd(loss, input))


@every_criterion
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("maps", [False, True], ids=["vectors", "maps"])
@pytest.mark.parametrize("own", [False, True], ids=["named", "own"])
def test_the_local_loss_itself_is_learned_by_its_weight(
    criterion: str, layers: int, maps: bool, own: bool
) -> None:
    input = (torch.randn(5, 3, 4, 6) if maps else torch.randn(5, 3)).double()
    target, teacher = one_hot(5), torch.randn_like(input)
    rows = F.adaptive_avg_pool2d(input, (2, 2)).flatten(1) if maps else input
    params: dict[str, Any] = {"num_layers": layers, "maps": maps, "pool_size": 2}
    loss = REFERENCES[criterion] if own else criterion
    plain = awake(CriticDNI(3, 5, 3, C, criterion=loss, **params))
    both = CriticDNI(3, 5, 3, C, criterion=loss, sobolev=0.7, **params).double()
    both.load_state_dict(plain.state_dict())

    matched = ((plain(input, None, target)[0] - teacher) ** 2).sum()
    value = local_loss(plain, criterion, rows, target) / plain.gain.detach().exp()
    weights = [*plain.parameters()]
    expected = torch.autograd.grad(matched + 0.7 * value, weights)
    ((both(input, None, target)[0] - teacher) ** 2).sum().backward()
    for (name, parameter), wanted, own_gain in zip(
        both.named_parameters(), expected, [p is plain.gain for p in weights], strict=True
    ):
        assert parameter.grad is not None, name
        # The gain weighs the gradient alone: fitted to values, it would make every loss nothing.
        if own_gain:
            (wanted,) = torch.autograd.grad(
                ((plain(input, None, target)[0] - teacher) ** 2).sum(), [plain.gain]
            )
        torch.testing.assert_close(parameter.grad, wanted)


@every_criterion
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("maps", [False, True], ids=["vectors", "maps"])
def test_the_first_synthetic_gradient_is_zero(criterion: str, layers: int, maps: bool) -> None:
    critic = CriticDNI(D, 7, D, C, criterion=criterion, num_layers=layers, maps=maps)
    input = torch.randn(5, D, 9, 9) if maps else torch.randn(5, D)
    assert not critic(input, None, one_hot(5).float())[0].any()


def test_a_batch_of_one_and_a_context_of_another_type_work() -> None:
    critic = awake(CriticDNI(D, 7, D, C))
    input, target = torch.randn(1, D).double(), one_hot(1)
    expected = critic(input, None, target)[0]
    assert torch.equal(critic(input, None, target.float())[0], expected)


class Sequence(nn.Module):
    """Activations ``[B, T, D]`` and their linear head, or that of the mean over time."""

    def __init__(self, *, average: bool) -> None:
        super().__init__()
        self.site, self.head, self.average = nn.Linear(D, D), nn.Linear(D, C), average

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.head(self.site(input))
        return output.mean(1) if self.average else output.flatten(0, 1)


class Flat(nn.Sequential):
    """A vector and its linear head."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(D, D), nn.Linear(D, C))


class Maps(nn.Module):
    """A feature map and a linear head of it."""

    def __init__(self) -> None:
        super().__init__()
        self.site, self.head = nn.Conv2d(2, 3, 1), nn.Linear(3 * 4, C)

    def forward(self, input: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(self.site(input), 2)
        output: Tensor = self.head(pooled.flatten(1))
        return output


def learned(
    network: nn.Module,
    shape: tuple[int, ...],
    *,
    labels: tuple[int, ...] | None = None,
    site: str = "site",
    criterion: str = "cross_entropy",
    **params: Any,
) -> float:
    """Cosine of synthetic and true gradient after a critic watched a fixed network."""
    torch.manual_seed(0)
    net = DNI(
        network,
        CriticDNI,
        {"criterion": criterion, **params},
        sites=[site],
        context_size=C,
        grad_lr=0.02,
        update="manual",
    )
    for _ in range(400):
        y = torch.randint(C, labels or shape[:1])
        target = y.flatten() if criterion == "cross_entropy" else F.one_hot(y, C).float()
        loss = REFERENCES[criterion](net(2 * torch.randn(shape), context=y), target)
        net.zero_grad()
        loss.backward()
        net.step(network=False)
    return net.statistics()[site]["cosine"]


@every_criterion
def test_below_a_linear_head_it_learns_the_true_gradient(criterion: str) -> None:
    assert learned(Flat(), (32, D), site="0", criterion=criterion) > 0.99


def test_labels_may_be_of_every_position_or_of_a_sample() -> None:
    assert learned(Sequence(average=False), (8, 5, D), labels=(8, 5)) > 0.99
    # A mean over time couples the steps, which no function of one step can know.
    assert learned(Sequence(average=True), (8, 5, D)) > 0.5


def test_below_a_linear_head_of_a_map_it_learns_the_true_gradient() -> None:
    assert learned(Maps(), (32, 2, 6, 6), pool_size=2) > 0.99


def test_a_summed_loss_is_learned_too() -> None:
    torch.manual_seed(0)
    net = DNI(Flat(), "critic", sites=["0"], context_size=C, grad_lr=0.02, update="manual")
    for _ in range(600):
        x, y = 2 * torch.randn(32, D), torch.randint(C, (32,))
        net.zero_grad()
        F.cross_entropy(net(x, context=y), y, reduction="sum").backward()
        net.step(network=False)
    assert net.statistics()["0"]["cosine"] > 0.95
    assert net.statistics()["0"]["relative_error"] < 0.3


def test_a_critic_without_a_context_size_is_refused() -> None:
    network = mlp()
    twin = copy.deepcopy(network)
    with pytest.raises(ConfigError, match=r"context_size="):
        DNI(network, "critic")
    assert_untouched(network, twin)


def test_a_pass_without_the_labels_is_refused() -> None:
    net = DNI(mlp(), "critic", context_size=3)
    with pytest.raises(ContextError, match="context"):
        net(torch.randn(5, 4))
    assert_trains(net, context=torch.tensor([0, 1, 2, 1, 0]))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 0], [-1, 0, 0, 0, 0]], ids=["high", "low"])
def test_labels_out_of_range_are_refused(labels: list[int]) -> None:
    net = DNI(mlp(), "critic", context_size=3)
    with pytest.raises(ContextError, match=r"labels from -?\d to \d"):
        net(torch.randn(5, 4), context=torch.tensor(labels))
    assert_trains(net, context=torch.tensor([0, 1, 2, 1, 0]))


@pytest.mark.parametrize("labels", [(5, 3), (2,), (5, 6, 6)], ids=str)
def test_a_map_needs_one_label_a_sample(labels: tuple[int, ...]) -> None:
    net = DNI(nn.Sequential(nn.Conv2d(2, 3, 1)), "critic", context_size=C)
    with pytest.raises(ContextError, match=r"one .* per sample"):
        net(torch.randn(5, 2, 6, 6), context=torch.zeros(labels, dtype=torch.long))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"criterion": "cross_entrop"}, r"criterion.*did you mean.*cross_entropy"),
        ({"criterion": 3}, "criterion"),
        ({"num_layers": -1}, "num_layers"),
        ({"pool_size": 0}, "pool_size"),
        ({"sobolev": -0.1}, r"sobolev.*-0\.1.*at least 0"),
        ({"sobolev": True}, r"sobolev.*True.*at least 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_params_are_refused(params: dict[str, Any], message: str) -> None:
    network = mlp()
    twin = copy.deepcopy(network)
    with pytest.raises(ConfigError, match=f"(?is){message}"):
        DNI(network, "critic", params, context_size=3)
    assert_untouched(network, twin)


@pytest.mark.parametrize("shape", [(8, D), (8, 3, D)], ids=str)
@every_criterion
def test_the_closed_form_is_one_graph(criterion: str, shape: tuple[int, ...]) -> None:
    torch.compiler.reset()
    critic = awake(CriticDNI(D, 7, D, C, criterion=criterion))
    compiled = torch.compile(critic, backend="aot_eager", fullgraph=True)
    input, target = torch.randn(*shape).double(), one_hot(*shape[:-1])
    torch.testing.assert_close(compiled(input, None, target)[0], critic(input, None, target)[0])


@pytest.mark.parametrize("maps", [False, True], ids=["vectors", "maps"])
def test_a_wrapper_with_critics_is_one_graph(maps: bool) -> None:
    torch.compiler.reset()
    x = torch.randn(5, 2, 6, 6) if maps else torch.randn(5, D)
    y = torch.tensor([0, 1, 2, 3, 0])
    losses: list[list[float]] = []
    for compiles in (False, True):
        torch.manual_seed(0)
        network = Maps() if maps else Flat()
        site = "site" if maps else "0"
        net = DNI(network, "critic", sites=[site], context_size=C, λ=0.0, grad_lr=0.1)
        net(x, context=y)  # makes the interfaces
        module = torch.compile(net, backend="aot_eager", fullgraph=True) if compiles else net
        losses.append([])
        for _ in range(5):
            loss = F.cross_entropy(module(x, context=y), y)
            loss.backward()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[0][-1] < losses[0][0]
    assert all(math.isfinite(loss) for loss in losses[0])


@pytest.mark.parametrize("layers", [0, 1])
def test_a_copy_by_state_or_pickle_gives_the_same_gradient(layers: int) -> None:
    critic = awake(CriticDNI(D, 7, D, C, num_layers=layers))
    loaded = CriticDNI(D, 7, D, C, num_layers=layers).double()
    loaded.load_state_dict(critic.state_dict())
    input, target = torch.randn(5, D).double(), one_hot(5)
    expected = critic(input, None, target)[0]
    for twin in (loaded, pickle.loads(pickle.dumps(critic)), copy.deepcopy(critic)):
        assert torch.equal(twin(input, None, target)[0], expected)
