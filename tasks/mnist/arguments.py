"""The command line that both scripts share, and the checks on it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data import NAMES
from dni.scripts import (
    above_zero,
    device,
    flags,
    make_folders,
    not_negative,
    number,
    positive,
    seed,
)
from learners import Synthesis

_DNI_FLAGS = ("lambda", "dni_network", "dni_layers", "hidden_size", "dni_lr", "context", "unlock")
# What a run may change when it goes on from a checkpoint.
_FREE = {"epochs", "data_dir", "device", "save", "resume", "output", "max_steps", "compile"}

_share = number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def make_parser(script: str, description: str, *, dni_network: str) -> argparse.ArgumentParser:
    """The parser with every flag that does not describe the network.

    Args:
        script: Name of the script, for the usage line.
        description: What the script does.
        dni_network: Name of the synthesizer that suits the network, the default.
    """
    parser = argparse.ArgumentParser(
        prog=script,
        description=description,
        epilog="Ctrl-C is safe: with --save, the last complete epoch is on disk.",
    )
    add = parser.add_argument

    add(
        "--method",
        choices=["dni", "backprop"],
        default="dni",
        help="dni: learn from synthetic gradients; backprop: the usual way (default: dni)",
    )
    group = parser.add_argument_group("synthetic gradients (with --method dni)")
    group.add_argument(
        "--lambda",
        type=_share,
        metavar="λ",
        help="share of the true gradient, 0: synthetic only, 1: backprop only (default: 0.5)",
    )
    group.add_argument(
        "--dni-network",
        metavar="NAME",
        help=f"kind of synthesizer, such as linear, linear_sigmoid, linear_batchnorm or conv2d "
        f"(default: {dni_network})",
    )
    group.add_argument(
        "--dni-layers",
        type=not_negative,
        metavar="N",
        help=f"hidden layers of a synthesizer (default: {Synthesis().layers}, so that linear is "
        "one linear map)",
    )
    group.add_argument(
        "--hidden-size",
        type=positive,
        metavar="N",
        help=f"units of each of them (default: {Synthesis().hidden_size})",
    )
    group.add_argument(
        "--dni-lr",
        type=above_zero,
        metavar="RATE",
        help="learning rate of Adam for the synthesizers (default: "
        f"{Synthesis(context=True).learning_rate:g} with --context or with --lambda 0, "
        f"{Synthesis().learning_rate:g} otherwise)",
    )
    group.add_argument(
        "--context",
        action="store_true",
        help="let the synthesizers see the labels (the paper's cDNI); the network never does",
    )
    group.add_argument(
        "--unlock",
        choices=["none", "update", "forward"],
        help="update: with --lambda 0 a hidden layer learns in the forward pass and lets its "
        "activations go; forward: moreover it does not wait for the layer below (default: none)",
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=NAMES,
        default="digits",
        help="digits: 1,797 images of 8x8 that ship with scikit-learn; mnist and fashion: 70,000 "
        "of 28x28, downloaded when absent (default: digits)",
    )
    group.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="where mnist and fashion are kept (default: data)",
    )
    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs", type=positive, metavar="N", help="default: 30 for digits, 10 for the others"
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images in a batch; a last one that is not full is left out (default: 64 for digits, "
        "which at 256 would have 5 batches an epoch; 256 for the others)",
    )
    group.add_argument(
        "--lr",
        type=above_zero,
        default=1e-3,
        metavar="RATE",
        help="learning rate of Adam for the network (default: 0.001)",
    )
    group.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="decides the initial weights and the order of the images (default: 0)",
    )
    group.add_argument(
        "--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)"
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the network and what its interfaces compute (torch.compile): about a minute "
        "at the start, then faster steps; needs a C++ compiler",
    )
    group.add_argument(
        "--max-steps", type=positive, metavar="N", help="stop after N batches, for a quick look"
    )
    group = parser.add_argument_group("files")
    group.add_argument(
        "--save", type=Path, metavar="FILE", help="write a checkpoint after every epoch"
    )
    group.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="go on from a checkpoint, to the bit as if never interrupted (on a CPU); --epochs "
        "counts those before it too",
    )
    group.add_argument(
        "--output",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where the plot goes (default: runs)",
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: list[str] | None, *, dni_network: str
) -> argparse.Namespace:
    """Parse, check what argparse cannot, fill the defaults that depend, and make the folders.

    On a fault it prints one sentence and leaves with exit code 2, as argparse does.
    """
    options = parser.parse_args(arguments)
    if options.method == "backprop":
        for name in _DNI_FLAGS:
            value = getattr(options, name)
            if value is not None and value is not False:  # 0.0 == False
                flag = f"--{name.replace('_', '-')}"
                parser.error(f"{flag} is about synthetic gradients and needs --method dni")
    else:
        share = getattr(options, "lambda")
        share = Synthesis().lambda_ if share is None else share
        defaults = {
            "lambda": share,
            "dni_network": dni_network,
            "dni_layers": Synthesis().layers,
            "hidden_size": Synthesis().hidden_size,
            "dni_lr": Synthesis(lambda_=share, context=options.context).learning_rate,
        }
        for name, value in defaults.items():
            if getattr(options, name) is None:
                setattr(options, name, value)
    small = options.dataset == "digits"
    options.epochs = options.epochs or (30 if small else 10)
    options.batch_size = options.batch_size or (64 if small else 256)
    make_folders(parser, save=options.save, output=options.output)
    return options


def synthesis(options: argparse.Namespace) -> Synthesis:
    """The flags about synthetic gradients, as one value."""
    return Synthesis(
        lambda_=getattr(options, "lambda"),
        dni_network=options.dni_network,
        layers=options.dni_layers,
        hidden_size=options.hidden_size,
        context=options.context,
        lr=options.dni_lr,
        unlock=options.unlock or "none",
    )


def binding(script: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a run must share with a checkpoint to go on from it: every flag but the free ones."""
    return {"script": script, **flags(options, free=_FREE)}
