"""The language model's half of the recurrent benchmark: plans, runs of its script, tables."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure

from report import ROOT, commit, markdown_table
from runs import Plan, Run

SCRIPT = ROOT / "tasks" / "word_language_model" / "main.py"
TASKS = ("characters", "words")
WINDOWS = [2, 5, 10, 20]
SPAN = 20  # steps of every stream in an update, whatever the window
EVALUATIONS = 5  # of a run
# The synthesizer sees the state alone, unless symbols ahead are said to be in its sight.
METHODS: dict[str, dict[str, Any]] = {
    "bptt": {"method": "bptt"},
    "dni": {"method": "dni"},
    "dni+aux": {"method": "dni+aux"},
    "aux": {"method": "dni+aux", "scale": 0.0},
    "cdni": {"method": "dni", "ahead": 8},
    "cdni-ls": {"method": "dni", "ahead": 6, "behind": 2, "dni-network": "least_squares"},
}
SYNTHESIS: dict[str, Any] = {"scale": 1.0, "dni-lr": 1e-3, "warmup": 300}
FITTED: dict[str, Any] = {"scale": 1.0, "warmup": 100}
FITTED_OWN: dict[str, dict[str, Any]] = {
    "characters": {"dni-memory": 120, "no-shrink": True},
    "words": {},
}
REMARKS = {
    "characters": "120 windows are remembered and the gradient is not shrunk,\n"
    "as chosen by the validation of seeds 3 to 6.",
    "words": "Settings were chosen on characters,\nby the validation of seeds 3 and 4.",
}
COLOURS = {"bptt": "#000000", "dni": "#0072b2", "dni+aux": "#009e73", "cdni": "#d55e00"}
COLOURS |= {"cdni-ls": "#cc79a7", "aux": "#56b4e9"}
COMMON: dict[str, Any] = {"corpus": "brown", "cell": "lstm", "units": 128, "batch-size": 32}
COMMON |= {"schedule": "cosine", "lr-warmup": 200, "clip": 0.5}
OWN: dict[str, dict[str, Any]] = {
    "characters": {"lr": 6e-3},
    "words": {"lr": 3e-3, "tied": True, "dropout": 0.2},
}

EXPLANATION = """\
The next {symbol} of the Brown corpus ({corpus}), by an LSTM of {units} units. {streams} streams of
text are read side by side. Every update, of Adam ({lr:g}, falling to zero along a cosine), is made
of the same {span} steps of each stream whatever the window: {windows} windows of {window} steps,
say, whose gradients are averaged. So all rows make the same {updates:,} updates with the same
{tokens:.1f} million {task} in the same order, and differ in nothing but how far credit reaches.
Figures are of the {evaluations} evaluations' best by validation, mean of the seeds and, in
brackets, every seed. *dni*: the synthesizer sees the state alone. *dni+aux*: and the LSTM predicts
the next synthetic gradient too. *aux*: it does that, and no synthetic gradient is sent. *cdni*: the
synthesizer, never the network, also sees the {ahead} {task} after the window, by their embeddings.
*cdni-ls*: it is fitted by least squares, and sees the {fitted} {task} after the window and its last
{behind}. {remark}
*Gain* is over bptt with the same window, mean of the seeds' differences in bits. Seconds are a
run's training time, on a machine that did other things too."""


def plans(
    task: str,
    windows: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    updates: int,
) -> list[Plan]:
    """Every run of a task, seed by seed: a command cut short has compared all methods.

    Raises:
        SystemExit: A window that does not divide the steps of an update.
    """
    for window in windows:
        if SPAN % window:
            raise SystemExit(f"--windows {window}: {SPAN} steps make no whole number of windows.")
    made: list[Plan] = []
    for seed in seeds:
        for window in windows:
            for method in METHODS:
                if method not in methods:
                    continue
                shared = {"task": task, "window": window, "updates": updates, **COMMON, **OWN[task]}
                synthesis = {} if method == "bptt" else SYNTHESIS
                if "dni-network" in METHODS[method]:
                    synthesis = FITTED | FITTED_OWN[task]
                made.append((method, seed, {**shared, **synthesis, **METHODS[method]}))
    return made


def train(plan: Plan, corpus: Path) -> Run:
    """Run the script, or go on with it where a command before was cut short.

    Args:
        plan: What to train.
        corpus: Folder of the Brown corpus.

    Returns:
        The run; its `errors` are test and its `validation` the losses in nats at the evaluations.
    """
    method, seed, settings = plan
    updates, task = settings["updates"], settings["task"]
    if not corpus.exists():
        raise SystemExit(f"No corpus at {corpus}; --corpus names a folder of train.txt, …")
    folder = ROOT / "runs" / "recurrent" / f"{task}-{settings['window']}-{method}-{seed}-{updates}"
    file = folder / f"{commit().split()[0]}.pt"  # of other sources it would not be the same run
    words = [sys.executable, str(SCRIPT), f"--seed={seed}", f"--save={file}", f"--output={folder}"]
    words += [f"--data={corpus.resolve()}", *flags(settings)]
    if file.exists():
        words.append(f"--resume={file}")
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    print(f"{task}, windows of {settings['window']}, {method}, seed {seed}:", end=" ")
    print(*re.findall("best: (.*)", done.stdout), flush=True)
    progress = torch.load(file, weights_only=True)["progress"]
    rows = progress["rows"]
    cosine = rows[-1]["cosine"]
    file.unlink()
    return Run(
        row=method,
        seed=seed,
        settings=settings,
        errors=[progress["test"]],
        validation=[row["valid"] for row in rows],
        losses=[row["train"] for row in rows],
        seconds=progress["seconds"],
        cosines={} if cosine is None else {"state": cosine},
        commit=commit(),
    )


