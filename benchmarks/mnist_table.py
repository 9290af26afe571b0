"""The paper's table of feed-forward networks on MNIST: test error by method and depth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from matplotlib import pyplot as plt

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
    BATCH,
    CRITIC,
    MAPS,
    METHODS,
    RENEWAL,
    SELDOM,
    SOBOLEV,
    UNITS,
    Data,
    mnist_settings,
    renewed,
    selected,
    settings_of,
    steps_per_epoch,
    train,
    with_validation,
)

NETWORKS = {"FCN": [3, 4, 5, 6], "CNN": [2, 3, 4]}
EPOCHS = {"FCN": 10, "CNN": 3}

EXPLANATION = """\
Mean test error in percent and, in brackets, the least and the greatest of the seeds; {train}
images are trained on in batches of {batch} with Adam 1e-3, {valid} others choose the epoch,
{test} are tested. Layers are hidden layers. FCN: Linear, BatchNorm, ReLU of {units} units,
{fcn}. CNN: 5×5 convolution of {filters} filters (the paper has 64), BatchNorm, ReLU, 3×3 pooling
at every second pixel, {cnn}. Every hidden layer's output has an interface with λ = 0; *no
backprop* trains the output layer alone. cDNI and critics see the labels in training; *Sobolev* is
the critic that is also fitted to the labels (`sobolev=1`); *every 2nd* is one with a linear head
that learns in every second update (`train_every=2`), the one whose step is the cheapest. Runs of
one seed start from the same network and see the same batches. A dash: no run is finished yet; fewer
seeds are said as such. The paper trains for 500,000 updates (`--iterations 500000`): compare
columns here, not pages.

*Statistics anew* are the same runs, evaluated with BatchNorm's means and variances over {renewal}
training images instead of its running averages, on test and held-out images alike and for every
method. A running average is of the weights of the last ten updates or so, not of those evaluated.

Convolutions have `{maps}` instead of what stands below."""


def plans(options: argparse.Namespace, data: Data) -> list[Plan]:
    """All runs of the table, seed by seed."""
    found: list[Plan] = []
    for seed in options.seeds:
        for network, depths in NETWORKS.items():
            epochs = options.epochs or (1 if options.quick else EPOCHS[network])
            steps = options.iterations or epochs * steps_per_epoch(data)
            common = mnist_settings(data, steps=steps)
            if network == "CNN":
                common["renewal"] = RENEWAL
            units = UNITS if network == "FCN" else options.filters
            for layers in depths:
                for method in METHODS:
                    settings = settings_of(method, network=network, layers=layers, units=units)
                    found.append((method, seed, settings | common))
    return found


def table(runs: Sequence[Run], seeds: int) -> str:
    """One row a network, one column a method."""
    rows = []
    for network, depths in NETWORKS.items():
        for layers in depths:
            mine = [
                run
                for run in runs
                if (run.settings["network"], run.settings["layers"]) == (network, layers)
            ]
            ways = {"": selected}
            if any(run.renewed for run in mine):
                ways[", statistics anew"] = renewed
            for way, at in ways.items():
                by_method = ([run for run in mine if run.row == method] for method in METHODS)
                cells = (cell(some, seeds, at=at) for some in by_method)
                minus = (difference(mine, name, at=at) for name in (CRITIC, SOBOLEV, SELDOM))
                rows.append([f"{network} {layers}{way}", *cells, *minus])
    differences = [f"{name} minus backprop" for name in ("critic", "Sobolev", "every 2nd")]
    return markdown_table(["", *METHODS, *differences], rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = mnist_parser(__doc__)
    add = parser.add_argument
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=int, help=f"for all networks; default: {EPOCHS}")
    budget.add_argument("--iterations", type=int, help="updates instead; the paper's: 500000")
    add("--filters", type=int, default=16, help="of a convolution; the paper's: 64")
    add("--networks", nargs="+", choices=NETWORKS, dest="network", help="default: all")
    return parse(parser, "mnist.md")


def explanation(options: argparse.Namespace, data: Data) -> str:
    """What the table's numbers are, in words."""
    budgets = {
        network: f"{options.iterations} updates"
        if options.iterations
        else f"{options.epochs or (1 if options.quick else epochs)} epochs"
        for network, epochs in EPOCHS.items()
    }
    return EXPLANATION.format(
        batch=BATCH,
        units=UNITS,
        filters=options.filters,
        fcn=budgets["FCN"],
        cnn=budgets["CNN"],
        maps=MAPS,
        renewal=RENEWAL,
        **data.counts,
    )


def main() -> None:
    """Train what is asked for and not trained yet, write the page of all that is finished."""
    options = arguments()
    data = with_validation(read_mnist(options))
    runs = finish_and_read(plans(options, data), options, lambda plan: train(plan, data))
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axes, network in zip(panels, NETWORKS, strict=True):
        mine = [run for run in runs if run.settings["network"] == network]
        draw_depths(axes, mine, methods=METHODS, title=network)
    named = {n: h for a in panels for h, n in zip(*a.get_legend_handles_labels(), strict=True)}
    panels[0].legend(named.values(), named, frameon=False, fontsize="small")
    paragraphs = [table(runs, len(options.seeds)), explanation(options, data)]
    write_page(options, "MNIST: the paper's feed-forward table", paragraphs, figure, runs)


if __name__ == "__main__":
    main()
