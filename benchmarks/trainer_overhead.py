"""What the trainer adds to a training step, beside a bare loop and pytorch-ignite."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from dni.trainer.callbacks import Metrics, Progress
from dni.trainer.data import Source, Tensors
from dni.trainer.trainer import Counters, Trainer
from interleave import Spread, interleave
from report import benchmark_parser, default_output, markdown_table, provenance, write_report

BARE = "bare loop"
COLUMNS = ["loop", "µs per step", "added µs", "quartiles"]
BATCH_SIZE = 16

EXPLANATION = """\
The step is the same function in every row: clearing of gradients, forward, mean squared error,
backward and SGD of a linear layer of 8 by 8 on a batch of {batch}. *Empty step* leaves all that out
and returns a loss that was made before. All rows iterate over the same source of batches, so
fetching them is in the bare loop too. *Bar and mean loss*: a tqdm bar that is drawn (into memory)
and the running loss; here `Metrics` and `Progress` with the event `log` every 50 steps, in ignite
`RunningAverage` and `ProgressBar`. A block is one epoch of {steps} steps with everything that
begins and ends it. The rows run in turns in one process; *added* is the difference to the bare loop
within one repeat. Medians and quartiles of {repeats} repeats, in microseconds."""


class Terminal(io.StringIO):
    """Memory that a progress bar takes for a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True)
class Work:
    """A training step, and the batches that it is made with.

    Attributes:
        source: The batches.
        learn: The step: from a batch to its loss.
    """

    source: Source
    learn: Callable[[dict[str, Any]], Tensor]


def make_work(device: torch.device, steps: int, *, is_empty: bool) -> Work:
    """The step that all rows share."""
    values = torch.randn(steps * BATCH_SIZE, 8, device=device)
    network = nn.Linear(8, 8).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    loss = torch.zeros((), device=device)

    def learn(batch: dict[str, Any]) -> Tensor:
        optimizer.zero_grad()
        error = nn.functional.mse_loss(network(batch["x"]), batch["x"])
        error.backward()
        optimizer.step()
        return error.detach()

    source = Source(Tensors(x=values), batch_size=BATCH_SIZE, shuffle=False)
    return Work(source, (lambda batch: loss) if is_empty else learn)


def bare(work: Work) -> Callable[[], None]:
    """An epoch without any trainer."""

    def epoch() -> None:
        for batch in work.source.batches(0):
            work.learn(batch)

    return epoch


def ours(work: Work, *, is_shown: bool) -> Callable[[], None]:
    """An epoch by `Trainer`."""

    def step(trainer: Trainer, batch: Any, phase: Any) -> None:
        batch["loss/step/error"] = work.learn(batch)

    callbacks = [Metrics(), Progress(bar=True, file=Terminal())] if is_shown else []
    trainer = Trainer({}, {"step": step}, {"train": work.source}, callbacks, max_epochs=1)

    def epoch() -> None:
        trainer.counters = Counters()
        trainer.fit()

    return epoch


def ignite(work: Work, *, is_shown: bool) -> Callable[[], None]:
    """An epoch by pytorch-ignite's ``Engine``."""
    from ignite.engine import Engine
    from ignite.handlers import ProgressBar
    from ignite.metrics import RunningAverage

    engine = Engine(lambda engine, batch: work.learn(batch))
    if is_shown:
        RunningAverage(output_transform=lambda loss: loss).attach(engine, "loss")
        ProgressBar(file=Terminal()).attach(engine, ["loss"])
    length = work.source.count()

    def epoch() -> None:
        engine.run(work.source.batches(0), max_epochs=1, epoch_length=length)

    return epoch


def contenders(work: Work) -> dict[str, Callable[[], None]]:
    """Every row; those of ignite only where it is installed."""
    rows = {
        BARE: bare(work),
        "dni": ours(work, is_shown=False),
        "dni, bar and mean loss": ours(work, is_shown=True),
    }
    if ignite_version() is not None:
        rows["ignite"] = ignite(work, is_shown=False)
        rows["ignite, bar and mean loss"] = ignite(work, is_shown=True)
    return rows


def ignite_version() -> str | None:
    """The installed version of pytorch-ignite."""
    try:
        return metadata.version("pytorch-ignite")
    except metadata.PackageNotFoundError:
        return None


def table(device: torch.device, *, is_empty: bool, steps: int, repeats: int) -> str:
    """Measure all rows with one kind of step."""
    work = make_work(device, steps, is_empty=is_empty)
    # A block is one call: an epoch of many steps.
    seconds = interleave(contenders(work), device, repeats=repeats, block_seconds=0.0)
    micro = {name: [1e6 * s / steps for s in blocks] for name, blocks in seconds.items()}
    rows = []
    for name, values in micro.items():
        row = [name, f"{Spread.of(values).median:.1f}", "", ""]
        if name != BARE:
            added = Spread.of([a - b for a, b in zip(values, micro[BARE], strict=True)])
            row[2:] = [f"{added.median:.1f}", f"{added.low:.1f}–{added.high:.1f}"]
        rows.append(row)
    return markdown_table(COLUMNS, rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="steps of an epoch")
    parser.add_argument("--repeats", type=int, default=20, help="epochs of each row, from 2")
    options = parser.parse_args()
    options.output = options.output or default_output("trainer_overhead.md", quick=options.quick)
    if options.quick:
        options.repeats, options.steps = 2, 20
    if options.repeats < 2:
        parser.error(f"--repeats was {options.repeats}; quartiles need at least 2.")
    return options


def main() -> None:
    """Measure, print and write the report."""
    options = arguments()
    sizes = {"steps": options.steps, "repeats": options.repeats}
    paragraphs = [EXPLANATION.format(batch=BATCH_SIZE, **sizes)]
    for title, is_empty in (("Real step", False), ("Empty step", True)):
        paragraphs += [f"## {title}", table(options.device, is_empty=is_empty, **sizes)]
    version = ignite_version()
    if version is None:
        paragraphs.append("pytorch-ignite is not installed and was not measured.")
    facts = provenance(options.device) | {"pytorch-ignite": version or "absent"}
    write_report(options.output, "What the trainer adds to a step", paragraphs, facts)


if __name__ == "__main__":
    main()