def flags(settings: dict[str, Any]) -> list[str]:
    """The settings of a run as the script's command line.

    Example:
        >>> flags({"task": "words", "window": 5, "updates": 100, "tied": True})[-4:]
        ['--window=5', '--updates=100', '--tied', '--accumulate=4']
    """
    words = ["--threads=1", "--patience=1000"]
    words.append(f"--evaluate-every={max(1, settings['updates'] // EVALUATIONS)}")
    words += ["--characters"] if settings["task"] == "characters" else []
    for key, value in settings.items():
        if key not in ("task", "corpus"):
            words.append(f"--{key}" if value is True else f"--{key}={value}")
    return [*words, f"--accumulate={SPAN // settings['window']}"]


def page(task: str, runs: Sequence[Run]) -> list[str]:
    """The paragraphs about a task: figures by window and method, seconds, what they are."""
    unit = "bits per character" if task == "characters" else "perplexity"
    columns = ["windows of", "method", f"valid, {unit}", "test", "gain, bits", "cosine", "s"]
    rows = []
    for window in sorted({run.settings["window"] for run in runs}):
        here = [run for run in runs if run.settings["window"] == window]
        baseline = {run.seed: min(run.validation) for run in here if run.row == "bptt"}
        for method in METHODS:
            mine = [run for run in here if run.row == method]
            if not mine:
                continue
            gains = [
                (baseline[run.seed] - min(run.validation)) / log(2)
                for run in mine
                if run.seed in baseline and method != "bptt"
            ]
            cosines = [run.cosines["state"] for run in mine if run.cosines]
            rows.append(
                [
                    str(window),
                    method,
                    _mean_and_all(task, [min(run.validation) for run in mine]),
                    _mean_and_all(task, [run.errors[-1] for run in mine]),
                    f"{mean(gains):+.4f}" if gains else "",
                    f"{mean(cosines):.2f}" if cosines else "",
                    f"{mean(run.seconds for run in mine):.0f}",
                ]
            )
    settings = runs[0].settings
    text = EXPLANATION.format(
        symbol=task.removesuffix("s"),
        task=task,
        corpus="5.3 million characters to train on" if task == "characters" else "a million words",
        units=settings["units"],
        streams=settings["batch-size"],
        lr=settings["lr"],
        span=SPAN,
        windows=SPAN // 5,
        window=5,
        updates=settings["updates"],
        tokens=settings["updates"] * SPAN * settings["batch-size"] / 1e6,
        evaluations=EVALUATIONS,
        ahead=METHODS["cdni"]["ahead"],
        fitted=METHODS["cdni-ls"]["ahead"],
        behind=METHODS["cdni-ls"]["behind"],
        remark=REMARKS[task],
    )
    return [f"## Language model, {task}", markdown_table(columns, rows), text]


def figure_of(task: str, loss: float) -> float:
    """Bits per character or perplexity per word, of a loss in nats.

    Example:
        >>> round(figure_of("characters", log(4)), 6), round(figure_of("words", log(4)), 6)
        (2.0, 4.0)
    """
    return loss / log(2) if task == "characters" else exp(loss)


def draw(task: str, runs: Sequence[Run], figure: Figure) -> None:
    """Draw the figures against the window on the left, and the validation of every run."""
    left, right = figure.subplots(1, 2)
    windows = sorted({run.settings["window"] for run in runs})
    methods = {
        window: {r.row for r in runs if r.settings["window"] == window} for window in windows
    }
    shown = max(windows, key=lambda window: len(methods[window]))
    for method in METHODS:
        mine = [run for run in runs if run.row == method]
        points = [(r.settings["window"], figure_of(task, min(r.validation))) for r in mine]
        if not points:
            continue
        colour = COLOURS[method]
        covered = sorted({window for window, _ in points})
        means = [mean(value for w, value in points if w == window) for window in covered]
        left.plot([x for x, _ in points], [y for _, y in points], ".", color=colour, alpha=0.5)
        left.plot(covered, means, color=colour, marker="o", label=method)
        for index, run in enumerate(r for r in mine if r.settings["window"] == shown):
            each = run.settings["updates"] / len(run.validation)
            right.plot(
                [each * (number + 1) for number in range(len(run.validation))],
                [figure_of(task, loss) for loss in run.validation],
                color=colour,
                linewidth=1.0,
                label=None if index else method,
            )
    unit = "bits per character" if task == "characters" else "perplexity"
    left.set_xscale("log")
    left.set_xticks(windows, [str(window) for window in windows])
    left.minorticks_off()
    left.set(title=f"language model, {task}", xlabel="steps of a window", ylabel=f"valid, {unit}")
    right.set(title=f"windows of {shown}", xlabel="updates", ylabel=f"valid, {unit}")
    for axes in (left, right):
        axes.grid(linewidth=0.4, alpha=0.5)
    left.legend(frameon=False, fontsize="small")


def _mean_and_all(task: str, losses: Sequence[float]) -> str:
    digits = 4 if task == "characters" else 1
    values = [figure_of(task, loss) for loss in losses]
    every = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{mean(values):.{digits}f} ({every})" if len(values) > 1 else every
