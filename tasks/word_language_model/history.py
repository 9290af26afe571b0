"""What a run has measured, evaluation by evaluation, and how it looks as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One evaluation.

    Attributes:
        update: Updates made so far.
        symbols: Symbols learnt from so far, each as often as it was seen.
        train: Mean cross-entropy of a symbol since the evaluation before, in nats.
        valid: Mean cross-entropy of a symbol in the validation text, in nats.
        lr: Learning rate of the model.
        seconds: Time spent training so far, without evaluations.
        cosine: Cosine of the synthetic gradient and its target, if there is one.
    """

    update: int
    symbols: int
    train: float
    valid: float
    lr: float
    seconds: float
    cosine: float | None = None

    def saved(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)


def figure(loss: float, *, characters: bool) -> float:
    """Bits per character, or perplexity per word, of a mean cross-entropy in nats.

    Example:
        >>> [round(figure(math.log(8), characters=is_so), 6) for is_so in (True, False)]
        [3.0, 8.0]
    """
    return loss / math.log(2) if characters else math.exp(min(loss, 700.0))


def unit(*, characters: bool) -> str:
    """What `figure` is called."""
    return "bits/char" if characters else "perplexity"


def header(*, characters: bool, cosine: bool) -> str:
    """The line above the table of evaluations."""
    name = unit(characters=characters)
    columns = [" update", "epoch", f"train {name}", f"valid {name}", "learning rate", "seconds"]
    return "  ".join(columns + ["cosine"] * cosine)


def line(row: Row, *, epoch: float, characters: bool) -> str:
    """One evaluation as a line under `header`."""
    width = len(f"train {unit(characters=characters)}")
    digits = 4 if characters else 2
    figures = [figure(loss, characters=characters) for loss in (row.train, row.valid)]
    cells = [
        f"{row.update:7d}",
        f"{epoch:5.2f}",
        *(f"{value:{width}.{digits}f}" for value in figures),
        f"{row.lr:13.2g}",
        f"{row.seconds:7.1f}",
    ]
    if row.cosine is not None:
        cells.append(f"{row.cosine:6.2f}")
    return "  ".join(cells)


def rows_from(saved: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows that `Row.saved` was called on."""
    return [Row(**row) for row in saved]
