"""λ = 1, and exact synthesizers at λ = 0, are backpropagation to the last bit over 50 steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, DNINetwork

STEPS = 50


class LSTM(nn.Module):
    """Two recurrent layers with dropout between them; classifies a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 8, num_layers=2, dropout=0.3, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, input: Tensor) -> Tensor:
        states, _ = self.rnn(input)
        return self.head(self.dropout(states).mean(1))


def fcn() -> nn.Module:
    layers: list[nn.Module] = []
    for width in (7, 12, 12):
        layers += [nn.Linear(width, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(12, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.2),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "fcn": (fcn, (8, 7)),
    "cnn": (cnn, (8, 1, 8, 8)),
    "lstm": (LSTM, (8, 6, 5)),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
}


def batches(shape: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        yield (
            torch.randn(shape, generator=rng),
            torch.randint(3, shape[:1], generator=rng),
        )


def by_backprop(
    network: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]
) -> list[float]:
    """Losses of plain training; dropout starts from the same seed everywhere."""
    torch.manual_seed(11)
    losses = []
    for input, labels in batches(shape):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(input), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def by_wrapper(net: DNI, shape: tuple[int, ...], **context: Any) -> list[float]:
    """Losses of training by ``loss.backward()`` alone."""
    torch.manual_seed(11)
    losses = []
    for input, labels in batches(shape):
        loss = F.cross_entropy(net(input, **context), labels)
        loss.backward()
        losses.append(loss.item())
    return losses


def assert_same(network: nn.Module, plain: nn.Module) -> None:
    """Assert that parameters and buffers are equal to the last bit."""
    for (name, a), b in zip(network.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_share_one_is_backprop_bit_for_bit(name: str, optimizer: str) -> None:
    make, shape = NETWORKS[name]
    plain = make()
    network = copy.deepcopy(plain)
    wanted = by_backprop(plain, OPTIMIZERS[optimizer](plain.parameters()), shape)
    stream = torch.get_rng_state()

    net = DNI(network, optim=OPTIMIZERS[optimizer], λ=1.0)
    assert by_wrapper(net, shape) == wanted
    assert_same(network, plain)
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(s["true_norm"] > 0 for s in net.statistics().values()), "no interface was passed"
    assert len(net.statistics()) >= 2


@pytest.mark.parametrize(
    ("optim", "reference"),
    [
        (None, lambda p: torch.optim.Adam(p, lr=1e-3)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=1e-3)),
        (torch.optim.AdamW, lambda p: torch.optim.AdamW(p, lr=1e-3)),
    ],
    ids=["default", "name", "class"],
)
def test_share_one_is_backprop_bit_for_bit_with_an_optimizer_made_by_the_wrapper(
    optim: Any, reference: Any
) -> None:
    plain = fcn()
    network = copy.deepcopy(plain)
    wanted = by_backprop(plain, reference(plain.parameters()), (8, 7))
    assert by_wrapper(DNI(network, optim=optim, λ=1.0), (8, 7)) == wanted
    assert_same(network, plain)


def test_share_one_is_backprop_bit_for_bit_with_an_optimizer_instance_over_the_network() -> None:
    plain = fcn()
    network = copy.deepcopy(plain)
    wanted = by_backprop(plain, OPTIMIZERS["momentum"](plain.parameters()), (8, 7))
    net = DNI(network, optim=OPTIMIZERS["momentum"](network.parameters()), λ=1.0)
    assert by_wrapper(net, (8, 7)) == wanted
    assert_same(network, plain)


def test_share_one_is_backprop_bit_for_bit_when_interfaces_are_made_late() -> None:
    # The layout of a residual block shows only on the first pass: its synthesizer is drawn there.
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(7, 7)

        def forward(self, input: Tensor) -> Tensor:
            return input + self.inner(input).relu()

    plain = nn.Sequential(Residual(), nn.Dropout(0.4), Residual(), nn.Linear(7, 3))
    network = copy.deepcopy(plain)
    wanted = by_backprop(plain, OPTIMIZERS["adam"](plain.parameters()), (8, 7))
    net = DNI(network, sites=["0", "2"], λ=1.0)
    assert len(net.interfaces) == 0
    assert by_wrapper(net, (8, 7)) == wanted
    assert len(net.interfaces) == 2
    assert_same(network, plain)


def test_backprop_is_what_remains_when_every_site_is_skipped_or_paused() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(7, 3))
    network = copy.deepcopy(plain)
    wanted = by_backprop(plain, OPTIMIZERS["adam"](plain.parameters()), (8, 7))
    net = DNI(network, λ=0.0, update="manual")
    with net.paused():
        assert by_backprop(net, net.optimizer, (8, 7)) == wanted
    assert_same(network, plain)


class Told(DNINetwork):
    """Answers what it was told; what it was told is the exact gradient."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.site = ""
        self.exact: dict[str, Tensor] = {}

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        gradient = self.exact[self.site]
        return (gradient.movedim(1, -1) if gradient.dim() == 4 else gradient), hidden


def exact_gradients(
    network: nn.Module, sites: list[str], input: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """True gradients at the sites, by plain backprop through a copy; draws nothing."""
    stream = torch.get_rng_state()
    twin = copy.deepcopy(network)
    found: dict[str, Tensor] = {}

    def keep(site: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            output.register_hook(lambda gradient: found.update({site: gradient.clone()}))

        return hook

    for site in sites:
        twin.get_submodule(site).register_forward_hook(keep(site))
    F.cross_entropy(twin(input), labels).backward()
    torch.set_rng_state(stream)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_synthesizers_at_share_zero_are_backprop_bit_for_bit(
    name: str, optimizer: str
) -> None:
    make, shape = NETWORKS[name]
    plain = make()
    network = copy.deepcopy(plain)
    wanted = by_backprop(plain, OPTIMIZERS[optimizer](plain.parameters()), shape)

    net = DNI(network, Told, optim=OPTIMIZERS[optimizer], λ=0.0, scale_targets=False)
    exact: dict[str, Tensor] = {}
    sites = list(net.interfaces)
    for site, interface in net.interfaces.items():
        interface.synthesizer.site, interface.synthesizer.exact = site, exact
    assert len(sites) >= 2
    torch.manual_seed(11)
    losses = []
    for input, labels in batches(shape):
        exact.update(exact_gradients(network, sites, input, labels))
        loss = F.cross_entropy(net(input), labels)
        loss.backward()
        losses.append(loss.item())
    assert losses == wanted
    assert_same(network, plain)
    for site, found in net.statistics().items():
        assert found["cosine"] == pytest.approx(1.0, abs=1e-5), site
        assert found["relative_error"] == pytest.approx(0.0, abs=1e-3), site


def test_wrong_synthesizers_at_share_zero_are_not_backprop() -> None:
    plain = fcn()
    network = copy.deepcopy(plain)
    wanted = by_backprop(plain, OPTIMIZERS["adam"](plain.parameters()), (8, 7))
    assert by_wrapper(DNI(network, λ=0.0), (8, 7)) != wanted
