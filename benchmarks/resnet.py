"""ResNet-18 on small images, unlocked block by block: memory of a step and curves of learning."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from dni import DNI
from dni.vision import import_torchvision
from interleave import synchronize
from memory import MIB, waiting
from report import commit, markdown_table
from runs import Plan, Run
from tensor_memory import watched
from trial_tables import cell, finish_and_read, mnist_parser, parse, read_mnist, write_page
from trials import Data, mnist_settings, percent_wrong, without_validation
from workloads import CLASSES, make_optimizer

BATCH, SIDE, TESTS, EVERY = 64, 32, 1000, 20
BACKPROP, CHECKPOINT, CRITIC, UNLOCKED, SOBOLEV = METHODS = (
    "backprop",
    "checkpointing",
    "critic",
    "critic, unlocked",
    "critic, Sobolev, unlocked",
)
COLOURS = dict(zip(METHODS, ["#000000", "#009e73", "#0072b2", "#d55e00", "#cc79a7"], strict=True))
TRAINED = (
    BACKPROP,
    UNLOCKED,
    SOBOLEV,
)  # checkpointing trains as backprop does, and unlocking as none
BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
SYNTHESIS: dict[str, Any] = {
    "dni_network": "critic",
    "dni_params": {"num_layers": 0, "pool_size": 8},
    "grad_lr": 3e-3,
    "lambda_": 0.0,
    "context_size": CLASSES,
    "sites": ["maxpool", *BLOCKS],
}

EXPLANATION = """\
torchvision's ResNet-18 as it comes, but for one input channel and {classes} classes, on MNIST
padded to {side}×{side}; batch {batch}, Adam 1e-3, {steps} updates; runs of one seed start from the
same network and see the same batches. The sites are the stem and the eight residual blocks: λ = 0,
so no true gradient passes from one to another, and with `unlock="update"` each block learns as
soon as it has run. The last layer learns from the true loss, the stem from its critic at the end.
*Sobolev* is the critic that is also fitted to the labels (`sobolev=1`).

- *saved*: MiB at the peak of one training step that autograd holds for backward, parameters and
  buffers excluded, the input included; for the unlocked network also what waits between its sites.
  Checkpointing is `torch.utils.checkpoint` (not re-entrant) around every block; what it runs again
  in backward is not in this figure.
- *tensors*: MiB of all storages made during the step while they live, gradients and what the
  operations need for themselves included.
- *loss* is the training loss, the mean of the last {every} updates; *test error* in percent on the
  first {tests} test images, after the last update: no choice of a best one. Brackets: least and
  greatest of the seeds. *Seconds* are of training alone, on a machine that did other things too.

The memory of an unlocked network is that of the site that needs most. Here it is the stem, whose
maps are the largest by far; in deep chains of equal blocks ([memory.md](memory.md)) it is a small
part of the whole."""


class Checkpointed(nn.Module):
    """A block that is run again in backward instead of keeping its activations."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, value: Tensor) -> Tensor:
        """What the block returns."""
        output: Tensor = checkpoint(self.block, value, use_reentrant=False)
        return output


def build(method: str) -> nn.Module:
    """ResNet-18 for images of one channel."""
    network: nn.Module = import_torchvision().models.resnet18(num_classes=CLASSES)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    for name in BLOCKS if method == CHECKPOINT else []:
        stage, _, index = name.partition(".")
        blocks = network.get_submodule(stage)
        assert isinstance(blocks, nn.Sequential)
        blocks[int(index)] = Checkpointed(blocks[int(index)])
    return network


def synthesis_of(method: str) -> dict[str, Any]:
    """How a method makes its synthetic gradients."""
    own = {"sobolev": 1.0} if method == SOBOLEV else {}
    return SYNTHESIS | {"dni_params": SYNTHESIS["dni_params"] | own}


