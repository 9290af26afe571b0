"""What the pages of training runs share: the command line, table cells and curves with seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnist import Images, load_mnist
from report import (
    benchmark_parser,
    default_output,
    markdown_table,
    provenance,
    write_report,
)
from runs import Plan, Run, finish, finished
from trials import BACKPROP, BATCH, COLOURS, CRITIC, METHODS, SYNTHESIS, selected

mpl.use("agg")


def trial_parser(
    description: str | None, *, methods: Collection[str] = METHODS
) -> argparse.ArgumentParser:
    """A command line with the flags that every page of training runs has.

    Args:
        description: What the benchmark shows.
        methods: What may be chosen from.
    """
    parser = benchmark_parser(description)
    add = parser.add_argument
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--layers", nargs="+", type=int, help="train these depths; default: all")
    add("--methods", nargs="+", choices=methods, help="train these; default: all")
    add("--report", action="store_true", help="train nothing, write what is finished")
    return parser


def mnist_parser(
    description: str | None, *, methods: Collection[str] = METHODS
) -> argparse.ArgumentParser:
    """The same for a page of runs on MNIST."""
    parser = trial_parser(description, methods=methods)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="holds MNIST/raw")
    return parser


def read_mnist(options: argparse.Namespace) -> Images:
    """MNIST where the command line says it is; few images for a quick run."""
    limit = 10 * BATCH if options.quick else None
    return load_mnist(options.data_dir, options.device, limit=limit)


def parse(parser: argparse.ArgumentParser, page: str) -> argparse.Namespace:
    """Parse the command line; a quick run has one seed and no place among the results."""
    options = parser.parse_args()
    options.output = options.output or default_output(page, quick=options.quick)
    if options.quick:
        options.seeds = options.seeds[:1]
    return options


def is_asked_for(plan: Plan, options: argparse.Namespace) -> bool:
    """Whether this command trains the run; the page shows finished ones in any case."""
    method, _, settings = plan
    facts = {"methods": method, **settings}
    asked = {key: getattr(options, key, None) for key in ("methods", "layers", "network", "data")}
    return all(facts[key] in wanted for key, wanted in asked.items() if wanted is not None)


def finish_and_read(
    plans: Sequence[Plan],
    options: argparse.Namespace,
    make: Callable[[Plan], Run],
    *,
    others: Sequence[Path] = (),
) -> list[Run]:
    """Make the runs that are asked for and that no file has; read all that are finished.

    Args:
        plans: All runs that the page could show.
        options: The command line.
        make: Trains.
        others: Files of other pages, whose runs may be the same.

    Raises:
        SystemExit: A depth was asked for that no run has.
    """
    path = options.output.with_suffix(".jsonl")
    depths = sorted({settings["layers"] for _, _, settings in plans})
    if unknown := set(options.layers or ()) - set(depths):
        shown = ", ".join(map(str, depths))
        raise SystemExit(f"--layers {min(unknown)}: no run has that; choose from {shown}.")
    if not options.report:
        finish([plan for plan in plans if is_asked_for(plan, options)], path, make, others=others)
    return finished(plans, [*others, path])


def cell(runs: Sequence[Run], seeds: int, *, at: Callable[[Run], float] = selected) -> str:
    """Mean and range of the runs' errors, each taken `at` its chosen epoch."""
    if not runs:
        return "-"
    errors = [at(run) for run in runs]
    text = f"{mean(errors):.2f} ({min(errors):.2f}-{max(errors):.2f})"
    return text if len(runs) == seeds else f"{text}, {len(runs)} of {seeds} seeds"


def difference(
    runs: Sequence[Run], method: str = CRITIC, *, at: Callable[[Run], float] = selected
) -> str:
    """A method minus backprop, over the seeds that both have finished."""
    errors = {(run.row, run.seed): at(run) for run in runs}
    seeds = [seed for row, seed in errors if row == method and (BACKPROP, seed) in errors]
    if not seeds:
        return "-"
    return f"{mean(errors[method, seed] - errors[BACKPROP, seed] for seed in seeds):+.2f}"


def compare(settings: Mapping[str, str], runs: Sequence[Run], seeds: int) -> str:
    """A table with a row for each way of training one network.

    Args:
        settings: What tells a way from the others, by its name.
        runs: Those that are finished.
        seeds: How many there will be of each.
    """
    rows = []
    for row, setting in settings.items():
        mine = [run for run in runs if run.row == row]
        cosines = zip(*(run.cosines.values() for run in mine), strict=True)
        rows.append(
            [
                row,
                setting,
                cell(mine, seeds),
                cell(mine, seeds, at=lambda run: run.errors[-1]),
                f"{min(run.seconds for run in mine):.0f}" if mine else "-",
                ", ".join(f"{sum(some) / len(mine):.2f}" for some in cosines),
            ]
        )
    columns = ["", "setting", "test error %", "last epoch", "seconds", "cosine, by layer"]
    return markdown_table(columns, rows)


def draw_epochs(axes: Axes, runs: Sequence[Run], colours: Mapping[str, str], *, title: str) -> None:
    """Test error by epoch: every seed thin, the mean of each row bold."""
    for row, colour in colours.items():
        curves = [run.errors for run in runs if run.row == row]
        means = [sum(errors) / len(curves) for errors in zip(*curves, strict=True)]
        epochs = range(1, len(means) + 1)
        for curve in curves:
            axes.plot(epochs, curve, color=colour, linewidth=0.7, alpha=0.4)
        if curves:
            axes.plot(epochs, means, color=colour, linewidth=2, label=row)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="epoch", ylabel="test error, %", title=title)
    axes.grid(which="both", linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False)


def draw_depths(axes: Axes, runs: Sequence[Run], *, methods: Sequence[str], title: str) -> None:
    """Test error against depth: a point for every seed, a line through the means."""
    for method in methods:
        points = [(run.settings["layers"], selected(run)) for run in runs if run.row == method]
        if not points:
            continue  # a legend without lines
        depths = sorted({depth for depth, _ in points})
        means = [mean(error for layers, error in points if layers == depth) for depth in depths]
        colour = COLOURS[method]
        axes.plot([x for x, _ in points], [y for _, y in points], ".", color=colour, alpha=0.5)
        axes.plot(depths, means, color=colour, marker="o", label=method)
    axes.set_yscale("log")
    axes.set_xticks(sorted({run.settings["layers"] for run in runs}))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="hidden layers", ylabel="test error, %", title=title)
    axes.grid(which="both", linewidth=0.4, alpha=0.5)


def write_page(
    options: argparse.Namespace,
    title: str,
    paragraphs: Sequence[str],
    figure: Figure,
    runs: Sequence[Run],
    synthesis: Mapping[str, Mapping[str, Any]] = SYNTHESIS,
) -> None:
    """Write the page: table, picture and text, then the synthesizers and where it comes from."""
    picture = options.output.with_suffix(".png")
    facts = provenance(options.device)
    facts["command"] = facts["command"].replace(" --report", "")  # what makes the runs
    facts["runs made at"] = ", ".join(sorted({run.commit for run in runs}))
    used = [method for method in synthesis if any(run.row.startswith(method) for run in runs)]
    lines = "\n".join(f"- {method}: `{synthesis[method]}`" for method in used)
    content = [paragraphs[0], f"![{title}]({picture.name})", *paragraphs[1:]]
    if lines:
        content.append(f"Synthesizers:\n\n{lines}")
    write_report(options.output, title, content, facts)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
