"""`DistributedDataParallel` around a wrapper, on two processes that talk by gloo."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dni import DNI, DNIError

from .networks import assert_close, assert_same, batches, mlp, tensors

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
RANKS, STEPS, SIZE = 2, 8, 8


class Own(nn.Module):
    """A layer that does not tell its layout: its interface is made on the first pass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs, dtype=torch.float64) / inputs)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Branches(nn.Module):
    """Every second pass leaves a branch out."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.number = mlp(), 0
        self.extra = nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        self.number += 1
        h = self.trunk(x)
        return h + self.extra(h) if self.number % 2 else h


def plain(**options: Any) -> DNI:
    return DNI(mlp(), **options)


def cold(**options: Any) -> DNI:
    return DNI(nn.Sequential(Own(6, 5), nn.ReLU(inplace=True), Own(5, 3)), **options)


def lazy(**options: Any) -> DNI:
    net = cold(**options)
    net(torch.zeros(2, 6, dtype=torch.float64))
    return net


def branches(**options: Any) -> DNI:
    return DNI(Branches(), **options)


def skipping(**options: Any) -> DNI:
    net = DNI(mlp(), skip_last_layer=True, **options)
    net(torch.zeros(2, 6, dtype=torch.float64))  # shows which layer is last
    return net


Make = Callable[..., DNI]


def train(net: nn.Module, wrapper: DNI, rank: int = 0, ranks: int = 1, parts: int = 1) -> None:
    """A few steps on this rank's share of each batch."""
    is_manual = not wrapper._updates.is_automatic
    for x, y in batches(STEPS, size=SIZE):
        x, y = x.chunk(ranks)[rank], y.chunk(ranks)[rank]
        for some_x, some_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
            kwargs = {} if wrapper.interfaces.context_size is None else {"context": some_y}
            (F.cross_entropy(net(some_x, **kwargs), some_y) / parts).backward()
        if is_manual:
            wrapper.step()
            wrapper.zero_grad()


def result_of(wrapper: DNI) -> dict[str, Any]:
    return {
        "state": tensors(wrapper),
        "updates": wrapper.updates,
        "statistics": wrapper.statistics(),
    }


def work(rank: int, folder: str) -> None:
    """One process: joins the others, trains every case, leaves the results in files."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=limit)
    try:
        for number, (make, options, parts, ddp) in enumerate(CASES.values()):
            torch.manual_seed(rank)  # DDP gives every rank the parameters of the first
            wrapper = make(**options)
            train(DistributedDataParallel(wrapper, **ddp), wrapper, rank, RANKS, parts)
            torch.save(result_of(wrapper), f"{folder}/{rank}-{number}.pt")
        torch.manual_seed(rank)
        wrapper = cold()
        try:
            train(DistributedDataParallel(wrapper), wrapper, rank, RANKS)
            torch.save(result_of(wrapper), f"{folder}/{rank}-cold.pt")
        except DNIError as err:
            torch.save({"error": str(err)}, f"{folder}/{rank}-cold.pt")
    finally:
        dist.destroy_process_group()


CASES: dict[str, tuple[Make, dict[str, Any], int, dict[str, Any]]] = {
    "λ=1": (plain, {"lambda_": 1.0}, 1, {}),
    "λ=0.5": (plain, {"lambda_": 0.5, "grad_lr": 0.01}, 1, {}),
    "λ=0,context": (plain, {"lambda_": 0.0, "context_size": 3, "grad_lr": 0.01}, 1, {}),
    "λ=1,manual,two parts": (plain, {"lambda_": 1.0, "update": "manual"}, 2, {}),
    "manual,two parts": (plain, {"update": "manual"}, 2, {}),
    "small buckets": (plain, {}, 1, {"bucket_cap_mb": 1e-4, "gradient_as_bucket_view": True}),
    "branches": (branches, {}, 1, {"find_unused_parameters": True}),
    "made by an earlier pass": (lazy, {}, 1, {}),
    "skip_last_layer": (skipping, {}, 1, {}),
}
"""Wrapper, its options, passes accumulated for a step, and options of DDP."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What both ranks leave, by case; one pair of processes runs them all."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        # Else gloo looks up the machine's own name, which may have no address.
        loopbacks = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        if loopbacks:
            patch.setenv("GLOO_SOCKET_IFNAME", loopbacks[0])
        torch.multiprocessing.spawn(work, (str(folder),), nprocs=RANKS)
    numbers = {case: str(number) for number, case in enumerate(CASES)} | {"cold": "cold"}
    return {
        case: [torch.load(folder / f"{rank}-{number}.pt") for rank in range(RANKS)]
        for case, number in numbers.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_ranks_agree(results: dict[str, list[Any]], case: str) -> None:
    first, second = results[case]
    assert first["updates"] == second["updates"] == STEPS
    assert_same(first["state"], second["state"])
    for site, statistics in first["statistics"].items():
        assert statistics == pytest.approx(second["statistics"][site], rel=0, nan_ok=True)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process_with_the_whole_batch(
    results: dict[str, list[Any]], case: str
) -> None:
    make, options, parts, _ = CASES[case]
    torch.manual_seed(0)
    alone = make(**options)
    before = tensors(alone.network)
    train(alone, alone, parts=parts)
    expected = tensors(alone.network)
    assert not any(torch.equal(expected[key], before[key]) for key in expected)
    state = results[case][0]["state"]
    network = {key: state[f"network.{key}"] for key in expected}
    is_backprop = options.get("lambda_") == 1.0
    assert_close(network, expected, rtol=1e-12 if is_backprop else 1e-5)


def test_an_interface_made_on_the_first_pass_is_refused_or_reduced(
    results: dict[str, list[Any]],
) -> None:
    """DDP knows the parameters that were there when it was made, and reduces no others."""
    first, second = results["cold"]
    if "error" in first:
        assert "pass" in first["error"]
        assert first == second
    else:
        assert_same(first["state"], second["state"])
