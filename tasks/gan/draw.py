"""Draws runs side by side: curves, samples as they come, and a table.

From the root: ``python -m tasks.gan.draw backprop=RUN,RUN dni=RUN,RUN --output docs/results``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dni.errors import ConfigError
from dni.trainer.plot import read_curves

FRECHET = "validation/frechet"
STEPS = (500, 1000, 2000, 4000)

Curves = Mapping[str, Sequence[tuple[int, float]]]


def draw_curves(runs: Mapping[str, Sequence[Curves]], target: Path) -> None:
    """Distance to real images, the losses, and the cosine at every site.

    Args:
        runs: Curves of several seeds by name; a colour each.
        target: PNG to write.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    distance, losses, cosines = figure.subplots(1, 3)
    for number, (name, seeds) in enumerate(runs.items()):
        for first, curves in zip([True] + [False] * len(seeds), seeds, strict=False):
            colour = f"C{number}"
            line = curves[f"{FRECHET}/distance"]
            distance.plot(*_axes(line), ".-", color=colour, label=name if first else None)
            for style, loss in (("-", "generate"), (":", "discriminate")):
                points = curves[f"train/epoch/loss/{loss}/gan"]
                label = f"{name}, {loss}" if first else None
                losses.plot(*_axes(points), style, color=colour, lw=1, label=label)
            if first:
                sites = [key for key in curves if key.startswith("dni/")]
                for site in sites:
                    label = f"{name}: {site.removeprefix('dni/').removesuffix('/cosine')}"
                    cosines.plot(*_axes(curves[site]), lw=1, label=label)
    floor = next(iter(runs.values()))[0][f"{FRECHET}/held_out"][-1][1]
    distance.axhline(floor, color="grey", ls="--", label="real images held out")
    distance.set_yscale("log")
    _dress(distance, "Fréchet distance")
    _dress(losses, "loss, mean of an epoch")
    _dress(cosines, "cosine with the true gradient")
    figure.savefig(target, dpi=110)


def draw_samples(run: Path, target: Path) -> None:
    """The pictures of the same noise at several steps, from left to right.

    Args:
        run: Folder of a run.
        target: PNG to write.

    Raises:
        ConfigError: The run has none of these pictures.
    """
    folder = run / "images" / FRECHET / "samples"
    files = [(s, folder / f"{s:07d}.png") for s in STEPS if (folder / f"{s:07d}.png").exists()]
    if not files:
        raise ConfigError(f"{folder} has no picture of the steps {STEPS}.")
    figure = Figure(figsize=(3.4 * len(files), 3.6), layout="constrained")
    panels = figure.subplots(1, len(files), squeeze=False)[0]
    for axes, (step, file) in zip(panels, files, strict=True):
        with Image.open(file) as picture:
            axes.imshow(picture.convert("L"), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"step {step}")
        axes.set_axis_off()
    figure.savefig(target, dpi=100)


def table(runs: Mapping[str, Sequence[Curves]]) -> str:
    """What the evaluator found, in Markdown; a number per seed."""
    keys = ("distance", "classes", "confidence")
    head = ["run", "best distance", "at step", *(f"{key} at the end" for key in keys)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, seeds in runs.items():
        best = [min(c[f"{FRECHET}/distance"], key=lambda point: point[1]) for c in seeds]
        cells = [", ".join(f"{value:.2f}" for _, value in best)]
        cells.append(", ".join(f"{step:,}" for step, _ in best))
        for key in keys:
            cells.append(", ".join(f"{c[f'{FRECHET}/{key}'][-1][1]:.2f}" for c in seeds))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    parser = argparse.ArgumentParser(prog="draw", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN[,RUN]", help="runs, one per seed")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the pictures")
    options = parser.parse_args(words)
    if any("=" not in word for word in options.runs):
        parser.error("name the runs, as in backprop=runs/<time>_gan")
    named = dict(word.split("=", 1) for word in options.runs)
    folders = {name: [Path(run) for run in runs.split(",")] for name, runs in named.items()}
    try:
        curves = {name: [read_curves(run) for run in runs] for name, runs in folders.items()}
        options.output.mkdir(parents=True, exist_ok=True)
        draw_curves(curves, options.output / "gan_curves.png")
        for name, (first, *_) in folders.items():
            draw_samples(first, options.output / f"gan_{name}.png")
    except ConfigError as error:
        parser.error(str(error))
    print(table(curves))
    return 0


def _axes(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
