"""Test error on MNIST where no synthesizer sees a label, beside backprop."""

from __future__ import annotations

import argparse
from typing import Any

from matplotlib import pyplot as plt

from runs import Plan
from trial_tables import (
    compare,
    draw_epochs,
    finish_and_read,
    mnist_parser,
    parse,
    read_mnist,
    write_page,
)
from trials import (
    BACKPROP,
    BATCH,
    UNITS,
    Data,
    mnist_settings,
    settings_of,
    steps_per_epoch,
    train,
    with_validation,
)

LAYERS = 3
LINEAR, REGRESSION, CRITIC = "linear", "linear_batchnorm", "label_free_critic"
SYNTHESIS: dict[str, dict[str, Any]] = {
    LINEAR: {"num_layers": 0, "grad_lr": 1e-2, "context": False},
    REGRESSION: {"num_layers": 1, "grad_lr": 3e-3, "context": "image"},
    CRITIC: {"num_layers": 1, "grad_lr": 3e-3, "context": "image"},
}
SETTINGS = {
    BACKPROP: "",
    LINEAR: "sees the activation",
    REGRESSION: "sees the activation and the image",
    CRITIC: "sees the activation and the image",
}
COLOUR = dict(zip(SETTINGS, ["#000000", "#0072b2", "#009e73", "#d55e00"], strict=True))

EXPLANATION = """\
Mean test error in percent and, in brackets, the least and the greatest of the seeds, after the
epoch that was best on {valid} held-out images, and after the last one; {train} images, {epochs}
epochs, batch {batch}, Adam 1e-3. {layers} hidden layers of {units} units with BatchNorm and ReLU,
an interface with λ = 0 after each. No synthesizer is given a label; it learns from the true
gradient, which a label made. Runs of one seed start from the same network and see the same
batches. *Seconds* are those of training, of the fastest seed, on a machine that did other things
too. A dash: no run is finished yet; fewer seeds are said as such."""


def plans(options: argparse.Namespace, data: Data) -> list[Plan]:
    """All runs of the page, seed by seed."""
    epochs = 1 if options.quick else options.epochs
    common = mnist_settings(data, steps=epochs * steps_per_epoch(data))
    found: list[Plan] = []
    for seed in options.seeds:
        for row in SETTINGS:
            settings = settings_of(BACKPROP, network="FCN", layers=LAYERS) | common
            if row in SYNTHESIS:
                settings |= {"dni_network": row, "hidden_size": UNITS, **SYNTHESIS[row]}
            found.append((row, seed, settings))
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = mnist_parser(__doc__, methods=SETTINGS)
    parser.add_argument("--epochs", type=int, default=10)
    return parse(parser, "label_free.md")


def main() -> None:
    """Train what is asked for and not trained yet, write the page of all that is finished."""
    options = arguments()
    data = with_validation(read_mnist(options))
    runs = finish_and_read(plans(options, data), options, lambda plan: train(plan, data))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    draw_epochs(axes, runs, COLOUR, title=f"MNIST, {LAYERS} hidden layers, no labels")
    epochs = 1 if options.quick else options.epochs
    text = EXPLANATION.format(epochs=epochs, batch=BATCH, units=UNITS, layers=LAYERS, **data.counts)
    table = compare(SETTINGS, runs, len(options.seeds))
    write_page(options, "Without labels", [table, text], figure, runs, SYNTHESIS)


if __name__ == "__main__":
    main()
