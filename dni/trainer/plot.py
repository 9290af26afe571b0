"""Pictures of runs: curves of what they logged, and the cosine of every site over time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from .callbacks.csvlog import read_log
from .callbacks.dni_statistics import heat_map

LOG = "log.jsonl"
_COSINE = re.compile(r"dni/([^/]+)/(.+)/cosine")
_STYLES = {"train": (0, (2, 1)), "validation": "-"}

Curves = dict[str, list[tuple[int, float]]]


def plot_run(folder: str | Path, target: str | Path | None = None) -> list[Path]:
    """Draw the curves of one run, and a heat map for each of its steps with synthesizers.

    Args:
        folder: The folder of the run.
        target: Picture of the curves; ``None``: ``curves.png`` in the folder.

    Returns:
        The pictures: the curves, and ``dni_<step>.png`` in the folder. None where the run
        keeps no log.

    Raises:
        ConfigError: There is no log, or it is damaged, and a target was given.
    """
    folder = Path(folder)
    if target is None and not (folder / LOG).exists():
        return []
    curves = read_curves(folder)
    pictures = [save_curves([folder], Path(target or folder / "curves.png"))]
    by_step: dict[str, Curves] = {}
    for name, points in curves.items():
        if match := _COSINE.fullmatch(name):
            by_step.setdefault(match[1], {})[match[2]] = points
    for step, sites in by_step.items():
        picture = folder / f"dni_{step}.png"
        heat_map(sites).savefig(picture, dpi=120)
        pictures.append(picture)
    return pictures


def _repeats(name: str, curves: Curves) -> bool:
    """Whether it is drawn elsewhere: a mean over an epoch, the total of a step with one loss."""
    step, _, last = name.rpartition("/")
    others = [other for other in curves if other.startswith(f"{step}/") and other != name]
    return "/epoch/" in name or (last == "total" and "/loss/" in name and len(others) == 1)


def read_curves(folder: str | Path) -> Curves:
    """What a run logged: for every scalar its points, step and value.

    Raises:
        ConfigError: There is no log, or it is damaged.
    """
    file = Path(folder) / LOG
    try:
        curves = read_log(file)
    except FileNotFoundError as err:
        raise ConfigError(
            f"{folder} has no {LOG}: it has not been trained, or with `log: {{csv: false}}`."
        ) from err
    except (ValueError, KeyError, TypeError, OSError) as err:
        raise ConfigError(f"{file} cannot be read as the log of a run: {err}.") from err
    if not curves:
        raise ConfigError(f"{file} is empty: the run ended before anything was logged.")
    return curves


def save_curves(folders: Sequence[Path], target: Path) -> Path:
    """Draw what runs logged: a panel for each quantity, a colour for each run.

    Training is dashed, validation drawn through.

    Args:
        folders: The folders of the runs.
        target: The picture.

    Returns:
        `target`.

    Raises:
        ConfigError: A run has no log; or the picture cannot be written.
    """
    from matplotlib.figure import Figure

    runs = {folder.name: read_curves(folder) for folder in folders}
    panels: dict[str, list[tuple[str, str, list[tuple[int, float]]]]] = {}
    for run, curves in runs.items():
        for name, points in curves.items():
            phase, _, quantity = name.partition("/")
            if phase in _STYLES and quantity and not _repeats(name, curves):
                panels.setdefault(quantity, []).append((run, phase, points))
    if not panels:
        raise ConfigError(f"{folders[0]} logged nothing of training or validation to draw.")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    colours = {run: f"C{index}" for index, run in enumerate(runs)}
    for panel, (quantity, lines) in zip(axes, panels.items(), strict=False):
        for run, phase, points in lines:
            label = phase if len(runs) == 1 else f"{run}, {phase}"
            steps, values = zip(*points, strict=True)
            colour = "C0" if len(runs) == 1 and phase == "validation" else colours[run]
            panel.plot(
                steps,
                values,
                linestyle=_STYLES[phase],
                color=colour,
                alpha=0.6 if phase == "train" else 1.0,
                label=label,
                marker="." if len(points) < 3 else None,
            )
        positive = all(value > 0 for *_, points in lines for _, value in points)
        if quantity.startswith("loss/") and positive:
            panel.set_yscale("log")
        panel.set(title=quantity, xlabel="step")
        panel.grid(alpha=0.3)
    for panel in list(axes)[len(panels) :]:
        panel.set_axis_off()
    first = figure.axes[0]
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", fontsize="small")
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name the picture: {target / 'curves.png'}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=120)
    except (OSError, ValueError) as err:
        raise ConfigError(f"The picture {target} cannot be written: {err}.") from err
    return target
