"""What both scripts do around their network: data, learner, table, checkpoints, plot, exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import arguments
from checkpoint import resume, save_checkpoint
from data import DataError, ImageDataset, load_dataset
from dni.errors import DNIError
from history import Epoch, header, line
from learners import Backprop, Decoupled, Learner
from plots import save_plot
from training import Progress, train

Build = Callable[[argparse.Namespace, ImageDataset], nn.Module]
_INTERRUPTED = 130  # what shells use for Ctrl-C
_BAD_INPUT = 2


def main(
    parser: argparse.ArgumentParser,
    build: Build,
    words: list[str] | None,
    *,
    dni_network: str,
) -> int:
    """Run a script.

    Args:
        parser: From `arguments.make_parser`, with the network's own flags added.
        build: Makes the network from the flags; its children named ``hidden…`` are the sites.
        words: The command line; None for the process's own.
        dni_network: Default of ``--dni-network``.

    Returns:
        The exit code: 0, 2 for anything the user has to change, 130 after Ctrl-C.
    """
    options = arguments.parse(parser, words, dni_network=dni_network)
    try:
        _run(parser.prog, build, options)
    except (DataError, DNIError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:  # a full disk, a folder without leave to write
        print(f"{parser.prog}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return _BAD_INPUT
    except torch._dynamo.exc.TorchDynamoException as error:  # no C++ compiler, say
        reason = str(error).splitlines()[0]
        print(f"{parser.prog}: error: --compile: {reason}; leave it out.", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print(f"\n{_how_to_go_on(options.save)}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def make_learner(network: nn.Module, options: argparse.Namespace) -> Learner:
    """The learner that ``--method`` names; every hidden layer is a site, the output is not."""
    if options.method == "backprop":
        return Backprop(network, lr=options.lr, compiles=options.compile)
    sites = [name for name, _ in network.named_children() if name.startswith("hidden")]
    return Decoupled(
        network,
        sites=sites,
        lr=options.lr,
        synthesis=arguments.synthesis(options),
        compiles=options.compile,
    )


def _run(script: str, build: Build, options: argparse.Namespace) -> None:
    dataset = load_dataset(options.dataset, options.data_dir)
    if not 2 <= options.batch_size <= len(dataset.images):
        raise DataError(
            f"--batch-size {options.batch_size} must be from 2 to {len(dataset.images)}, the "
            f"number of images there are to train on in {dataset.name}."
        )
    torch.manual_seed(options.seed)
    network = build(options, dataset).to(options.device)
    learner = make_learner(network, options)
    binding = arguments.binding(script, options)
    progress = resume(options.resume, learner, binding) if options.resume else Progress()
    if progress.epoch >= options.epochs:
        print(f"{options.resume} has {progress.epoch} epochs already; ask for more with --epochs.")
        return

    def report(epoch: Epoch) -> None:
        if options.save:
            save_checkpoint(options.save, learner, progress, binding)
        if not rows:
            print(header(list(epoch.cosines)))
        rows.append(epoch)
        print(line(epoch), flush=True)

    rows: list[Epoch] = []
    print(_summary(options, dataset))
    train(
        learner,
        dataset.to(torch.device(options.device)),
        progress,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=options.seed,
        max_steps=options.max_steps,
        on_epoch=report,
    )
    if progress.step:
        print(f"stopped within epoch {progress.epoch + 1}, after {progress.step} batches")
    plot = options.output / f"{Path(script).stem}-{options.dataset}-{options.method}.png"
    save_plot(plot, {options.method: progress.history}, title=_summary(options, dataset))
    print(f"plot: {plot}")
    if options.save:
        print(f"checkpoint: {options.save}")


def _summary(options: argparse.Namespace, dataset: ImageDataset) -> str:
    method = "backprop"
    if options.method == "dni":
        method = f"DNI, λ = {getattr(options, 'lambda'):g}, {options.dni_network} synthesizers"
        method += " that see the labels" if options.context else ""
    counts = f"{len(dataset.images):,} + {len(dataset.test_images):,} images"
    return f"{options.layers} hidden layers, {method}; {dataset.name}, {counts}"


def _how_to_go_on(saved: Path | None) -> str:
    if saved is None:
        return "Interrupted; nothing was saved. With --save FILE a run can be resumed."
    if not saved.exists():
        return f"Interrupted before the first epoch was complete; {saved} was not written yet."
    return (
        f"Interrupted. {saved} has the last complete epoch: go on with the same arguments and "
        f"--resume {saved}"
    )
