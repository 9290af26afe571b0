"""Memory of one training step against depth: backprop, checkpointing and synthetic gradients."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from dni import DNI
from report import (
    benchmark_parser,
    commit,
    default_output,
    device_name,
    markdown_table,
    provenance,
    write_report,
)
from tensor_memory import watched
from workloads import CLASSES, Learn, backprop, make_optimizer

mpl.use("agg")

UNITS, BATCH = 512, 2048
MIB = 2**20
COLOURS = ["#000000", "#009e73", "#0072b2", "#d55e00"]
BACKPROP, CHECKPOINT, MIXED, UNLOCKED = METHODS = (
    "backprop",
    "checkpointing",
    "DNI",
    "DNI, unlocked",
)

EXPLANATION = """\
MiB at the peak of one training step. A block is Linear, BatchNorm and ReLU, {units} units wide;
batch {batch}; Adam; float32. Checkpointing is `torch.utils.checkpoint` (not re-entrant) around
every block. DNI has a critic (a linear head) after every block, λ = 0 and labels as context;
*unlocked* adds `unlock="update"`. Every figure is from a process of its own.

- *saved*: distinct storages that autograd holds for backward, parameters and buffers excluded, the
  input included. For the unlocked network also what waits between its sites: predictions, and
  what their synthesizers saved. What checkpointing runs again in backward ({block:.0f} MiB, one
  block) is not in this figure, and gradients on their way down are in none of the methods'.
- *tensors*: all storages made during the step, while they live: saved ones, gradients on their
  way and those of parameters, what an operation needs for itself. Counted independently,
  operation by operation.
- *resident*: growth of the process's resident memory (on a GPU, of its allocated memory) over a
  step, parameters and optimizer state excluded: they are there before. On the CPU glibc is told to
  give freed tensors back (`MALLOC_MMAP_THRESHOLD_=131072`); left to itself it keeps many of them,
  which adds more than half again to backprop at 64 blocks, and about 200 MiB to unlocked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """Peak memory of a step by one method at one depth."""

    method: str
    """One of `METHODS`."""
    depth: int
    """Number of blocks."""
    saved: float
    """MiB that autograd and the package hold for what is to come."""
    tensors: float
    """MiB of all tensors made during the step."""
    resident: float
    """MiB that the process or the device grew by."""


class Deep(nn.Module):
    """Equal blocks and an output layer."""

    def __init__(self, depth: int, *, is_checkpointed: bool) -> None:
        super().__init__()
        self.is_checkpointed = is_checkpointed
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(UNITS, UNITS), nn.BatchNorm1d(UNITS), nn.ReLU())
            for _ in range(depth)
        )
        self.output = nn.Linear(UNITS, CLASSES)

    def forward(self, value: Tensor) -> Tensor:
        """Logits. Shapes: ``[B, UNITS]`` -> ``[B, CLASSES]``."""
        for block in self.hidden:
            if self.is_checkpointed:
                value = checkpoint(block, value, use_reentrant=False)
            else:
                value = block(value)
        logits: Tensor = self.output(value)
        return logits


def learner(method: str, depth: int, device: torch.device) -> tuple[nn.Module, Learn]:
    """What is trained, synthesizers included, and its training step."""
    network = Deep(depth, is_checkpointed=method == CHECKPOINT).to(device)
    if method in (BACKPROP, CHECKPOINT):
        return network, backprop(network)
    wrapped = DNI(
        network,
        dni_network="critic",
        dni_params={"num_layers": 0},
        optim=make_optimizer,
        lambda_=0.0,
        sites=[f"hidden.{index}" for index in range(depth)],
        context_size=CLASSES,
        unlock="update" if method == UNLOCKED else "none",
    )

    def learn(value: Tensor, target: Tensor) -> None:
        nn.functional.cross_entropy(wrapped(value, context=target), target).backward()

    return wrapped, learn


def waiting(trained: nn.Module) -> Callable[[], Iterator[Tensor]]:
    """What an unlocked wrapper holds between its sites, besides the synthesizers' graphs."""
    unlock = trained._updates.unlock if isinstance(trained, DNI) else None

    def held() -> Iterator[Tensor]:
        for handover in [*unlock._waiting.values()] if unlock else []:
            kept = [] if handover.foresight is None else [*vars(handover.foresight).values()]
            leaves = tree_leaves(kept)
            yield from (leaf for leaf in leaves if isinstance(leaf, Tensor))

    return held


