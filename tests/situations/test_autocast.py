"""bfloat16 autocast, and networks that are bfloat16 themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI

from .networks import assert_same, tensors


def batch_norm() -> nn.Module:
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))


def conv() -> nn.Module:
    layers = [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 3))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.view(-1, 2, 3))[0][:, -1])


NETWORKS: list[Callable[[], nn.Module]] = [batch_norm, layer_norm, conv, Recurrent]
each_network = pytest.mark.parametrize("make", NETWORKS)


def data(count: int) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(1)
    xs = [torch.randn(32, 6, generator=rng) for _ in range(count)]
    return [(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()) for x in xs]


def train(net: DNI, steps: int, *, is_autocast: bool) -> list[float]:
    losses = []
    for x, y in data(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        losses.append(loss.item())
    return losses


@each_network
@pytest.mark.parametrize("is_context", [False, True], ids=["plain", "context"])
def test_training_under_autocast_is_close_to_full_precision(
    make: Callable[[], nn.Module], is_context: bool
) -> None:
    def losses(is_autocast: bool) -> list[float]:
        torch.manual_seed(0)
        net = DNI(make(), grad_lr=0.01, context_size=3 if is_context else None)
        found = []
        for x, y in data(40):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
                out = net(x, context=y) if is_context else net(x)
                loss = F.cross_entropy(out, y)
            loss.backward()
            found.append(loss.item())
        return found

    full, half = losses(False), losses(True)
    assert half != full
    assert half == pytest.approx(full, abs=0.15)
    assert half[-1] < 0.85 * half[0]


@each_network
def test_weights_and_statistics_stay_in_full_precision(make: Callable[[], nn.Module]) -> None:
    net = DNI(make(), sites=lambda name, module: name != "" and "flat" not in str(module).lower())
    train(net, 3, is_autocast=True)
    assert {v.dtype for v in tensors(net).values() if v.is_floating_point()} == {torch.float32}
    for site, statistics in net.statistics().items():
        assert all(math.isfinite(value) for value in statistics.values()), site
        assert statistics["true_norm"] > 0, site


@each_network
def test_backprop_under_autocast_is_backprop(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    net = DNI(make(), lambda_=1.0)
    optimizer = torch.optim.Adam(plain.parameters())
    for x, y in data(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(plain(x), y)
        loss.backward()
        optimizer.step()
    train(net, 3, is_autocast=True)
    assert_same(tensors(net.network), tensors(plain))


@each_network
def test_autocast_may_be_switched_on_and_off(make: Callable[[], nn.Module]) -> None:
    net = DNI(make())
    for is_autocast in (True, False, True, False):
        train(net, 2, is_autocast=is_autocast)
    assert net.updates == 8
    assert all(v.isfinite().all() for v in tensors(net).values())
    assert {v.dtype for v in tensors(net.interfaces).values() if v.is_floating_point()} == {
        torch.float32
    }


def test_backward_inside_autocast_works() -> None:
    net = DNI(batch_norm())
    (x, y) = data(1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(net(x), y).backward()
    assert net.updates == 1


@each_network
def test_a_bfloat16_network_has_bfloat16_synthesizers_and_float_statistics(
    make: Callable[[], nn.Module],
) -> None:
    net = DNI(make().bfloat16(), grad_lr=0.01)
    losses = []
    for x, y in data(30):
        loss = F.cross_entropy(net(x.bfloat16()).float(), y)
        loss.backward()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for interface in net.interfaces.values():
        weights = [p for p in interface.synthesizer.parameters() if p.is_floating_point()]
        assert {p.dtype for p in weights} == {torch.bfloat16}
        assert interface.scale.dtype == interface.running.dtype == torch.float32
    assert all(s["true_norm"] > 0 for s in net.statistics().values())


def test_a_wrapper_follows_its_network_to_another_type() -> None:
    net = DNI(layer_norm(), optim="sgd", grad_optim="sgd")  # Adam's state keeps its first type
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        net.network.to(dtype)
        for x, y in data(2):
            F.cross_entropy(net(x.to(dtype)).float(), y).backward()
    assert net.updates == 8
