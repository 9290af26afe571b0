"""Test error against training time, where layers are wide enough for critics to pay."""

from __future__ import annotations

import argparse
from functools import partial
from statistics import mean, median
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from interleave import Spread, interleave, ratios
from report import markdown_table
from runs import Plan, Run
from step_time import BLOCK_SECONDS, Contender, dni_step
from trial_tables import cell, finish_and_read, mnist_parser, parse, read_mnist, write_page
from trials import (
    BACKPROP,
    BATCH,
    CRITIC,
    Data,
    mnist_settings,
    settings_of,
    steps_per_epoch,
    train,
    with_validation,
)
from workloads import WORKLOADS, backprop

WORKLOAD, LAYERS, UNITS = WORKLOADS["fcn-6-wide"], 6, 1024
EVERY = {"linear critic": 1, "linear critic, every 2nd": 2, "linear critic, every 4th": 4}
"""Updates of the network for one of the critics."""
METHODS = [BACKPROP, *EVERY]
COLOURS = dict(zip(METHODS, ["#000000", "#d55e00", "#e69f00", "#009e73"], strict=True))

EXPLANATION = """\
{layers} hidden layers of {units} units with BatchNorm and ReLU, batch {batch}, Adam 1e-3, {epochs}
epochs of {train} images; mean test error in percent and, in brackets, the least and the greatest of
the seeds, after the epoch that was best on {valid} held-out images. An interface with λ = 0 after
every hidden layer, whose critic (a linear head that sees the labels, `grad_lr=3e-3`) learns in
every update, in every second or in every fourth (`train_every`). In the others no layer computes
the gradient with respect to its input, a third of its products.

*Step* is the median time of a training step, measured for this page on random images, contenders in
turns; the ratio is taken within a turn, with its quartiles. *Unlocked* is the same with
`unlock="update"`, which trains to the same bits. A dash: no run is finished yet; fewer seeds are
said as such."""


def plans(options: argparse.Namespace, data: Data) -> list[Plan]:
    """All runs of the page, seed by seed."""
    epochs = 1 if options.quick else options.epochs
    common = mnist_settings(data, steps=epochs * steps_per_epoch(data))
    found: list[Plan] = []
    for seed in options.seeds:
        for method in METHODS:
            kind = BACKPROP if method == BACKPROP else CRITIC
            settings = settings_of(kind, network="FCN", layers=LAYERS, units=UNITS)
            if method in EVERY:
                settings |= {"num_layers": 0, "train_every": EVERY[method]}
            found.append((method, seed, settings | common))
    return found


def step_times(device: torch.device, *, repeats: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of a step under each method and unlocking, in the order of the repeats."""
    network, value, target = WORKLOAD.on(device)
    steps: dict[tuple[str, str], Any] = {
        (BACKPROP, "none"): partial(backprop(network), value, target)
    }
    kept = []
    for method, every in EVERY.items():
        for unlock in ("none", "update"):
            contender = Contender(
                synthesizer="critic", hidden_size=10, mixing=0.0, unlock=unlock, train_every=every
            )
            wrapped, steps[method, unlock] = dni_step(WORKLOAD, contender, device)
            kept.append(wrapped)
    torch.set_flush_denormal(True)  # as in step_time.py: one batch again and again
    named = {"\n".join(key): step for key, step in steps.items()}
    period = max(EVERY.values())
    found = interleave(named, device, repeats=repeats, block_seconds=BLOCK_SECONDS, period=period)
    return {key: found["\n".join(key)] for key in steps}


def table(runs: list[Run], times: dict[tuple[str, str], list[float]], seeds: int) -> str:
    """One row a method: error, time of a step, and its ratio to backprop's."""
    baseline = times[BACKPROP, "none"]
    rows = []
    for method in METHODS:
        mine = [run for run in runs if run.row == method]
        row = [method, cell(mine, seeds), f"{1e3 * median(times[method, 'none']):.1f}"]
        for unlock in ("none", "update"):
            seconds = times.get((method, unlock))
            if method == BACKPROP or seconds is None:
                row.append("")
                continue
            ratio: Spread = ratios(seconds, baseline)
            row.append(f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})")
        rows.append(row)
    columns = ["method", "test error", "step, ms", "/ backprop", "unlocked / backprop"]
    return markdown_table(columns, rows)


def draw(
    axes: Axes, runs: list[Run], times: dict[tuple[str, str], list[float]], data: Data
) -> None:
    """Mean test error after every epoch against the seconds until then."""
    for method in METHODS:
        mine = [run for run in runs if run.row == method]
        if not mine:
            continue
        epoch = steps_per_epoch(data) * median(times[method, "none"])
        errors = [mean(values) for values in zip(*(run.errors for run in mine), strict=True)]
        seconds = [epoch * (index + 1) for index in range(len(errors))]
        axes.plot(seconds, errors, marker="o", label=method, color=COLOURS[method])
    axes.set(xlabel="seconds of training", ylabel="test error in percent")
    axes.set_title(f"MNIST, {LAYERS} hidden layers of {UNITS}")
    axes.set_ylim(bottom=0)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = mnist_parser(__doc__, methods=METHODS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15, help="blocks of steps to time, from 2")
    options = parse(parser, "wide.md")
    if options.repeats < 2:
        parser.error(f"--repeats was {options.repeats}; quartiles need at least 2.")
    if options.quick:
        options.repeats = 2
    return options


def main() -> None:
    """Train what is asked for and not trained yet, time steps, write the page."""
    options = arguments()
    data = with_validation(read_mnist(options))
    runs = finish_and_read(plans(options, data), options, lambda plan: train(plan, data))
    times = step_times(options.device, repeats=options.repeats)
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    draw(axes, runs, times, data)
    text = EXPLANATION.format(
        layers=LAYERS,
        units=UNITS,
        batch=BATCH,
        epochs=1 if options.quick else options.epochs,
        **data.counts,
    )
    paragraphs = [table(runs, times, len(options.seeds)), text]
    write_page(options, "Wide layers: error against time", paragraphs, figure, runs)


if __name__ == "__main__":
    main()
