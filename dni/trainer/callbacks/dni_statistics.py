"""How well the synthesizers predict: scalars per site, and a heat map over the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from ...errors import ConfigError, did_you_mean
from ..events import Callback
from ..registry import CALLBACKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...metered import Statistics
    from ..phases import Phase
    from ..trainer import Trainer

VALUES = ("cosine", "relative_error", "true_norm", "synthetic_norm", "scale")
"""What there is of each site, see `dni.metered.Statistics`."""


def heat_map(curves: Mapping[str, Sequence[tuple[int, float]]], title: str = "cosine") -> Figure:
    """Sites from top to bottom, steps from left to right, the value as colour.

    Args:
        curves: For every site its points: step and value, a cosine from -1 to 1.
        title: What the value is.

    Returns:
        The figure; a point's colour reaches from its step to the next one.

    Raises:
        ConfigError: There is no point.
    """
    from matplotlib.figure import Figure

    steps = sorted({step for points in curves.values() for step, _ in points})
    if not steps:
        raise ConfigError(f"There is no point of {title!r} to draw a heat map of.")
    column = {step: index for index, step in enumerate(steps)}
    values = numpy.full((len(curves), len(steps)), numpy.nan)
    for row, points in enumerate(curves.values()):
        for step, value in points:
            values[row, column[step]] = value
    end = steps[-1] + max(1, steps[-1] - steps[-2] if len(steps) > 1 else 1)
    figure = Figure(figsize=(8, max(1.8, 0.9 + 0.28 * len(curves))), layout="constrained")
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(
        [*steps, end], numpy.arange(len(curves) + 1), values, cmap="RdYlGn", vmin=-1, vmax=1
    )
    axes.set_yticks(numpy.arange(len(curves)) + 0.5, [site or "(network)" for site in curves])
    axes.invert_yaxis()
    axes.set(xlabel="step", title=f"{title} of synthetic and true gradient, per site")
    axes.set_facecolor("lightgrey")
    figure.colorbar(mesh, ax=axes)
    return figure


@CALLBACKS.register("dni_statistics")
class DNIStatistics(Callback):
    """Reports ``dni/<step>/<site>/<value>`` when the run logs, and draws the cosines.

    The heat map, ``dni_<step>.png`` in the folder of the run, is drawn at the end of the run.
    Steps whose strategy has no synthesizers have none.

    Args:
        values: Which of ``cosine``, ``relative_error``, ``true_norm``, ``synthetic_norm`` and
            ``scale``.
        heat_map: Whether there is a heat map.

    Raises:
        ConfigError: A value is unknown.
    """

    writes = ("record/dni", "shared/dni")

    def __init__(self, values: Sequence[str] = ("cosine",), *, heat_map: bool = True) -> None:
        for value in values:
            if value not in VALUES:
                raise ConfigError(
                    f"There is no statistic {value!r} of a site.{did_you_mean(value, VALUES)}"
                )
        self.values = tuple(values)
        self.heat_map = heat_map
        self.cosines: dict[str, dict[str, list[tuple[int, float]]]] = {}

    def on_fit_begin(self, trainer: Trainer, phase: Phase | None) -> None:
        """Show where the cosines are kept."""
        trainer.shared["dni"] = self.cosines

    def on_log(self, trainer: Trainer, phase: Phase) -> None:
        """Read the statistics and report them."""
        if not phase.training:
            return
        for name, step in trainer.steps.items():
            strategy = getattr(step, "strategy", None)
            statistics: dict[str, Statistics] = strategy.statistics() if strategy else {}
            for site, values in statistics.items():
                numbers: Mapping[str, Any] = values
                for value in self.values:
                    path = f"dni/{name}/{site or '(network)'}/{value}"
                    trainer.record.scalar(path, numbers[value])
                points = self.cosines.setdefault(name, {}).setdefault(site, [])
                points.append((trainer.counters.step, values["cosine"]))

    def on_fit_end(self, trainer: Trainer, phase: Phase) -> None:
        """Draw."""
        if not self.heat_map:
            return
        for name, curves in self.cosines.items():
            figure = heat_map(curves)
            trainer.record.figure(f"dni/{name}", figure)
            if trainer.run is not None:
                figure.savefig(Path(trainer.run.path) / f"dni_{name}.png", dpi=120)

    def state_dict(self) -> dict[str, Any]:
        """All cosines so far."""
        return {
            "cosines": {
                name: {site: list(points) for site, points in curves.items()}
                for name, curves in self.cosines.items()
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.cosines.clear()
        for name, curves in state["cosines"].items():
            self.cosines[name] = {
                site: [(step, value) for step, value in points] for site, points in curves.items()
            }
