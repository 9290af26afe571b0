"""A `GradScaler` around manual updates: true gradients are known in their own unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dni import DNI, ConfigError

from .networks import assert_same, batches, mlp, tensors

Scaler = torch.amp.GradScaler


def step(net: DNI, scaler: Scaler, x: torch.Tensor, y: torch.Tensor, factor: float = 1.0) -> None:
    """The loop of torch's own examples, with one more line for the synthesizers."""
    loss = factor * F.cross_entropy(net(x), y)
    scaler.scale(loss).backward()
    scaler.step(net.optimizer)
    net.step(network=False)
    scaler.update()
    net.zero_grad()


def scaled(*, is_known: bool = True, **options: Any) -> tuple[DNI, Scaler]:
    torch.manual_seed(0)
    scaler = Scaler("cpu", **options)
    known = {"grad_scaler": scaler} if is_known else {}
    return DNI(mlp().float(), lambda_=0.5, grad_lr=0.01, update="manual", **known), scaler


def floats(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x.float(), y) for x, y in batches(count)]


def test_training_is_the_same_as_without_scaler() -> None:
    net, scaler = scaled(init_scale=2.0**12, growth_interval=2)
    plain, off = scaled(enabled=False)
    for x, y in floats(6):
        step(net, scaler, x, y)
        step(plain, off, x, y)
    assert scaler.get_scale() == 2.0**15
    for key, expected in tensors(plain).items():
        torch.testing.assert_close(tensors(net)[key], expected, rtol=1e-4, atol=1e-6)


def test_the_unit_of_the_targets_does_not_jump_with_the_scale() -> None:
    net, scaler = scaled(init_scale=2.0**4, growth_factor=2.0**6, growth_interval=3)
    plain, off = scaled(enabled=False)
    for x, y in floats(7):
        step(net, scaler, x, y)
        step(plain, off, x, y)
        for site, statistics in plain.statistics().items():
            assert net.statistics()[site] == pytest.approx(statistics, rel=1e-3, abs=1e-3), site
    assert scaler.get_scale() == 2.0**16


@pytest.mark.parametrize("is_known", [True, False], ids=["grad_scaler", "none"])
@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 1e38])
def test_a_step_that_overflows_is_skipped(is_known: bool, factor: float) -> None:
    net, scaler = scaled(is_known=is_known)
    data = floats(6)
    for x, y in data[:2]:
        step(net, scaler, x, y)
    before, scale = tensors(net), scaler.get_scale()
    statistics = net.statistics()
    step(net, scaler, *data[2], factor=factor)
    assert scaler.get_scale() == scale / 2
    assert_same(tensors(net), before)
    assert net.statistics() == statistics
    for x, y in data[3:]:
        step(net, scaler, x, y)
    assert all(value.isfinite().all() for value in tensors(net).values())
    assert not torch.equal(
        tensors(net)["interfaces./0.synthesizer.final.weight"],
        before["interfaces./0.synthesizer.final.weight"],
    )


def test_the_first_step_may_overflow() -> None:
    net, scaler = scaled()
    data = floats(3)
    before = tensors(net)
    step(net, scaler, *data[0], factor=float("inf"))
    assert_same(tensors(net), before)
    for x, y in data[1:]:
        step(net, scaler, x, y)
    assert all(value.isfinite().all() for value in tensors(net).values())
    assert all(s["true_norm"] > 0 for s in net.statistics().values())


def test_an_overflow_in_one_of_several_accumulated_passes_skips_the_step() -> None:
    net, scaler = scaled()
    data = floats(3)
    step(net, scaler, *data[0])
    before = tensors(net)
    for (x, y), factor in zip(data[1:], (float("inf"), 1.0), strict=True):
        scaler.scale(factor * F.cross_entropy(net(x), y)).backward()
    scaler.step(net.optimizer)
    net.step(network=False)
    after = tensors(net)
    for key in before:
        if "synthesizer" in key or key.startswith("network"):
            assert torch.equal(after[key], before[key]), key


def test_unscaling_and_clipping_before_the_step_work() -> None:
    net, scaler = scaled()
    x, y = floats(1)[0]
    scaler.scale(F.cross_entropy(net(x), y)).backward()
    scaler.unscale_(net.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(net.network.parameters(), 0.01)
    assert 0.01 < norm < 100
    scaler.step(net.optimizer)
    net.step(network=False)
    scaler.update()
    assert net.updates == 1


def test_a_scaler_with_automatic_updates_is_refused() -> None:
    with pytest.raises(ConfigError, match="manual"):
        DNI(mlp(), grad_scaler=Scaler("cpu"))


def test_a_disabled_scaler_is_no_scaler() -> None:
    net, scaler = scaled(enabled=False)
    plain, off = scaled(enabled=False, is_known=False)
    for x, y in floats(3):
        step(net, scaler, x, y)
        step(plain, off, x, y)
    assert_same(tensors(net), tensors(plain))
