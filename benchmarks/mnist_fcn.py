"""Test error of a fully connected network on MNIST, by backprop and by synthetic gradients."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from report import benchmark_parser, default_output, markdown_table, provenance, write_report
from runs import Plan, Run, finish
from trial_tables import read_mnist
from trials import BATCH, UNITS, Data, mnist_settings, steps_per_epoch, train, without_validation

mpl.use("agg")

# The rows, and everything that can be tuned about them. One without is backpropagation.
ROWS: dict[str, dict[str, Any]] = {
    "backprop": {},
    "DNI, λ = 0.5": {
        "lambda": 0.5,
        "dni_network": "linear",
        "hidden_size": 256,
        "num_layers": 1,
        "grad_lr": 1e-3,
        "context": False,
    },
    "DNI, λ = 0, labels": {
        "lambda": 0.0,
        "dni_network": "linear",
        "hidden_size": 256,
        "num_layers": 0,
        "grad_lr": 1e-2,
        "context": True,
    },
    "DNI, λ = 0, critic": {
        "lambda": 0.0,
        "dni_network": "critic",
        "hidden_size": 10,
        "num_layers": 0,
        "grad_lr": 3e-3,
        "context": True,
    },
}
LAYERS = 3
COLOURS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7"]

EXPLANATION = """\
{layers} hidden layers of 256 units with BatchNorm and ReLU; batch {batch}; Adam 1e-3; {epochs}
epochs over {images} images in [0, 1]; error on {test_images} test images after the last epoch, no
choice of a best one. A DNI row has an interface after every hidden layer, the output layer learns
from the true loss. Runs of the same seed start from the same network and see the same batches.
*Cosine* is between synthetic and true gradient, averaged lately, from the first hidden layer to
the last. Seconds are of training alone, on a machine that may have done other things too."""


def plans(options: argparse.Namespace, data: Data) -> list[Plan]:
    """Every row with every seed, seed by seed: a command cut short has compared all rows."""
    common = {"network": "FCN", "layers": LAYERS, "units": UNITS}
    common |= mnist_settings(data, steps=options.epochs * steps_per_epoch(data))
    return [(row, seed, common | own) for seed in options.seeds for row, own in ROWS.items()]


def synthesizers() -> str:
    """The settings of every row's synthesizers."""
    lines = [f"- {row}: `{own}`" for row, own in ROWS.items() if own]
    return "\n".join(["Synthesizers:", *lines])


def table(runs: Sequence[Run]) -> str:
    """The rows: error of every seed, its median, the distance from backprop's."""
    columns = ["", "test error %, by seed", "median", "minus backprop", "seconds", "cosine"]
    baseline = median(run.errors[-1] for run in runs if not ROWS[run.row])
    rows = []
    for row, own in ROWS.items():
        mine = [run for run in runs if run.row == row]
        errors = [run.errors[-1] for run in mine]
        cosines = [median(run.cosines[site] for run in mine) for site in mine[0].cosines]
        rows.append(
            [
                row,
                ", ".join(f"{error:.2f}" for error in errors),
                f"{median(errors):.2f}",
                f"{round(median(errors) - baseline, 2) + 0.0:+.2f}" if own else "",
                f"{median(run.seconds for run in mine):.0f}",
                ", ".join(f"{cosine:.2f}" for cosine in cosines),
            ]
        )
    return markdown_table(columns, rows)


def plot(runs: Sequence[Run], path: Path) -> None:
    """Draw the test error by epoch: every seed thin, every row's median bold."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for row, colour in zip(ROWS, COLOURS, strict=False):
        curves = [run.errors for run in runs if run.row == row]
        epochs = range(1, len(curves[0]) + 1)
        for curve in curves:
            axes.plot(epochs, curve, color=colour, linewidth=0.8, alpha=0.5)
        medians = [median(errors) for errors in zip(*curves, strict=True)]
        label = f"{row}: {medians[-1]:.2f} %"
        axes.plot(epochs, medians, color=colour, linewidth=2.2, marker="o", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="epoch", ylabel="test error, %")
    axes.set_title(f"MNIST, {LAYERS} hidden layers of 256, {len({run.seed for run in runs})} seeds")
    axes.grid(which="both", linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="holds MNIST/raw")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fresh", action="store_true", help="make finished runs again")
    options = parser.parse_args()
    options.output = options.output or default_output("mnist_fcn.md", quick=options.quick)
    if options.quick:
        options.seeds, options.epochs = options.seeds[:1], 1
    return options


def main() -> None:
    """Train what is not trained yet, print and write the report and the plot."""
    options = arguments()
    data = without_validation(read_mnist(options))
    path = options.output.with_suffix(".jsonl")
    if options.fresh:
        path.unlink(missing_ok=True)
    runs = finish(plans(options, data), path, lambda plan: train(plan, data))
    picture = options.output.with_suffix(".png")
    explanation = EXPLANATION.format(
        layers=LAYERS,
        batch=BATCH,
        epochs=options.epochs,
        images=data.counts["train"],
        test_images=data.counts["test"],
    )
    facts = provenance(options.device)
    facts["runs made at"] = ", ".join(sorted({run.commit for run in runs}))
    image = f"![Test error by epoch]({picture.name})"
    paragraphs = [table(runs), image, explanation, synthesizers()]
    write_report(options.output, "Fully connected network on MNIST", paragraphs, facts)
    plot(runs, picture)


if __name__ == "__main__":
    main()