def measure(method: str, depth: int, device: torch.device) -> Peak:
    """Measure in this process, which should be a fresh one."""
    value = torch.randn(BATCH, UNITS, device=device)
    target = torch.randint(CLASSES, (BATCH,), device=device)
    trained, learn = learner(method, depth, device)
    for _ in range(2):  # makes the optimizers' state and what else is made once
        learn(value[:2], target[:2])
    trained.zero_grad()
    gc.collect()
    start = _reset_resident(device)
    learn(value, target)
    resident = _peak_resident(device) - start
    exclude = [*trained.parameters(), *trained.buffers()]
    with watched(exclude, waiting(trained)) as (saved, made):
        learn(value, target)
    return Peak(
        method=method,
        depth=depth,
        saved=saved.peak / MIB,
        tensors=made.peak / MIB,
        resident=resident / MIB,
    )


def _reset_resident(device: torch.device) -> int:
    """Forget the peak so far; returns the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status("VmRSS")


def _peak_resident(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(key: str) -> int:
    """A figure of this process in bytes; Linux tells it in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def measure_apart(method: str, depth: int, options: argparse.Namespace) -> Peak:
    """Measure in a process of its own."""
    words = [sys.executable, __file__, "--measure", method, str(depth)]
    words += ["--device", str(options.device), "--threads", str(torch.get_num_threads())]
    # Otherwise glibc keeps what was freed, and resident memory shows its habits, not the step's.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Peak(**json.loads(done.stdout))


def measure_missing(options: argparse.Namespace) -> list[Peak]:
    """Every row; those that a command cut short has measured at this very commit are read."""
    path = options.output.with_suffix(".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    here = {"commit": commit(), "device": device_name(options.device)}
    known: list[dict[str, Any]] = []
    if path.exists() and not here["commit"].endswith("dirty"):
        lines = path.read_text(encoding="utf-8").splitlines()
        known = [json.loads(line) for line in lines if line.endswith("}")]  # whole ones
    kept = [entry for entry in known if entry["at"] == here]
    done = {(peak.method, peak.depth): peak for peak in (Peak(**e["peak"]) for e in kept)}
    path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
    for plan in tqdm(plans(options.depths), desc="memory", unit="row", disable=None):
        if plan not in done:
            method, depth = plan
            done[plan] = measure_apart(method, depth, options)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"at": here, "peak": asdict(done[plan])}) + "\n")
    return [done[plan] for plan in plans(options.depths)]


def table(peaks: Sequence[Peak]) -> str:
    """One row for each method and depth."""
    saved = {(peak.method, peak.depth): peak.saved for peak in peaks}
    others = [f"{method} / it" for method in (BACKPROP, CHECKPOINT)]
    columns = ["method", "blocks", "saved", *others, "tensors", "resident"]
    rows = [
        [
            peak.method,
            str(peak.depth),
            f"{peak.saved:.1f}",
            *(f"{saved[m, peak.depth] / peak.saved:.1f}" for m in (BACKPROP, CHECKPOINT)),
            f"{peak.tensors:.1f}",
            f"{peak.resident:.0f}",
        ]
        for peak in peaks
    ]
    return markdown_table(columns, rows)


def plot(peaks: Sequence[Peak], path: Path) -> None:
    """Draw saved activations and resident memory against depth."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharex=True)
    for method, colour in zip(METHODS, COLOURS, strict=True):
        mine = [peak for peak in peaks if peak.method == method]
        depths = [peak.depth for peak in mine]
        style = {"color": colour, "marker": "o", "label": method}
        left.plot(depths, [peak.saved for peak in mine], **style)
        right.plot(depths, [peak.resident for peak in mine], **style)
    for axes, title in ((left, "saved activations"), (right, "growth of resident memory")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted({peak.depth for peak in peaks}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="blocks", ylabel="MiB at the peak of a step", title=title)
        axes.grid(which="both", linewidth=0.4, alpha=0.5)
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--depths", nargs="+", type=int, default=[4, 16, 64], help="blocks")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "DEPTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output = options.output or default_output("memory.md", quick=options.quick)
    if options.quick:
        options.depths = [2, 4]
    return options


def plans(depths: Iterable[int]) -> list[tuple[str, int]]:
    """Method and depth of every row."""
    return [(method, depth) for method in METHODS for depth in depths]


def main() -> None:
    """Measure, print and write the report and the plot."""
    options = arguments()
    if options.measure:
        method, depth = options.measure
        print(json.dumps(asdict(measure(method, int(depth), options.device))))
        return
    peaks = measure_missing(options)
    picture = options.output.with_suffix(".png")
    block = 2 * BATCH * UNITS * 4 / MIB
    explanation = EXPLANATION.format(units=UNITS, batch=BATCH, block=block)
    paragraphs = [table(peaks), f"![Memory against depth]({picture.name})", explanation]
    write_report(options.output, "Memory against depth", paragraphs, provenance(options.device))
    plot(peaks, picture)


if __name__ == "__main__":
    main()
