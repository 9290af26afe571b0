"""The command line of `main.py`, and the checks on it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from dni.scripts import (
    above_zero,
    flags,
    from_zero,
    make_folders,
    not_negative,
    number,
    positive,
    seed,
)
from episodes import TASKS, Length, Task
from learners import METHODS, Synthesis
from training import Settings

THRESHOLD = 0.15
GIVEN = Synthesis(layers=0, hidden_size=128, lr=1e-2, scale=1.0, auxiliary=0.1, foresight=16)
_DNI_FLAGS = ("scale", "dni_layers", "hidden_size", "dni_lr", "auxiliary", "foresight")
# What a run may change when it goes on from a checkpoint.
_FREE = {"updates", "longest", "threads", "compile", "save", "resume", "output", "beyond"}


def make_parser() -> argparse.ArgumentParser:
    """The parser with every flag."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Teach an LSTM to remember for longer than the window it is back-propagated "
        "through. Episodes grow by one whenever a batch's error falls below the threshold; what "
        "counts is the longest one solved after equal updates.",
        epilog="An update is a window. Compare, in two terminals: `--method bptt` and `--method "
        "dni` with the same --window; `--window full` is backpropagation through whole episodes. "
        "Ctrl-C is safe: with --save, the last row of the table is on disk.",
    )
    add = parser.add_argument
    add(
        "--task",
        choices=list(TASKS),
        default="copy",
        help="copy: repeat a pattern of N symbols; repeat_copy: R times; adding: the sum of N "
        "numbers; argmax: the place of the largest of N (default: copy)",
    )
    add(
        "--method",
        choices=METHODS,
        default="dni",
        help="bptt: truncated backpropagation; dni: with synthetic gradients from beyond the "
        "window; dni+aux: and the paper's auxiliary task (default: dni)",
    )
    add(
        "--window",
        type=_window,
        default=4,
        metavar="T",
        help="steps that are back-propagated through, or full (with bptt) for whole episodes "
        "(default: 4)",
    )
    _add_synthesis(parser.add_argument_group("synthetic gradients (with --method dni, dni+aux)"))
    _add_training(parser.add_argument_group("training"))
    _add_files(parser.add_argument_group("files"))
    return parser


def _add_synthesis(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--foresight",
        type=not_negative,
        metavar="K",
        help="steps after a window whose right answers the synthesizer sees (the network never "
        "does), the paper's conditioning on labels; 0: it sees the state alone "
        f"(default: {GIVEN.foresight})",
    )
    add(
        "--scale",
        type=from_zero,
        metavar="S",
        help=f"factor on a synthetic gradient where it is used (default: {GIVEN.scale:g})",
    )
    add(
        "--dni-layers",
        type=not_negative,
        metavar="N",
        help=f"hidden layers of the synthesizer; 0: one linear map (default: {GIVEN.layers})",
    )
    add(
        "--hidden-size",
        type=positive,
        metavar="N",
        help=f"units of each of them (default: {GIVEN.hidden_size})",
    )
    add(
        "--dni-lr",
        type=above_zero,
        metavar="RATE",
        help=f"learning rate of Adam for the synthesizer (default: {GIVEN.lr:g})",
    )
    add(
        "--auxiliary",
        type=above_zero,
        metavar="W",
        help=f"weight of the auxiliary task, with dni+aux (default: {GIVEN.auxiliary:g})",
    )
    add(
        "--compile",
        action="store_true",
        help="compile what the synthesizer computes (with dni and no hidden layers): some 20 "
        "seconds at the start, then windows take a twentieth less; needs a C++ compiler",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--updates",
        type=positive,
        default=100_000,
        metavar="N",
        help="stop with the episode that makes the Nth (default: 100000)",
    )
    add(
        "--longest",
        type=positive,
        metavar="N",
        help="stop when patterns of N are solved (default: no limit)",
    )
    add(
        "--threshold",
        type=above_zero,
        default=THRESHOLD,
        metavar="E",
        help="error below which a length is solved: bits for each bit of the answer, or squared "
        f"error for adding and argmax (default: {THRESHOLD:g})",
    )
    add("--units", type=positive, default=64, metavar="N", help="of the LSTM (default: 64)")
    add("--batch-size", type=positive, default=32, metavar="N", help="default: 32")
    add("--lr", type=above_zero, default=5e-3, metavar="RATE", help="of Adam (default: 0.005)")
    add(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="decides the initial weights and the episodes (default: 0)",
    )
    add("--threads", type=positive, metavar="N", help="of the CPU (default: 1, the fastest here)")
    add(
        "--row-every",
        type=positive,
        default=5000,
        metavar="N",
        help="updates in a row of the table (default: 5000)",
    )
    add(
        "--beyond",
        type=not_negative,
        default=3,
        metavar="N",
        help="lengths after the last solved one to try the trained network on (default: 3)",
    )


