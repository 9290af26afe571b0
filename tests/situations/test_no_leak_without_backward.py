"""Memory stays flat: training passes without backward, aborted ones, and a thousand steps."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI

from .networks import batches, fit, mlp

STATM = Path("/proc/self/statm")


class Saved:
    """A tensor kept for backward, which a weak reference can watch."""

    def __init__(self, tensor: Tensor, alive: weakref.WeakSet[Saved]) -> None:
        self.tensor = tensor.detach()  # with its graph it would be a cycle that nothing frees
        alive.add(self)


def watch() -> tuple[weakref.WeakSet[Saved], Any]:
    """Everything that autograd saves while the second is entered, as long as it lives."""
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: Saved(t, alive), lambda s: s.tensor)
    return alive, hooks


@pytest.mark.parametrize("update", ["auto", "manual"])
def test_a_pass_without_backward_keeps_nothing(update: str) -> None:
    net = DNI(mlp(), update=update)
    alive, hooks = watch()
    with hooks:
        for x, _ in batches(3):
            output = net(x)
            assert len(alive) > 0
            del output
            assert len(alive) == 0


def test_an_aborted_pass_keeps_nothing() -> None:
    net = DNI(mlp())
    alive, hooks = watch()
    with hooks:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="boom"):
                _abort(net, "boom")
            gc.collect()
            assert len(alive) == 0


def _abort(net: DNI, message: str) -> None:
    handle = net.network[-1].register_forward_pre_hook(_raise(message))
    try:
        net(batches(1)[0][0])
    finally:
        handle.remove()


def _raise(message: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any) -> None:
        raise RuntimeError(message)

    return hook


def test_a_step_keeps_nothing() -> None:
    net = DNI(mlp())
    alive, hooks = watch()
    with hooks:
        for x, y in batches(3):
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            del loss
            assert len(alive) == 0


def test_the_input_and_the_context_are_released() -> None:
    net = DNI(mlp(), context_size=3)
    x, y = batches(1)[0]
    context = F.one_hot(y, 3).double()
    refs = [weakref.ref(x), weakref.ref(context)]
    net(x, context=context)
    del x, context
    assert [ref() for ref in refs] == [None, None]


def test_an_update_waits_no_longer_than_the_graph_it_would_spoil() -> None:
    net = DNI(mlp())
    (x, y), (x2, _) = batches(2)
    kept = net(x2)  # never gets a backward pass
    fit(net, [(x, y)])
    del kept
    fit(net, [(x, y)])
    assert net.updates == 2


def test_a_saved_state_has_the_update_that_was_put_off() -> None:
    def state(is_kept: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        net = DNI(mlp())
        (x, y), (x2, _) = batches(2)
        kept = net(x2)  # a user's list of outputs
        if not is_kept:
            del kept
        fit(net, [(x, y)])
        return net.state_dict()

    kept, expected = state(True), state(False)
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert torch.equal(kept[key], value), key


def resident() -> int:
    """Bytes of memory this process occupies."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not STATM.exists(), reason="reads the size of the process from /proc")
@pytest.mark.parametrize("update", ["auto", "manual"])
def test_a_thousand_steps_stay_flat(update: str) -> None:
    width = 128
    layers = [nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width)]
    net = DNI(nn.Sequential(*layers), update=update)
    x = torch.randn(32, width)  # 16 KiB: one activation kept every step would be 16 MiB

    def run(step: int) -> None:
        kind = step % 4
        if kind == 0:
            net(x)
        elif kind == 1:
            with pytest.raises(RuntimeError, match="abort"):
                _stop(net, x)
        elif kind == 2:
            losses = [net(x).square().mean() for _ in range(2)]
            for loss in losses:
                loss.backward()
        else:
            net(x).square().mean().backward()
        if update == "manual":
            net.step()
            net.zero_grad()

    for step in range(100):
        run(step)
    gc.collect()
    size, objects = resident(), len(gc.get_objects())
    for step in range(1000):
        run(step)
    gc.collect()
    assert resident() - size < 8 * 2**20  # half of that; the allocator's own moves reach 5 MiB
    assert len(gc.get_objects()) - objects < 500


def _stop(net: DNI, x: Tensor) -> None:
    handle = net.network[1].register_forward_pre_hook(_raise("abort"))
    try:
        net(x)
    finally:
        handle.remove()
