"""What it costs in quality that a synthesizer learns in fewer windows: the copy task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import inf
from statistics import median

import torch
from tqdm import tqdm

from dni import TemporalDNI
from report import ROOT, benchmark_parser, commit, markdown_table
from runs import Plan, Run, finish

sys.path.append(str(ROOT / "tasks" / "copy"))  # a folder of scripts, no package
from curriculum import Progress  # noqa: E402
from episodes import TASKS  # noqa: E402
from learners import Learner  # noqa: E402
from training import Settings, train  # noqa: E402
from windows import due_size  # noqa: E402

FILE = ROOT / "docs" / "results" / "window_time.jsonl"
EVERY = (1, 2, 4)
SEEDS = (0, 1)
UPDATES = 10_000
SETTINGS = {"units": 64, "batch": 32, "window": 4, "foresight": 16}
RATES = {"lr": 5e-3, "grad_lr": 1e-2}
ROWS = 10

EXPLANATION = """\
The copy task of `tasks/copy` with windows of {window} (LSTM of {units}, batches of {batch},
{updates:,} updates, the synthesizer sees the answers of {foresight} further steps): the longest
pattern N solved, the update that solved N = 3 and N = 4, and the mean error in bits over the last
tenth of the updates, at whatever N was then worked at. Median and, in brackets, every seed."""


def plans(seeds: Sequence[int] = SEEDS, updates: int = UPDATES) -> list[Plan]:
    """Every run, seed by seed."""
    own = {**SETTINGS, **RATES, "updates": updates}
    return [(f"train_every {k}", seed, {**own, "train_every": k}) for seed in seeds for k in EVERY]


def learn(plan: Plan) -> Run:
    """Train a network on the copy task.

    Returns:
        The run; its `errors` are the updates that solved one pattern length after the other, and
        its `losses` the mean error since the row before.
    """
    name, seed, settings = plan
    torch.manual_seed(seed)
    task, foresight = TASKS["copy"], settings["foresight"]
    units, window = settings["units"], settings["window"]
    learner = Learner(task, units=units, lr=settings["lr"], window=window, synthesis=None)
    learner.core = TemporalDNI(
        learner.core,
        grad_lr=settings["grad_lr"],
        scale=1.0,
        limit=1.0,  # as the task's own script has them
        context_size=due_size(task.outputs, foresight),
        train_every=settings["train_every"],
    )
    limits = Settings(
        window=window,
        batch=settings["batch"],
        updates=settings["updates"],
        row_every=max(1, settings["updates"] // ROWS),
        threshold=0.15,
        longest=None,
        foresight=foresight,
    )
    progress = Progress()
    train(learner, progress, limits, torch.Generator().manual_seed(seed))
    cosine = learner.cosine()
    return Run(
        row=name,
        seed=seed,
        settings=settings,
        errors=[solved.update for solved in progress.solved],
        seconds=progress.seconds,
        cosines={} if cosine is None else {"state": cosine},
        commit=commit(),
        losses=[row.error for row in progress.rows],
    )


def paragraphs(runs: Sequence[Run]) -> list[str]:
    """The table of the runs, and what it says; nothing where there are none."""
    if not runs:
        return []
    columns = ["copy", "N solved", "N = 3 after", "N = 4 after", "bits at the end"]
    table = []
    for name in dict.fromkeys(run.row for run in runs):
        mine = [run for run in runs if run.row == name]
        row = [name, _all([len(run.errors) for run in mine], "g")]
        row += [_all([(run.errors + [inf] * n)[n - 1] for run in mine], ",.0f") for n in (3, 4)]
        table.append([*row, _all([run.losses[-1] for run in mine], ".2f")])
    return [markdown_table(columns, table), EXPLANATION.format(**runs[0].settings)]


def _all(values: Sequence[float], spec: str) -> str:
    """The median and every value."""
    every = ", ".join(format(value, spec) for value in values)
    return f"{format(median(values), spec)} ({every})".replace("inf", "never")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # see step_time.py
    file = options.output or (ROOT / "runs" / FILE.name if options.quick else FILE)
    file.parent.mkdir(parents=True, exist_ok=True)
    planned = plans(options.seeds, 40 if options.quick else UPDATES)
    bar = tqdm(planned, desc="copy", unit="run", disable=None)
    print("\n\n".join(paragraphs(finish(bar, file, learn))))


if __name__ == "__main__":
    main()
