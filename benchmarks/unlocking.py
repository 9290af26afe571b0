"""Test error on MNIST with complete unlock and with sparse updates, beside backprop."""

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
    COLOURS,
    CRITIC,
    UNITS,
    Data,
    mnist_settings,
    settings_of,
    steps_per_epoch,
    train,
    with_validation,
)

LAYERS = 4
FORWARD, SPARSE = "critic, forward unlocked", "critic, sparse updates"
OPTIONS: dict[str, dict[str, Any]] = {
    BACKPROP: {},
    CRITIC: {},
    FORWARD: {"unlock": "forward"},
    SPARSE: {"update_probability": 0.2},
}
COLOUR = {**COLOURS, FORWARD: "#0072b2", SPARSE: "#009e73"}

EXPLANATION = """\
Mean test error in percent and, in brackets, the least and the greatest of the seeds, after the
epoch that was best on {valid} held-out images, and after the last one; {train} images, {epochs}
epochs, batch {batch}, Adam 1e-3. {layers} hidden layers of {units} units with BatchNorm and ReLU,
an interface with λ = 0 after each. *Forward unlocked* is `unlock="forward"`: in training every
hidden layer but the first starts from an activation that was predicted from the image and the
label; tested is the real network, which sees no label. *Sparse updates* are
`update_probability=0.2`: a hidden layer learns in every fifth step on average, the output layer in
all. Runs of one seed start from the same network and see the same batches. *Seconds* are those of
training, of the fastest seed, on a machine that did other things too. A dash: no run is finished
yet; fewer seeds are said as such."""


def plans(options: argparse.Namespace, data: Data) -> list[Plan]:
    """All runs of the page, seed by seed."""
    epochs = 1 if options.quick else options.epochs
    common = mnist_settings(data, steps=epochs * steps_per_epoch(data))
    found: list[Plan] = []
    for seed in options.seeds:
        for row, own in OPTIONS.items():
            method = BACKPROP if row == BACKPROP else CRITIC
            settings = settings_of(method, network="FCN", layers=LAYERS) | common
            found.append((row, seed, settings | ({"options": own} if own else {})))
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = mnist_parser(__doc__, methods=OPTIONS)
    parser.add_argument("--epochs", type=int, default=20)
    return parse(parser, "unlocking.md")


def main() -> None:
    """Train what is asked for and not trained yet, write the page of all that is finished."""
    options = arguments()
    data = with_validation(read_mnist(options))
    runs = finish_and_read(plans(options, data), options, lambda plan: train(plan, data))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    draw_epochs(axes, runs, COLOUR, title=f"MNIST, {LAYERS} hidden layers")
    settings = {
        row: ", ".join(f"`{key}={value!r}`" for key, value in own.items())
        for row, own in OPTIONS.items()
    }
    epochs = 1 if options.quick else options.epochs
    text = EXPLANATION.format(epochs=epochs, batch=BATCH, units=UNITS, layers=LAYERS, **data.counts)
    title = "Complete unlock and sparse updates"
    write_page(options, title, [compare(settings, runs, len(options.seeds)), text], figure, runs)


if __name__ == "__main__":
    main()
