"""Times contenders in turns, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

Step = Callable[[], None]

HEAP = 2**22
"""Numbers in a block whose release makes glibc keep what is freed later."""


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of two values or more."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def interleave(
    contenders: Mapping[str, Step],
    device: torch.device,
    *,
    repeats: int,
    block_seconds: float,
    period: int = 1,
) -> dict[str, list[float]]:
    """Time every contender's step in blocks of steps, one block of each in every repeat.

    The order turns by one place from repeat to repeat, so that no contender is always the first,
    and every block follows an untimed step, which brings the contender's memory into the caches.

    Args:
        contenders: A training step under each name. The first one's time sets how many steps
            a block has.
        device: Where the steps run.
        repeats: Blocks of each contender.
        block_seconds: Time that a block of the first contender should take. In seconds.
        period: Steps after which a contender's costs come again; a block has a multiple of them.

    Returns:
        Under each name the seconds per step of its blocks, in the order of the repeats.
    """
    names = list(contenders)
    # A program that has loaded data has freed megabytes at once, after which glibc keeps what is
    # freed. Before, it gives some back in every step of whoever frees most at the end, and clears
    # the pages again: a tenth of a small network's step.
    torch.ones(HEAP)
    for step in contenders.values():
        _block(step, device, steps=3)
    wanted = block_seconds / _block(contenders[names[0]], device, steps=3)
    steps = max(1, round(wanted / period)) * period
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            contenders[name]()
            seconds[name].append(_block(contenders[name], device, steps=steps))
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratios of two contenders, each taken within one repeat."""
    return Spread.of([above / below for above, below in zip(numerator, denominator, strict=True)])


def cells(denominator: Spread, numerator: Spread, ratio: Spread) -> list[str]:
    """Table cells: both times in milliseconds, their ratio, its quartiles."""
    times = [f"{1e3 * seconds.median:.2f}" for seconds in (denominator, numerator)]
    return [*times, f"{ratio.median:.2f}", f"{ratio.low:.2f}–{ratio.high:.2f}"]


def _block(step: Step, device: torch.device, *, steps: int) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / steps


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
