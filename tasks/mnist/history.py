"""What a run has measured, epoch by epoch, and how it looks as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_SITES_SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One row of the history.

    Attributes:
        number: Epochs trained so far.
        loss: Mean cross-entropy over the epoch's training batches.
        error: Share of test images classified wrongly, in percent.
        seconds: Time spent training, without the test.
        cosines: Cosine between synthetic and true gradient at the epoch's end, by site.
    """

    number: int
    loss: float
    error: float
    seconds: float
    cosines: dict[str, float] = field(default_factory=dict)


@dataclass
class History:
    """The rows of a run so far."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def sites(self) -> list[str]:
        """The sites that have a cosine, from the input to the output."""
        return list(self.epochs[-1].cosines) if self.epochs else []

    @property
    def seconds(self) -> float:
        """Time spent training."""
        return sum(epoch.seconds for epoch in self.epochs)

    def state(self) -> list[dict[str, Any]]:
        """Plain values for a checkpoint."""
        return [asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_state(cls, state: list[dict[str, Any]]) -> History:
        """The history that `state` was called on."""
        return cls([Epoch(**row) for row in state])


def shown_sites(sites: Sequence[str]) -> list[str]:
    """The sites there is room for in a table: all, or the first and the last few."""
    if len(sites) <= _SITES_SHOWN:
        return list(sites)
    return [*sites[: _SITES_SHOWN // 2], *sites[-_SITES_SHOWN // 2 :]]


def header(sites: Sequence[str]) -> str:
    """The line above the table of epochs."""
    columns = ["epoch", "train loss", "test error %", "seconds"]
    return "  ".join([*columns, *(f"cos {site}" for site in shown_sites(sites))])


def line(epoch: Epoch) -> str:
    """One epoch as a line under `header`."""
    cells = [
        f"{epoch.number:5d}",
        f"{epoch.loss:10.4f}",
        f"{epoch.error:12.2f}",
        f"{epoch.seconds:7.1f}",
    ]
    for site in shown_sites(list(epoch.cosines)):
        cells.append(f"{epoch.cosines[site]:{len(f'cos {site}')}.2f}")
    return "  ".join(cells)
