"""The settings of the MNIST pages, unchanged, on small data that scikit-learn ships."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import sklearn.datasets
import torch
from matplotlib import pyplot as plt
from sklearn.model_selection import train_test_split
from torch import Tensor

from report import markdown_table
from runs import Plan, Run
from trial_tables import (
    cell,
    difference,
    draw_depths,
    finish_and_read,
    parse,
    trial_parser,
    write_page,
)
from trials import BACKPROP, BATCH, CRITIC, SOBOLEV, UNITS, Data, settings_of, train

DEPTHS = [1, 3, 6]
METHODS = [BACKPROP, CRITIC, SOBOLEV]
PATCH = 8

EXPLANATION = """\
Mean test error in percent and, in brackets, the least and the greatest of the seeds. Networks,
optimizers and synthesizers are those of [mnist.md](mnist.md), with no setting changed for any
data set: {units} units, batches of {batch} (all samples where there are fewer), Adam 1e-3, λ = 0
after every hidden layer; {steps} updates. A seed decides the split as well (60 % to train on, 20
% to choose the epoch, 20 % to test; classes keep their shares), the initial weights and the
batches, alike for both methods. Features have mean 0 and deviation 1 on the part that is trained
on. *Patches* are the {patch}×{patch} pixels of scikit-learn's two photographs, to be told apart
by their photograph. Of the smallest set one test sample is {largest:.1f} points: read its rows
so."""


def patches() -> tuple[np.ndarray, np.ndarray]:
    """Squares of both photographs that do not overlap, and which photograph each is from."""
    squares = []
    for photograph in sklearn.datasets.load_sample_images().images:
        rows, columns = (size // PATCH for size in photograph.shape[:2])
        whole = photograph[: rows * PATCH, : columns * PATCH]
        cut = whole.reshape(rows, PATCH, columns, PATCH, -1).swapaxes(1, 2)
        squares.append(cut.reshape(rows * columns, -1))
    labels = np.repeat([0, 1], [len(some) for some in squares])
    return np.concatenate(squares), labels


DATA: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "digits": lambda: sklearn.datasets.load_digits(return_X_y=True),
    "patches": patches,
    "breast cancer": lambda: sklearn.datasets.load_breast_cancer(return_X_y=True),
    "wine": lambda: sklearn.datasets.load_wine(return_X_y=True),
    "iris": lambda: sklearn.datasets.load_iris(return_X_y=True),
}


def load(name: str, seed: int, device: torch.device) -> Data:
    """A data set in three parts, standardised with the first one's mean and deviation."""
    features, labels = DATA[name]()
    rest, test = _split(features, labels, share=0.2, seed=seed)
    first, valid = _split(*rest, share=0.25, seed=seed)
    mean, deviation = first[0].mean(0), first[0].std(0)
    deviation[deviation == 0] = 1  # digits have pixels that are always white

    def part(samples: np.ndarray, answers: np.ndarray) -> tuple[Tensor, Tensor]:
        values = torch.tensor((samples - mean) / deviation, dtype=torch.float32, device=device)
        return values, torch.tensor(answers, dtype=torch.int64, device=device)

    return Data(train=part(*first), valid=part(*valid), test=part(*test))


Part = tuple[np.ndarray, np.ndarray]


def _split(features: np.ndarray, labels: np.ndarray, *, share: float, seed: int) -> list[Part]:
    kept, held, kept_labels, held_labels = train_test_split(
        features, labels, test_size=share, stratify=labels, random_state=seed
    )
    return [(kept, kept_labels), (held, held_labels)]


def plans(options: argparse.Namespace) -> list[Plan]:
    """All runs of the page, seed by seed."""
    common = {"steps": 10 if options.quick else options.iterations, "device": options.device.type}
    return [
        (method, seed, settings_of(method, network="FCN", layers=layers) | common | {"data": name})
        for seed in options.seeds
        for name in DATA
        for layers in DEPTHS
        for method in METHODS
    ]


def table(runs: Sequence[Run], seeds: int) -> str:
    """One row a data set and depth."""
    rows = []
    for name in DATA:
        samples = len(DATA[name]()[1])
        for layers in DEPTHS:
            mine = [
                run
                for run in runs
                if (run.settings["data"], run.settings["layers"]) == (name, layers)
            ]
            by_method = ([run for run in mine if run.row == method] for method in METHODS)
            cells = (cell(some, seeds) for some in by_method)
            minus = (difference(mine, method) for method in (CRITIC, SOBOLEV))
            rows.append([name, str(samples), str(layers), *cells, *minus])
    differences = ("critic minus backprop", "Sobolev minus backprop")
    columns = ["data", "samples", "hidden layers", *METHODS, *differences]
    return markdown_table(columns, rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = trial_parser(__doc__)
    parser.add_argument("--iterations", type=int, default=400, help="updates of every run")
    parser.add_argument("--data", nargs="+", choices=DATA, help="train on these; default: all")
    return parse(parser, "small_data.md")


def main() -> None:
    """Train what is asked for and not trained yet, write the page of all that is finished."""
    options = arguments()

    def make(plan: Plan) -> Run:
        _, seed, settings = plan
        return train(plan, load(settings["data"], seed, options.device))

    runs = finish_and_read(plans(options), options, make)
    figure, panels = plt.subplots(1, len(DATA), figsize=(14, 3.4), layout="constrained")
    for axes, name in zip(panels, DATA, strict=True):
        mine = [run for run in runs if run.settings["data"] == name]
        draw_depths(axes, mine, methods=METHODS, title=name)
        axes.set_yscale("linear")  # some errors are 0
        axes.set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize="small")
    smallest = min(len(read()[1]) for read in DATA.values())
    text = EXPLANATION.format(
        units=UNITS,
        batch=BATCH,
        steps=10 if options.quick else options.iterations,
        patch=PATCH,
        largest=100 / (0.2 * smallest),
    )
    write_page(options, "Small data", [table(runs, len(options.seeds)), text], figure, runs)


if __name__ == "__main__":
    main()
