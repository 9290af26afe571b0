"""The command line of `main.py`, and the checks on it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import schedule
from dni.scripts import (
    above_zero,
    device,
    flags,
    from_zero,
    make_folders,
    not_negative,
    number,
    positive,
    seed,
)
from learners import Synthesis
from model import CELLS

METHODS = ("bptt", "dni", "dni+aux")
_AUXILIARY = 1.0
_DNI_FLAGS = (
    "scale",
    "dni_network",
    "dni_layers",
    "hidden_size",
    "dni_lr",
    "ahead",
    "behind",
    "dni_memory",
    "shrink",
    "warmup",
)
# What a synthesizer that is fitted, not stepped, does not have.
_STEPPED_FLAGS = ("dni_layers", "hidden_size", "dni_lr")
# What a run may change when it goes on from a checkpoint.
_FREE = {"data", "device", "save", "resume", "output", "max_steps", "patience"}

_norm = number(float, lambda value: value > 0, "a number above 0")  # inf: no limit
_symbols = number(int, lambda value: value >= 2, "a whole number from 2 up")
_share = number(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def make_parser() -> argparse.ArgumentParser:
    """The parser with every flag."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Train a recurrent language model with short windows, by truncated "
        "backpropagation or with synthetic gradients from beyond the window.",
        epilog="Ctrl-C is safe: with --save, the last evaluation is on disk.",
    )
    add = parser.add_argument
    add(
        "--method",
        choices=METHODS,
        default="dni",
        help="bptt: truncated backpropagation; dni: with synthetic gradients; dni+aux: and the "
        "paper's auxiliary task (default: dni)",
    )
    add(
        "--window",
        type=positive,
        default=5,
        metavar="T",
        help="steps that are back-propagated through (default: 5)",
    )
    add(
        "--accumulate",
        type=positive,
        default=1,
        metavar="N",
        help="windows whose gradients are averaged for an update (default: 1)",
    )
    _add_synthesis(parser.add_argument_group("synthetic gradients (with --method dni, dni+aux)"))
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    _add_files(parser.add_argument_group("files"))
    return parser


