"""Show the same network learning handwritten digits by backprop and by synthetic gradients."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from data import ImageDataset, load_dataset
from dni.scripts import positive
from fcn import fully_connected
from history import History
from learners import Backprop, Decoupled, Learner, Synthesis
from memory import peak_saved_bytes
from plots import save_plot
from training import Progress, train

LAYERS, UNITS = 3, 256
BATCH_SIZE, LEARNING_RATE = 64, 1e-3
SITES = [f"hidden{number}" for number in range(1, LAYERS + 1)]
METHODS: dict[str, Synthesis | None] = {
    "backprop": None,
    "DNI, λ = 0.5": Synthesis(lambda_=0.5),
    "DNI, λ = 0, sees labels": Synthesis(lambda_=0.0, context=True),
    "DNI, λ = 0, critic": Synthesis(lambda_=0.0, dni_network="critic", context=True, lr=3e-3),
}
NEXT = """\
λ      share of the true gradient that crosses a hidden layer's output. At 0 none does: the hidden
       layers learn from what their synthesizers predict: one linear map each, or the gradient of
       a critic's learned local loss, which needs the labels.
cos    cosine between synthetic and true gradient over the last updates. Without the labels most
       of the gradient cannot be told from the activation, so it is near 0 there.
saved  what autograd holds at the end of a forward pass. λ by itself frees nothing.

What to try next:
  .venv/bin/python tasks/mnist/fcn.py --lambda 0                no true gradient and no labels
  .venv/bin/python tasks/mnist/fcn.py --lambda 0 --context --layers 6
  .venv/bin/python tasks/mnist/conv.py --lambda 0 --context     convolutions
  .venv/bin/python tasks/mnist/fcn.py --dataset mnist           60,000 images, downloaded once
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one method measured.

    Attributes:
        histories: One run per seed.
        saved_bytes: Peak of saved activations in a training forward pass.
    """

    histories: list[History]
    saved_bytes: int

    def cells(self) -> list[str]:
        """The method's row, without its name."""
        errors = [history.epochs[-1].error for history in self.histories]
        seconds = statistics.mean(history.seconds for history in self.histories)
        cosines = [history.epochs[-1].cosines for history in self.histories]
        return [
            f"{statistics.mean(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})",
            f"{seconds:.1f}",
            f"{self.saved_bytes / 2**10:,.0f}",
            *(_mean([row[site] for row in cosines if site in row]) for site in SITES),
        ]


def make_learner(dataset: ImageDataset, synthesis: Synthesis | None, *, seed: int) -> Learner:
    """A new network, the same for every method, and its learner."""
    torch.manual_seed(seed)
    network = fully_connected(dataset.images[0].numel(), layers=LAYERS, units=UNITS)
    if synthesis is None:
        return Backprop(network, lr=LEARNING_RATE)
    return Decoupled(network, sites=SITES, lr=LEARNING_RATE, synthesis=synthesis)


def measure(
    dataset: ImageDataset, synthesis: Synthesis | None, *, epochs: int, seeds: int
) -> Result:
    """Train with each seed, then measure the memory of one more forward pass."""
    histories = []
    for seed in range(seeds):
        learner = make_learner(dataset, synthesis, seed=seed)
        progress = Progress()
        train(learner, dataset, progress, epochs=epochs, batch_size=BATCH_SIZE, seed=seed)
        histories.append(progress.history)

    learner.net.train()
    batch, answers = dataset.images[:BATCH_SIZE], dataset.labels[:BATCH_SIZE]
    lasting = chain(learner.net.parameters(), learner.net.buffers())
    saved = peak_saved_bytes(lambda: learner.loss(batch, answers), excluded=lasting)
    return Result(histories=histories, saved_bytes=saved)


def table(rows: list[list[str]]) -> Iterator[str]:
    """Lines with aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *others])


def main(words: list[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__)
    add = parser.add_argument
    add("--epochs", type=positive, default=30, help="default: 30")
    add("--seeds", type=positive, default=3, help="runs of each method (default: 3)")
    add("--output", type=Path, default=Path("runs"), help="folder of the plot (default: runs)")
    options = parser.parse_args(words)

    # Layers this small gain nothing from a second thread, and with it wait for other programs.
    torch.set_num_threads(1)
    dataset = load_dataset("digits", Path())
    print(
        f"{LAYERS} hidden layers of {UNITS} (Linear, BatchNorm, ReLU) learn "
        f"{len(dataset.images):,} handwritten digits, tested on {len(dataset.test_images)} others: "
        f"{options.epochs} epochs, batches of {BATCH_SIZE}, Adam, {options.seeds} seeds.\n"
    )
    results = {}
    for name, synthesis in METHODS.items():
        print(f"training: {name}", flush=True)
        results[name] = measure(dataset, synthesis, epochs=options.epochs, seeds=options.seeds)

    top = ["method", "test error %", "seconds", "saved KiB"]
    rows = [[*top, *(f"cos {site}" for site in SITES)]]
    rows += [[name, *result.cells()] for name, result in results.items()]
    print("\n" + "\n".join(table(rows)) + "\n")

    plot = options.output / "demo.png"
    plot.parent.mkdir(parents=True, exist_ok=True)
    first_runs = {name: result.histories[0] for name, result in results.items()}
    save_plot(plot, first_runs, title="Handwritten digits by backprop and by synthetic gradients")
    print(f"curves, and cosine by site over the epochs (first seed): {plot}\n\n{NEXT}", end="")
    return 0


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" if values else "-"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted")
