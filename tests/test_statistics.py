"""The statistics are what their names say, over about the last fifty updates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, DNINetwork
from dni.meters import MeterTable
from dni.sums import METER_UNIT

G = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
S = torch.tensor([[1.0, 1.0], [-1.0, 2.0]])


class Told(DNINetwork):
    """Answers what it was told."""

    answer = S

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        return self.answer.repeat(len(input) // 2, 1), hidden


def run(net: DNI, *gradients: Tensor) -> dict[str, float]:
    """Passes with given true gradients at the only site; its statistics."""
    for gradient in gradients:
        (net(torch.randn(2, 3)) * gradient).sum().backward()
    return dict(net.statistics()[""])


def wrap(**options: Any) -> DNI:
    return DNI(nn.Linear(3, 2), Told, optim="sgd", grad_lr=1e-3, **options)


@pytest.mark.parametrize("passes", [1, 2, 30])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_statistics_of_constant_gradients_are_exact(passes: int, share: float) -> None:
    found = run(wrap(scale_targets=False, λ=share), *[G] * passes)
    assert found == pytest.approx(
        {
            "cosine": (3 + 8) / (5 * math.sqrt(7)),
            "relative_error": (G - S).norm().item() / 5,
            "true_norm": 5.0,
            "synthetic_norm": math.sqrt(7),
            "scale": 1.0,
        },
        rel=1e-5,
    )


def test_the_scale_is_the_root_mean_square_of_the_true_gradient() -> None:
    net = wrap()
    assert net.statistics()[""]["scale"] == 0.0
    assert math.isnan(net.statistics()[""]["relative_error"])
    found = run(net, G)
    assert found["scale"] == pytest.approx(2.5)  # sqrt((9 + 16) / 4)
    assert found["synthetic_norm"] == 0.0  # ρ was not known yet, so nothing was propagated
    assert found["relative_error"] == pytest.approx(1.0)
    two = run(net, G)
    weights = (0.98 * 0.02, 0.02)
    assert two["scale"] == pytest.approx(2.5)
    squares = weights[1] * 2.5**2 * 7 / sum(weights)
    assert two["synthetic_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_newer_passes_weigh_more_and_fade_over_fifty_updates() -> None:
    found = run(wrap(scale_targets=False), G, 2 * G, 3 * G)
    weights = [0.98**2, 0.98, 1.0]
    squares = sum(w * 25 * n**2 for w, n in zip(weights, (1, 2, 3), strict=True)) / sum(weights)
    assert found["true_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)
    later = run(wrap(scale_targets=False), *[100 * G] * 3, *[G] * 600)
    assert later["true_norm"] == pytest.approx(5.0, rel=0.05)


def test_a_pass_without_a_usable_gradient_changes_nothing() -> None:
    net = wrap()
    before = run(net, G, G)
    assert run(net, 0 * G) == before
    assert run(net, G * torch.tensor(float("inf"))) == before
    assert run(net, G * torch.tensor(float("nan"))) == before
    assert run(net, G) != before


def test_gradients_far_from_one_are_measured_as_well_as_those_near_it() -> None:
    for size in (1e-12, 1e-6, 1e6, 1e12):
        found = run(wrap(scale_targets=False, train_synthesizers=False), G * size)
        assert found["true_norm"] == pytest.approx(5 * size, rel=1e-5)
        found = run(wrap(), G * size, G * size)
        assert found["scale"] == pytest.approx(2.5 * size, rel=1e-5)
        assert 0 < found["synthetic_norm"] < math.inf


def test_the_size_of_a_batch_does_not_change_the_scale() -> None:
    one, two = wrap(), wrap()
    (one(torch.randn(2, 3)) * G).sum().backward()
    (two(torch.randn(6, 3)) * G.repeat(3, 1)).sum().backward()
    assert one.statistics()[""]["scale"] == pytest.approx(two.statistics()[""]["scale"])


def test_reading_the_statistics_changes_nothing() -> None:
    net = wrap()
    run(net, G)
    assert net.statistics() == net.statistics()


@pytest.mark.parametrize("loss_scale", [None, 1024.0])
def test_a_device_that_is_not_waited_for_keeps_the_same_statistics(
    loss_scale: float | None,
) -> None:
    heard = [
        [9.0, 4.0, -2.0, 8, 1],
        [math.nan, 1, 1, 8, 1],
        [0.0, 1, 0, 8, 1],
        [math.inf] * 5,
        None,
    ]
    tables = []
    for is_cpu in (True, False):
        nets = [wrap(scale_targets=number != 1) for number in range(len(heard))]
        tables.append(MeterTable([net.interfaces[""] for net in nets]))
        tables[-1]._is_cpu = is_cpu
    unit = METER_UNIT * (1 if loss_scale is None else loss_scale)
    scaled = None if loss_scale is None else torch.tensor(loss_scale)
    for finite in (heard[:1] + heard[2:3] + [None] * 3, heard[::-1], heard):
        told = []
        for table in tables:
            for interface, sums in zip(table._interfaces, finite, strict=True):
                interface._heard = None if sums is None else torch.tensor(sums) * unit
            told.append(bool(table.absorb(scaled)))
        assert told[0] == told[1] == (finite[1] is heard[2])
        for one, other in zip(*(table._interfaces for table in tables), strict=True):
            for name in ("running", "scale", "inverse_scale"):
                torch.testing.assert_close(getattr(one, name), getattr(other, name))