def _add_synthesis(group: argparse._ArgumentGroup) -> None:
    given, add = Synthesis(), group.add_argument
    add(
        "--scale",
        type=from_zero,
        metavar="S",
        help=f"factor on the synthetic gradient where it is used (default: {given.scale:g})",
    )
    add("--dni-network", metavar="NAME", help=f"kind of synthesizer (default: {given.network})")
    add(
        "--dni-layers",
        type=not_negative,
        metavar="N",
        help=f"its hidden layers (default: {given.layers}: one linear map)",
    )
    add(
        "--hidden-size",
        type=positive,
        metavar="N",
        help="units of each of them (default: the size of the state)",
    )
    add(
        "--dni-lr",
        type=above_zero,
        metavar="RATE",
        help=f"learning rate of Adam for it (default: {given.lr:g})",
    )
    add(
        "--ahead",
        type=not_negative,
        metavar="K",
        help="symbols after the window that it sees, the network does not "
        f"(default: {given.ahead})",
    )
    add(
        "--behind",
        type=not_negative,
        metavar="K",
        help=f"last symbols of the window that it sees too (default: {given.behind})",
    )
    add(
        "--dni-memory",
        type=positive,
        metavar="N",
        help="windows that least_squares remembers: fewer, and it follows sooner, with more noise "
        "(default: 250)",
    )
    add(
        "--shrink",
        action=argparse.BooleanOptionalAction,
        help="multiply the synthetic gradient by the slope of the true one on it, which its noise "
        "makes less than 1 (default: yes)",
    )
    add(
        "--warmup",
        type=not_negative,
        metavar="N",
        help=f"updates before its gradient is used (default: {given.warmup})",
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with train.txt, valid.txt and test.txt (default: the help topics that ship "
        "inside Python)",
    )
    add("--characters", action="store_true", help="predict characters instead of words")
    add(
        "--vocabulary",
        type=_symbols,
        default=10_000,
        metavar="N",
        help="symbols at most, the others count as <unk> (default: 10000)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--cell", choices=list(CELLS), default="lstm", help="default: lstm")
    add("--units", type=positive, default=128, metavar="N", help="of a layer (default: 128)")
    add(
        "--embedding",
        type=positive,
        metavar="N",
        help="features of a symbol (default: --units; with --characters 32, unless --tied)",
    )
    add("--layers", type=positive, default=1, metavar="N", help="recurrent layers (default: 1)")
    add("--dropout", type=_share, default=0.0, metavar="P", help="default: 0")
    add("--tied", action="store_true", help="scores use the weights of the embedding")


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--updates", type=positive, default=2000, metavar="N", help="at most (default: 2000)")
    add(
        "--batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="streams the text is cut into, read side by side (default: 32)",
    )
    add("--lr", type=above_zero, default=2e-3, metavar="RATE", help="of Adam (default: 0.002)")
    add(
        "--schedule",
        choices=schedule.NAMES,
        default="plateau",
        help="of the learning rates. plateau: a quarter whenever the validation does not improve; "
        "cosine: from full to zero over --updates; constant (default: plateau)",
    )
    add(
        "--lr-warmup",
        type=not_negative,
        default=100,
        metavar="N",
        help="updates over which the learning rates rise at the start (default: 100)",
    )
    add(
        "--patience",
        type=positive,
        default=5,
        metavar="N",
        help="stop after N evaluations without a better one (default: 5)",
    )
    add(
        "--evaluate-every",
        type=positive,
        default=500,
        metavar="N",
        help="updates between two evaluations and checkpoints (default: 500)",
    )
    add(
        "--clip",
        type=_norm,
        default=1.0,
        metavar="NORM",
        help="largest norm of the model's gradient; inf for no limit (default: 1)",
    )
    add("--seed", type=seed, default=0, metavar="N", help="default: 0")
    add("--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    add("--threads", type=positive, metavar="N", help="of the CPU (default: torch's choice)")
    add("--max-steps", type=positive, metavar="N", help="stop after N updates, for a quick look")


def _add_files(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--save", type=Path, metavar="FILE", help="write a checkpoint after every evaluation")
    add(
        "--resume",
        type=Path,
        metavar="FILE",
        help="go on from a checkpoint, on a CPU to the bit as if never interrupted",
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
    if options.method == "bptt":
        for name in _DNI_FLAGS:
            if getattr(options, name) is not None:
                no = "no-" if getattr(options, name) is False else ""
                flag = f"--{no}{name.replace('_', '-')}"
                parser.error(f"{flag} is about synthetic gradients and needs --method dni")
    else:
        given = Synthesis()
        defaults = {
            "scale": given.scale,
            "dni_network": given.network,
            "dni_layers": given.layers,
            "dni_lr": given.lr,
            "ahead": given.ahead,
            "behind": given.behind,
            "shrink": given.shrink,
            "warmup": given.warmup,
        }
        if options.dni_network == "least_squares":
            for name in _STEPPED_FLAGS:
                if getattr(options, name) is not None:
                    flag = f"--{name.replace('_', '-')}"
                    parser.error(f"{flag} has no meaning for least_squares; leave it out")
        elif options.dni_memory is not None:
            parser.error("--dni-memory is about --dni-network least_squares; leave it out")
        if options.behind is not None and options.behind > options.window:
            parser.error(f"--behind {options.behind} is more than --window {options.window}")
        for name, value in defaults.items():
            if getattr(options, name) is None:
                setattr(options, name, value)
    if options.embedding is None:
        options.embedding = 32 if options.characters and not options.tied else options.units
    if options.tied and options.embedding != options.units:
        parser.error(f"--tied needs --embedding {options.units}, the same as --units")
    make_folders(parser, save=options.save, output=options.output)
    return options


def synthesis(options: argparse.Namespace) -> Synthesis | None:
    """The flags about synthetic gradients, as one value; ``None`` for ``bptt``."""
    if options.method == "bptt":
        return None
    return Synthesis(
        network=options.dni_network,
        layers=options.dni_layers,
        hidden_size=options.hidden_size,
        lr=options.dni_lr,
        scale=options.scale,
        auxiliary=_AUXILIARY if options.method == "dni+aux" else 0.0,
        ahead=options.ahead,
        behind=options.behind,
        memory=options.dni_memory,
        shrink=options.shrink,
        warmup=options.warmup,
    )


def model(options: argparse.Namespace) -> dict[str, Any]:
    """The flags about the model, as arguments of `LanguageModel`."""
    names = ("cell", "embedding", "units", "layers", "dropout", "tied")
    return {name: getattr(options, name) for name in names}


def binding(options: argparse.Namespace) -> dict[str, Any]:
    """What a run must share with a checkpoint to go on from it: every flag but the free ones."""
    return flags(options, free=_FREE if options.schedule == "cosine" else {*_FREE, "updates"})