def _add_files(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--save", type=Path, metavar="FILE", help="write a checkpoint with every row")
    add(
        "--resume",
        type=Path,
        metavar="FILE",
        help="go on from a checkpoint, on a CPU to the bit as if never interrupted; --updates "
        "counts those before it too",
    )
    add(
        "--output",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where the plot goes (default: runs)",
    )


def parse(
    parser: argparse.ArgumentParser, arguments: list[str] | None = None
) -> argparse.Namespace:
    """Parse, check what argparse cannot, fill the defaults that depend, and make the folders.

    On a fault it prints one sentence and leaves with exit code 2, as argparse does.
    """
    options = parser.parse_args(arguments)
    if options.compile and options.method != "dni":
        parser.error("--compile is about the synthesizer and needs --method dni")
    if options.method == "bptt":
        for name in _DNI_FLAGS:
            if getattr(options, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                parser.error(f"{flag} is about synthetic gradients and needs --method dni")
    else:
        if options.window is None:
            parser.error("--window full leaves nothing beyond the window; it needs --method bptt")
        if options.auxiliary is not None and options.method != "dni+aux":
            parser.error("--auxiliary is the weight of the auxiliary task: it needs dni+aux")
        for name in _DNI_FLAGS:
            attribute = {"dni_layers": "layers", "dni_lr": "lr"}.get(name, name)
            if getattr(options, name) is None:
                setattr(options, name, getattr(GIVEN, attribute))
    task = TASKS[options.task]
    if options.longest is not None and options.window is not None:
        steps = task.steps(_longest(task, options.longest))
        if steps <= options.window:
            parser.error(
                f"--window {options.window}: the longest episodes of --longest {options.longest} "
                f"have {steps} steps and fit into it; give a shorter window or longer patterns"
            )
    make_folders(parser, save=options.save, output=options.output)
    return options


def _longest(task: Task, pattern: int) -> Length:
    return Length(pattern=pattern, repeats=pattern if task.repeats else 1)


def synthesis(options: argparse.Namespace) -> Synthesis | None:
    """The flags about synthetic gradients, as one value; None for ``bptt``."""
    if options.method == "bptt":
        return None
    made = Synthesis(
        layers=options.dni_layers,
        hidden_size=options.hidden_size,
        lr=options.dni_lr,
        scale=options.scale,
        auxiliary=options.auxiliary,
        foresight=options.foresight,
    )
    return made if options.method == "dni+aux" else replace(made, auxiliary=0.0)


def settings(options: argparse.Namespace) -> Settings:
    """The flags about the loop, as one value."""
    return Settings(
        window=options.window,
        batch=options.batch_size,
        updates=options.updates,
        row_every=options.row_every,
        threshold=options.threshold,
        longest=options.longest,
        foresight=options.foresight or 0,
    )


def binding(options: argparse.Namespace) -> dict[str, Any]:
    """What a run must share with a checkpoint to go on from it: every flag but the free ones."""
    return {**flags(options, free=_FREE), "window": options.window or "full"}


_steps = number(int, lambda value: value >= 1, "a number of steps from 1 up, or full")


def _window(text: str) -> int | None:
    """Steps of a window; None for ``full``."""
    return None if text == "full" else _steps(text)
