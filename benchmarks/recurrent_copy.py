"""The copy tasks' half of the recurrent benchmark: plans, runs of the task's own script, tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure

from report import ROOT, commit, markdown_table
from runs import Plan, Run

SCRIPT = ROOT / "tasks" / "copy" / "main.py"
TASKS = ("copy", "repeat_copy")
ROWS = 40  # of a run's table
SYNTHESIS = {"dni-layers": 0, "scale": 1.0}
# The synthesizer sees the state alone, unless answers that are due are said to be in its sight.
METHODS: dict[str, dict[str, Any]] = {
    "bptt": {"method": "bptt"},
    "dni": {"method": "dni", "foresight": 0, **SYNTHESIS},
    "dni+aux": {"method": "dni+aux", "foresight": 0, "auxiliary": 0.1, **SYNTHESIS},
    "cdni": {"method": "dni", "foresight": 16, **SYNTHESIS},
}
COLOURS = {"bptt": "#000000", "dni": "#0072b2", "dni+aux": "#009e73", "cdni": "#d55e00"}
COMMON = {"units": 64, "batch-size": 32}
# Of the network and of the synthesizer: on repeat copy copy's are too high for synthetic gradients.
RATES = {"copy": (5e-3, 1e-2), "repeat_copy": (3e-3, 3e-3)}

EXPLANATION = """\
An LSTM of {units} units reads a pattern of N random symbols of 6 bits and has to give it back, in
*repeat copy* R times with a mark at the end. It is back-propagated through windows of T steps that
begin anywhere in the episode, one update of Adam ({lr:g}) for each window, batches of {batch},
{updates:,} updates for every method. Whenever a batch's error is below 0.15 bits for each bit of
the answer, its length is *solved* and the next one begins; the table has the longest one solved,
its pattern N and the steps of its episodes: the median of the seeds and, in brackets, every seed.
*dni*: the synthesizer sees the state alone. *dni+aux*: and the LSTM predicts the next synthetic
gradient too. *cdni*: the synthesizer, never the network, also sees the right answers of the
{foresight} steps after the window, as the paper's conditional DNI sees labels. Seconds are a run's
training time, on a machine that did other things too."""


def plans(
    task: str,
    windows: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    updates: int,
) -> list[Plan]:
    """Every run of a task, seed by seed: a command cut short has compared all methods."""
    lr, dni_lr = RATES[task]
    own: dict[str, Any] = {"task": task, "updates": updates, **COMMON, "lr": lr}
    return [
        (
            method,
            seed,
            {**own, "window": window, **given, **({} if method == "bptt" else {"dni-lr": dni_lr})},
        )
        for seed in seeds
        for window in windows
        for method, given in METHODS.items()
        if method in methods
    ]


def train(plan: Plan, _: object = None) -> Run:
    """Run the task's script, or go on with it where a command before was cut short.

    Returns:
        The run; its `errors` are the steps of the longest episode solved by each row.
    """
    method, seed, settings = plan
    name = f"{settings['task']}-{settings['window']}-{method}-{seed}-{settings['updates']}"
    folder = ROOT / "runs" / "recurrent" / name
    file = folder / f"{commit().split()[0]}.pt"  # of other sources it would not be the same run
    words = [sys.executable, str(SCRIPT), f"--seed={seed}", f"--save={file}", f"--output={folder}"]
    words += [f"--{key}={value}" for key, value in settings.items()]
    words += [f"--row-every={max(1, settings['updates'] // ROWS)}", "--beyond=0"]
    if file.exists():
        words.append(f"--resume={file}")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    print(f"{settings['task']}, windows of {settings['window']}, {method}, seed {seed}:", end=" ")
    print(re.findall("solved: .*", done.stdout), flush=True)
    progress = torch.load(file, weights_only=True)["progress"]
    rows = progress["rows"]
    cosine = rows[-1]["cosine"]
    file.unlink()
    return Run(
        row=method,
        seed=seed,
        settings=settings,
        errors=[row["steps"] for row in rows],
        seconds=progress["seconds"],
        cosines={} if cosine is None else {"state": cosine},
        commit=commit(),
    )


def pattern(task: str, steps: float) -> int:
    """Length N of the pattern in the episodes of a length that the curriculum visits.

    Example:
        >>> pattern("copy", 10), pattern("repeat_copy", 9), pattern("repeat_copy", 0)
        (4, 2, 0)
    """
    if task == "copy":
        return max(0, int(steps - 2) // 2)
    n = r = 1
    while (r + 1) * n + 3 <= steps:
        solved = n
        n, r = (n, r + 1) if r < n else (n + 1, r)
    return solved if steps >= 5 else 0


def page(task: str, runs: Sequence[Run]) -> list[str]:
    """The paragraphs about a task: lengths by window and method, seconds, what they are."""
    windows = sorted({run.settings["window"] for run in runs})
    methods = [name for name in METHODS if any(run.row == name for run in runs)]
    measure = "N" if task == "copy" else "steps"
    columns = ["windows of", "method", "N", "steps", f"{measure} / bptt", "cosine", "seconds"]
    rows = []
    for window in windows:
        baseline = _lengths(runs, window, "bptt")
        for method in methods:
            mine = [run for run in runs if (run.row, run.settings["window"]) == (method, window)]
            if not mine:
                continue
            steps = _lengths(runs, window, method)
            patterns = [pattern(task, length) for length in steps]
            compared, base = (
                (patterns, [pattern(task, length) for length in baseline])
                if task == "copy"
                else (steps, baseline)
            )
            ratio = f"{median(compared) / median(base):.2f}" if any(base) else ""
            cosines = [run.cosines["state"] for run in mine if run.cosines]
            rows.append(
                [
                    str(window),
                    method,
                    _median_and_all(patterns),
                    _median_and_all(steps),
                    ratio if method != "bptt" else "",
                    f"{median(cosines):.2f}" if cosines else "",
                    f"{median(run.seconds for run in mine):.0f}",
                ]
            )
    settings = runs[0].settings
    text = EXPLANATION.format(
        batch=settings["batch-size"],
        foresight=METHODS["cdni"]["foresight"],
        **{key: settings[key] for key in ("units", "lr", "updates")},
    )
    return [f"## {task.replace('_', ' ').capitalize()}", markdown_table(columns, rows), text]


def draw(task: str, runs: Sequence[Run], figure: Figure) -> None:
    """Draw the steps of the longest episode solved against updates, a panel for each window."""
    windows = sorted({run.settings["window"] for run in runs})
    panels = figure.subplots(1, len(windows), squeeze=False, sharey=True)[0]
    for window, axes in zip(windows, panels, strict=True):
        for method in METHODS:
            curves = [r for r in runs if (r.row, r.settings["window"]) == (method, window)]
            for index, run in enumerate(curves):
                each = run.settings["updates"] / len(run.errors)
                axes.step(
                    [each * (number + 1) for number in range(len(run.errors))],
                    run.errors,
                    where="post",
                    color=COLOURS[method],
                    linewidth=1.2,
                    alpha=0.8,
                    label=None if index else method,
                )
        axes.set(title=f"{task.replace('_', ' ')}, windows of {window}", xlabel="updates")
        axes.grid(linewidth=0.4, alpha=0.5)
    panels[0].set_ylim(bottom=0)  # of all, once they show everything
    panels[0].set_ylabel("steps of the longest episode solved")
    lines = {
        line.get_label(): line for axes in panels for line in axes.get_legend_handles_labels()[0]
    }
    panels[0].legend(lines.values(), lines.keys(), frameon=False, fontsize="small")


def _lengths(runs: Sequence[Run], window: int, method: str) -> list[float]:
    mine = [run for run in runs if (run.row, run.settings["window"]) == (method, window)]
    return [run.errors[-1] if run.errors else 0 for run in mine]


def _median_and_all(values: Sequence[float]) -> str:
    every = ", ".join(f"{value:g}" for value in values)
    return f"{median(values):g} ({every})" if len(values) > 1 else every
