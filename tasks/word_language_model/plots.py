"""The picture of a run: losses against updates, and how good the synthetic gradient was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from history import Row, figure, unit


def save_plot(path: Path, rows: Sequence[Row], *, title: str, characters: bool) -> None:
    """Draw training and validation figures and, with a synthesizer, its cosine.

    Args:
        path: The PNG to write.
        rows: The evaluations.
        title: Line above the panels.
        characters: Whether the figures are bits per character.
    """
    cosines = [(row.update, row.cosine) for row in rows if row.cosine is not None]
    # Not through pyplot, which would look for a screen and keep the figure.
    picture = Figure(figsize=(11 if cosines else 6.5, 4.5), layout="constrained")
    picture.suptitle(title)
    panels = picture.subplots(1, 2 if cosines else 1, squeeze=False)[0]
    updates = [row.update for row in rows]
    for name, losses in (("train", [r.train for r in rows]), ("valid", [r.valid for r in rows])):
        values = [figure(loss, characters=characters) for loss in losses]
        panels[0].plot(updates, values, marker=".", label=name)
    panels[0].legend()
    if not characters:
        panels[0].set_yscale("log")
    _dress(panels[0], unit(characters=characters))
    if cosines:
        panels[1].plot(*zip(*cosines, strict=True), marker=".")
        _dress(panels[1], "cosine of synthetic gradient and target")
    picture.savefig(path, dpi=120)


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel("updates")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
