"""Credit beyond the window: copy tasks and a language model, by BPTT and with temporal DNI."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from matplotlib.figure import Figure

import recurrent_copy
from report import benchmark_parser, default_output, provenance, write_report
from runs import Plan, Run, finish, finished

WORDS = ("characters", "words")
UPDATES = {"copy": 40_000, "repeat_copy": 40_000, "characters": 2500, "words": 1000}
WINDOWS = {"copy": [2, 3, 4, 5], "repeat_copy": [2, 3, 4, 5]}
QUICK_UPDATES = 60


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add("--tasks", nargs="+", choices=list(UPDATES), default=list(UPDATES))
    add("--windows", nargs="+", type=int, help="steps; default: all that the task has")
    add("--methods", nargs="+", help="rows of the tables; default: all that the task has")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--updates", type=int, help="of every run; default: the task's")
    add("--corpus", type=Path, default=Path("data/brown"), help="the Brown corpus: train.txt, …")
    add("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    add("--report", action="store_true", help="train nothing: write the page of what is finished")
    options = parser.parse_args()
    known = sorted({name for task in options.tasks for name in half(task).METHODS})
    for method in options.methods or ():
        if method not in known:
            tasks = ", ".join(options.tasks)
            parser.error(f"--methods: {tasks} have no {method!r}; choose from {', '.join(known)}")
    if min(options.windows or [1]) < 1:
        parser.error("--windows: steps from 1 up are needed")
    options.output = options.output or default_output("recurrent.md", quick=options.quick)
    return options


def half(task: str) -> ModuleType:
    """The file that knows a task."""
    return importlib.import_module("recurrent_words") if task in WORDS else recurrent_copy


def plans(task: str, options: argparse.Namespace) -> list[Plan]:
    """The runs of a task that were asked for."""
    module = half(task)
    windows = options.windows or WINDOWS.get(task) or module.WINDOWS
    methods = options.methods or list(module.METHODS)
    updates = QUICK_UPDATES if options.quick else UPDATES[task]
    updates = options.updates or updates
    made: list[Plan] = module.plans(task, windows, methods, options.seeds, updates=updates)
    return made


def train(asked: Sequence[Plan], options: argparse.Namespace) -> None:
    """Make the runs that are not finished yet, several at a time."""

    def make(plan: Plan) -> None:
        module = half(plan[2]["task"])
        path = options.output.with_suffix(".jsonl")
        finish([plan], path, lambda plan: module.train(plan, options.corpus))

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(make, asked))


def write(runs: dict[str, list[Run]], options: argparse.Namespace) -> None:
    """Write the page and its picture."""
    paragraphs: list[str] = []
    height = 3.6 * len(runs)
    figure = Figure(figsize=(11, height), layout="constrained")
    parts = figure.subfigures(len(runs), 1, squeeze=False)[:, 0]
    for part, (task, mine) in zip(parts, runs.items(), strict=True):
        new = half(task).page(task, mine)
        paragraphs += [text for text in new if text not in paragraphs]  # tasks share words
        half(task).draw(task, mine, part)
    picture = options.output.with_suffix(".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
    commits = sorted({run.commit for mine in runs.values() for run in mine})
    facts = provenance(options.device) | {"commits of the runs": ", ".join(commits)}
    facts["command"] = facts["command"].replace(" --report", "")  # what makes the runs
    paragraphs = [f"![Lengths and errors against updates]({picture.name})", *paragraphs]
    write_report(options.output, "Credit beyond the window", paragraphs, facts)


def read(options: argparse.Namespace) -> dict[str, list[Run]]:
    """Every finished run of the tasks, whatever this command was asked to train."""
    path: Path = options.output.with_suffix(".jsonl")
    everything = argparse.Namespace(**vars(options))
    everything.windows, everything.methods, everything.seeds = None, None, range(10)
    runs = {}
    for task in UPDATES:
        if task in WORDS and task not in options.tasks:
            continue
        mine = finished(plans(task, everything), [path])
        if mine:
            runs[task] = mine
    return runs


def main() -> None:
    """Train what is asked for and not trained yet, write the page of all that is finished."""
    options = arguments()
    if not options.report:
        train([plan for task in options.tasks for plan in plans(task, options)], options)
    runs = read(options)
    if not runs:
        raise SystemExit("No run is finished yet; leave out --report.")
    write(runs, options)


if __name__ == "__main__":
    main()
