"""Test error of a fully connected network on MNIST, by backprop and by synthetic gradients."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from tqdm import tqdm

from dni import DNI
from interleave import synchronize
from mnist import Images, load_mnist, percent_wrong
from report import (
    benchmark_parser,
    commit,
    default_output,
    markdown_table,
    provenance,
    write_report,
)
from runs import Plan, Run, finish
from workloads import CLASSES, FCN, Learn, backprop, make_optimizer

mpl.use("agg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthesis:
    """How a row makes and mixes its synthetic gradients."""

    lambda_: float
    """λ: the share of the true gradient."""
    dni_network: str = "linear"
    """Registered name of the synthesizer."""
    hidden_size: int
    """Units of a synthesizer's hidden layers."""
    num_layers: int
    """Hidden layers of a synthesizer; 0 is a single linear map."""
    grad_lr: float = 1e-3
    """Learning rate of the synthesizers' Adam."""
    context: bool = False
    """Whether the synthesizers see the labels."""


# The rows, and everything that can be tuned about them. None is backpropagation.
ROWS: dict[str, Synthesis | None] = {
    "backprop": None,
    "DNI, λ = 0.5": Synthesis(lambda_=0.5, hidden_size=256, num_layers=1),
    "DNI, λ = 0, labels": Synthesis(
        lambda_=0.0, hidden_size=256, num_layers=0, grad_lr=1e-2, context=True
    ),
    "DNI, λ = 0, critic": Synthesis(
        lambda_=0.0, dni_network="critic", hidden_size=10, num_layers=0, grad_lr=3e-3, context=True
    ),
}
LAYERS, BATCH = 3, 256
COLOURS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7"]

EXPLANATION = """\
{layers} hidden layers of 256 units with BatchNorm and ReLU; batch {batch}; Adam 1e-3; {epochs}
epochs over {images} images in [0, 1]; error on {test_images} test images after the last epoch, no
choice of a best one. A DNI row has an interface after every hidden layer, the output layer learns
from the true loss. Runs of the same seed start from the same network and see the same batches.
*Cosine* is between synthetic and true gradient, averaged lately, from the first hidden layer to
the last. Seconds are of training alone, on a machine that may have done other things too."""


def learner(network: FCN, synthesis: Synthesis | None) -> tuple[nn.Module, Learn]:
    """What to train and evaluate, and its training step."""
    if synthesis is None:
        return network, backprop(network)
    wrapped = DNI(
        network,
        dni_network=synthesis.dni_network,
        dni_params={"num_layers": synthesis.num_layers},
        optim=make_optimizer,
        grad_lr=synthesis.grad_lr,
        hidden_size=synthesis.hidden_size,
        lambda_=synthesis.lambda_,
        sites=[f"hidden.{index}" for index in range(LAYERS)],
        context_size=CLASSES if synthesis.context else None,
    )

    def learn(value: Tensor, target: Tensor) -> None:
        output = wrapped(value, context=target) if synthesis.context else wrapped(value)
        nn.functional.cross_entropy(output, target).backward()

    return wrapped, learn


def train(plan: Plan, images: Images) -> Run:
    """Train one row with one seed."""
    row, seed, settings = plan
    torch.manual_seed(seed)
    network, learn = learner(FCN(LAYERS).to(images.train.device), ROWS[row])
    # One of its own, so that every row sees the same batches.
    shuffling = torch.Generator().manual_seed(seed)
    errors: list[float] = []
    seconds = 0.0
    count, epochs = len(images.train), settings["epochs"]
    batches = epochs * -(-count // BATCH)
    with tqdm(total=batches, desc=f"{row}, seed {seed}", unit="batch", disable=None) as bar:
        for _ in range(epochs):
            start = time.perf_counter()
            for batch in torch.randperm(count, generator=shuffling).split(BATCH):
                learn(images.train[batch], images.train_labels[batch])
                bar.update()
            synchronize(images.train.device)
            seconds += time.perf_counter() - start
            errors.append(percent_wrong(network, images))
            bar.set_postfix_str(f"test error {errors[-1]:.2f} %")
    print(f"{row}, seed {seed}: test error {errors[-1]:.2f} % after {seconds:.0f} s")
    found = network.statistics() if isinstance(network, DNI) else {}
    return Run(
        row=row,
        seed=seed,
        settings=settings,
        errors=errors,
        seconds=seconds,
        cosines={site: statistics["cosine"] for site, statistics in found.items()},
        commit=commit(),
    )


def finish_runs(options: argparse.Namespace, images: Images) -> list[Run]:
    """Every row with every seed."""
    path = options.output.with_suffix(".jsonl")
    if options.fresh:
        path.unlink(missing_ok=True)
    common = {
        "layers": LAYERS,
        "batch": BATCH,
        "epochs": options.epochs,
        "images": len(images.train),
        "device": options.device.type,
    }
    # Seed by seed, so that a command cut short has compared all rows on the seeds it got to.
    plans: list[Plan] = [
        (row, seed, common | (asdict(synthesis) if synthesis else {}))
        for seed in options.seeds
        for row, synthesis in ROWS.items()
    ]
    return finish(plans, path, lambda plan: train(plan, images))


def synthesizers() -> str:
    """The settings of every row's synthesizers."""
    lines = [f"- {row}: `{synthesis}`" for row, synthesis in ROWS.items() if synthesis]
    return "\n".join(["Synthesizers:", *lines])


def table(runs: Sequence[Run]) -> str:
    """The rows: error of every seed, its median, the distance from backprop's."""
    columns = ["", "test error %, by seed", "median", "minus backprop", "seconds", "cosine"]
    baseline = median(run.errors[-1] for run in runs if ROWS[run.row] is None)
    rows = []
    for row, synthesis in ROWS.items():
        mine = [run for run in runs if run.row == row]
        errors = [run.errors[-1] for run in mine]
        cosines = [median(run.cosines[site] for run in mine) for site in mine[0].cosines]
        rows.append(
            [
                row,
                ", ".join(f"{error:.2f}" for error in errors),
                f"{median(errors):.2f}",
                f"{round(median(errors) - baseline, 2) + 0.0:+.2f}" if synthesis else "",
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
    limit = 10 * BATCH if options.quick else None
    images = load_mnist(options.data_dir, options.device, limit=limit)
    runs = finish_runs(options, images)
    picture = options.output.with_suffix(".png")
    explanation = EXPLANATION.format(
        layers=LAYERS,
        batch=BATCH,
        epochs=options.epochs,
        images=len(images.train),
        test_images=len(images.test),
    )
    facts = provenance(options.device)
    facts["runs made at"] = ", ".join(sorted({run.commit for run in runs}))
    image = f"![Test error by epoch]({picture.name})"
    paragraphs = [table(runs), image, explanation, synthesizers()]
    write_report(options.output, "Fully connected network on MNIST", paragraphs, facts)
    plot(runs, picture)


if __name__ == "__main__":
    main()
