"""Test error on MNIST against depth, up to 20 hidden layers, and cosine by site."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean

from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from report import markdown_table
from runs import Plan, Run
from trial_tables import (
    cell,
    difference,
    draw_depths,
    finish_and_read,
    mnist_parser,
    parse,
    read_mnist,
    write_page,
)
from trials import (
    BACKPROP,
    BATCH,
    CRITIC,
    LABELS,
    SELDOM,
    UNITS,
    Data,
    mnist_settings,
    settings_of,
    steps_per_epoch,
    train,
    with_validation,
)

DEPTHS = [1, 3, 6, 12, 20]
METHODS = [BACKPROP, LABELS, CRITIC, SELDOM]

EXPLANATION = """\
Mean test error in percent and, in brackets, the least and the greatest of the seeds, after the
epoch that was best on {valid} held-out images; {train} images, {epochs} epochs, batch {batch},
Adam 1e-3. Hidden layers of {units} units with BatchNorm and ReLU. Every one of them has an
interface with λ = 0: no true gradient crosses it. All DNI methods see the labels in training;
*every 2nd* is a critic with a linear head that learns in every second update.
Runs of one seed start from the same network and see the same batches; those that the table in
[mnist.md](mnist.md) has are the same runs. *Cosine* is between synthetic and true gradient,
averaged lately at the end of training and over the seeds; where the interface above is synthetic
too, its target is bootstrapped. A dash: no run is finished yet; fewer seeds are said as such."""


def plans(options: argparse.Namespace, data: Data) -> list[Plan]:
    """All runs of the page, seed by seed."""
    epochs = 1 if options.quick else options.epochs
    common = mnist_settings(data, steps=epochs * steps_per_epoch(data))
    return [
        (method, seed, settings_of(method, network="FCN", layers=layers) | common)
        for seed in options.seeds
        for layers in DEPTHS
        for method in METHODS
    ]


def table(runs: Sequence[Run], seeds: int) -> str:
    """One row a depth: errors, then the critic's cosine at the first, middle and last site."""
    rows = []
    for layers in DEPTHS:
        mine = [run for run in runs if run.settings["layers"] == layers]
        by_method = {method: [run for run in mine if run.row == method] for method in METHODS}
        cosines = cosines_by_site(by_method[CRITIC])
        ends = [cosines[0], cosines[layers // 2], cosines[-1]] if cosines else []
        rows.append(
            [
                str(layers),
                *(cell(some, seeds) for some in by_method.values()),
                difference(mine),
                difference(mine, SELDOM),
                ", ".join(f"{cosine:.2f}" for cosine in ends) or "-",
            ]
        )
    cosine = "critic's cosine: first, middle, last"
    differences = "critic minus backprop", "every 2nd minus backprop"
    return markdown_table(["layers", *METHODS, *differences, cosine], rows)


def cosines_by_site(runs: Sequence[Run]) -> list[float]:
    """Mean cosine of runs of one depth, from the first hidden layer to the last."""
    return [mean(values) for values in zip(*(run.cosines.values() for run in runs), strict=True)]


def draw_cosines(axes: Axes, runs: Sequence[Run]) -> None:
    """The cosine at every site: a colour for each depth, a dash for each method."""
    for method, dash in ((CRITIC, "-"), (LABELS, ":")):
        for place, layers in enumerate(DEPTHS):
            mine = [r for r in runs if r.row == method and r.settings["layers"] == layers]
            cosines = cosines_by_site(mine)
            axes.plot(
                range(1, len(cosines) + 1),
                cosines,
                dash,
                marker=".",
                color=colormaps["viridis"](place / len(DEPTHS)),
                label=f"{layers}, {method}" if cosines else None,
            )
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.set(xlabel="hidden layer", ylabel="cosine", title="synthetic and true gradient")
    axes.set_ylim(0, 1.02)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False, fontsize="small", ncols=2)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = mnist_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    return parse(parser, "depth.md")


def main() -> None:
    """Train what is asked for and not trained yet, write the page of all that is finished."""
    options = arguments()
    data = with_validation(read_mnist(options))
    shared = [options.output.with_name("mnist.jsonl")]
    runs = finish_and_read(
        plans(options, data), options, lambda plan: train(plan, data), others=shared
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    draw_depths(left, runs, methods=METHODS, title="MNIST")
    left.legend(frameon=False, fontsize="small")
    draw_cosines(right, runs)
    epochs = 1 if options.quick else options.epochs
    text = EXPLANATION.format(epochs=epochs, batch=BATCH, units=UNITS, **data.counts)
    write_page(
        options, "Error against depth", [table(runs, len(options.seeds)), text], figure, runs
    )


if __name__ == "__main__":
    main()
