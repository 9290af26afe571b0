"""Pictures of one or several runs: the length solved and the error against updates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from curriculum import Progress
from episodes import Task


def save_plot(path: Path, runs: Mapping[str, Progress], task: Task, *, threshold: float) -> None:
    """Draw how the solved length grew, and the error at the length then worked at.

    Args:
        path: The PNG to write.
        runs: Progress by name, a colour each.
        task: What was learned.
        threshold: Error below which a length is solved.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")  # pyplot would look for a screen
    figure.suptitle(task.name.replace("_", " "))
    patterns, steps, errors = figure.subplots(1, 3)
    for name, run in runs.items():
        solved = run.solved
        times = [0, *(each.update for each in solved), run.updates]
        for axes, lengths in [
            (patterns, [each.pattern for each in solved]),
            (steps, [each.steps for each in solved]),
        ]:
            last = lengths[-1:] or [0]
            axes.step(times, [0, *lengths, *last], where="post", label=name)
        errors.plot([row.update for row in run.rows], [row.error for row in run.rows], label=name)
    errors.axhline(threshold, color="grey", linewidth=0.8, linestyle="--")
    for axes in (patterns, steps):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _dress(patterns, "pattern length solved")
    _dress(steps, "steps of an episode")
    _dress(errors, f"{task.unit} at the length worked at")
    if len(runs) > 1:
        patterns.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel("updates")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