def prepare(method: str, device: torch.device) -> tuple[nn.Module, Callable[..., Tensor]]:
    """What is trained, synthesizers included, and a training step that returns its loss."""
    network = build(method).to(device)
    if method in (BACKPROP, CHECKPOINT):
        optimizer = make_optimizer(network.parameters())

        def learn(value: Tensor, target: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(value), target)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return network, learn
    unlock = {} if method == CRITIC else {"unlock": "update"}
    wrapped = DNI(network, optim=make_optimizer, **synthesis_of(method), **unlock)

    def learn_locally(value: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(wrapped(value, context=target), target)
        loss.backward()
        return loss.detach()

    return wrapped, learn_locally


def measure(method: str, device: torch.device) -> tuple[float, float]:
    """MiB at the peak of a step: what autograd and the package hold, and all tensors."""
    torch.manual_seed(0)
    value = torch.randn(BATCH, 1, SIDE, SIDE, device=device)
    target = torch.randint(CLASSES, (BATCH,), device=device)
    trained, learn = prepare(method, device)
    for _ in range(2):  # makes the optimizers' state and what else is made once
        learn(value[:4], target[:4])
    trained.zero_grad()
    exclude = [*trained.parameters(), *trained.buffers()]
    with watched(exclude, waiting(trained)) as (saved, made):
        learn(value, target)
    return saved.peak / MIB, made.peak / MIB


def small_images(data: Data) -> Data:
    """MNIST as padded maps, and so few to test that testing takes no longer than training."""

    def part(samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.pad(samples.view(-1, 1, 28, 28), [(SIDE - 28) // 2] * 4), labels

    samples, labels = data.test
    return Data(train=part(*data.train), test=part(samples[:TESTS], labels[:TESTS]))


def train(plan: Plan, data: Data) -> Run:
    """Train one method with one seed; loss and test error every so many updates."""
    method, seed, settings = plan
    torch.manual_seed(seed)
    device = data.train[0].device
    network, learn = prepare(method, device)
    shuffling = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train[0]), generator=shuffling)
    losses: list[float] = []
    errors: list[float] = []
    seconds, title = 0.0, f"ResNet-18, {method}, seed {seed}"
    steps = [
        order[torch.arange(n, n + BATCH) % len(order)]
        for n in range(0, settings["steps"] * BATCH, BATCH)
    ]
    with tqdm(total=len(steps), desc=title, unit="step", disable=None) as bar:
        for first in range(0, len(steps), EVERY):
            start, heard = time.perf_counter(), []
            for batch in steps[first : first + EVERY]:
                heard.append(learn(data.train[0][batch], data.train[1][batch]))
                bar.update()
            synchronize(device)
            seconds += time.perf_counter() - start
            losses.append(float(torch.stack(heard).mean()))
            errors.append(percent_wrong(network, *data.test))
            bar.set_postfix_str(f"loss {losses[-1]:.3f}, {errors[-1]:.2f} % wrong")
    print(f"{title}: loss {losses[-1]:.3f}, {errors[-1]:.2f} % wrong, {seconds:.0f} s", flush=True)
    found = network.statistics() if isinstance(network, DNI) else {}
    return Run(
        row=method,
        seed=seed,
        settings=settings,
        errors=errors,
        losses=losses,
        seconds=seconds,
        cosines={site: statistics["cosine"] for site, statistics in found.items()},
        commit=commit(),
    )


def plans(options: argparse.Namespace, data: Data) -> list[Plan]:
    """All runs of the page, seed by seed."""
    steps = 2 if options.quick else options.iterations
    common: dict[str, Any] = {"network": "ResNet-18", "batch": BATCH, "side": SIDE}
    common |= {"tests": data.counts["test"], **mnist_settings(data, steps=steps)}
    own = {method: {} if method == BACKPROP else synthesis_of(method) for method in TRAINED}
    return [(row, seed, common | own[row]) for seed in options.seeds for row in TRAINED]


def table(runs: Sequence[Run], seeds: int, memory: dict[str, tuple[float, float]]) -> str:
    """One row a method: memory of a step, what has been learned."""
    rows = []
    for method, (saved, tensors) in memory.items():
        mine = [run for run in runs if run.row == method]
        rows.append(
            [
                method,
                f"{saved:.1f}",
                f"{memory[BACKPROP][0] / saved:.1f}",
                f"{tensors:.1f}",
                f"{mean(run.losses[-1] for run in mine):.3f}" if mine else "-",
                cell(mine, seeds),
                f"{min(run.seconds for run in mine):.0f}" if mine else "-",
            ]
        )
    columns = ["method", "saved", "backprop / it", "tensors", "loss", "test error %", "seconds"]
    return markdown_table(columns, rows)


def draw(runs: Sequence[Run], memory: dict[str, tuple[float, float]]) -> Figure:
    """Loss and error by update, every seed thin and the mean bold; bars of the memory."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    for axes, name in zip(panels, ("losses", "errors"), strict=False):
        for method in METHODS:
            mine = [run for run in runs if run.row == method]
            curves = [getattr(run, name) for run in mine]
            means = [mean(values) for values in zip(*curves, strict=True)]
            last = max((run.settings["steps"] for run in mine), default=0)
            updates = [min(EVERY * (place + 1), last) for place in range(len(means))]
            for curve in curves:
                axes.plot(updates, curve, color=COLOURS[method], linewidth=0.7, alpha=0.4)
            if curves:
                axes.plot(updates, means, color=COLOURS[method], linewidth=2, label=method)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xlabel("updates")
        axes.grid(which="both", linewidth=0.4, alpha=0.5)
    panels[0].set_title("training loss")
    panels[1].set_title("test error, %")
    panels[0].legend(frameon=False)
    names = [*memory]
    sizes = [saved for saved, _ in memory.values()]
    panels[2].barh(names, sizes, color=[COLOURS[name] for name in names])
    panels[2].invert_yaxis()
    panels[2].set(title="saved activations, MiB")
    return figure


def main() -> None:
    """Train what is not trained yet, measure the memory of a step, write the page."""
    parser = mnist_parser(__doc__, methods=TRAINED)
    parser.add_argument("--iterations", type=int, default=150, help="updates of every run")
    options = parse(parser, "resnet.md")
    data = small_images(without_validation(read_mnist(options)))
    runs = finish_and_read(plans(options, data), options, lambda plan: train(plan, data))
    memory = {method: measure(method, options.device) for method in METHODS}
    text = EXPLANATION.format(
        classes=CLASSES,
        side=SIDE,
        batch=BATCH,
        steps=2 if options.quick else options.iterations,
        every=EVERY,
        tests=data.counts["test"],
    )
    figure = draw(runs, memory)
    paragraphs = [table(runs, len(options.seeds), memory), text]
    write_page(options, "ResNet-18, unlocked", paragraphs, figure, runs, {CRITIC: SYNTHESIS})


if __name__ == "__main__":
    main()
