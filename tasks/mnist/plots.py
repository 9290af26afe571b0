"""Pictures of one or several runs: learning curves, and how good the synthetic gradients were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from history import Epoch, History

_DASHES = ["-", "--", ":", "-."]
_FEW_EPOCHS = 20


def save_plot(path: Path, runs: Mapping[str, History], *, title: str) -> None:
    """Draw the runs' loss and test error and, when they have synthesizers, the cosine by site.

    Args:
        path: The PNG to write.
        runs: Histories by name. One colour each on the left; one dash each on the right, where
            the colour is the site's.
        title: Line above the panels.
    """
    decoupled = {name: history for name, history in runs.items() if history.sites}
    # Not through pyplot, which would look for a screen and keep the figure.
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title)
    if decoupled:
        panels = figure.add_gridspec(2, 2, width_ratios=[1, 1])
        loss, error = figure.add_subplot(panels[0, 0]), figure.add_subplot(panels[1, 0])
        _draw_cosines(figure.add_subplot(panels[:, 1]), decoupled)
    else:
        loss, error = figure.subplots(1, 2)
    _draw_curves(loss, runs, lambda epoch: epoch.loss, label="train loss")
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(NullFormatter())
    _draw_curves(error, runs, lambda epoch: epoch.error, label="test error, %")
    if len(runs) > 1:
        error.legend(fontsize="small")  # errors fall at once and leave its corner free
    figure.savefig(path, dpi=120)


def _draw_curves(
    axes: Axes, runs: Mapping[str, History], value: Callable[[Epoch], float], *, label: str
) -> None:
    for name, history in runs.items():
        numbers = [epoch.number for epoch in history.epochs]
        values = [value(epoch) for epoch in history.epochs]
        axes.plot(numbers, values, marker=_marker(history), label=name)
    _dress(axes, label)


def _draw_cosines(axes: Axes, runs: Mapping[str, History]) -> None:
    sites = next(iter(runs.values())).sites
    colours = colormaps["viridis"]
    for dash, (name, history) in zip(_DASHES * len(runs), runs.items(), strict=False):
        numbers = [epoch.number for epoch in history.epochs]
        for position, site in enumerate(sites):
            axes.plot(
                numbers,
                [epoch.cosines[site] for epoch in history.epochs],
                dash,
                marker=_marker(history),
                color=colours(0.9 * position / max(len(sites) - 1, 1)),
                label=f"{site}, {name}" if len(runs) > 1 else site,
            )
    axes.set_ylim(top=1.02)
    axes.axhline(0, color="grey", linewidth=0.8)
    if len(sites) * len(runs) <= 12:
        # Below: nine curves leave no corner free.
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    _dress(axes, "cosine of synthetic and true gradient")


def _marker(history: History) -> str:
    return "." if len(history.epochs) < _FEW_EPOCHS else ""


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
