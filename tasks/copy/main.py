"""Copy, repeat copy, adding and argmax: remembering for longer than the window that is learned."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import arguments
from checkpoint import resume, save_checkpoint
from curriculum import Progress, Row, header, line
from dni.errors import DNIError
from episodes import TASKS, Task
from learners import Learner
from plots import save_plot
from training import beyond, is_done, train

_INTERRUPTED = 130  # what shells use for Ctrl-C
_BAD_INPUT = 2


def main(words: list[str] | None = None) -> int:
    """Run the script.

    Args:
        words: The command line; None for the process's own.

    Returns:
        The exit code: 0, 2 for anything the user has to change, 130 after Ctrl-C.
    """
    parser = arguments.make_parser()
    options = arguments.parse(parser, words)
    try:
        _run(options)
    except DNIError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:  # a full disk, a folder without leave to write
        print(f"{parser.prog}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print(f"\n{_how_to_go_on(options.save)}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def make_learner(options: argparse.Namespace) -> Learner:
    """The learner that the flags describe."""
    return Learner(
        TASKS[options.task],
        units=options.units,
        lr=options.lr,
        window=options.window,
        synthesis=arguments.synthesis(options),
        compiles=options.compile,
    )


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads or 1)
    torch.manual_seed(options.seed)
    task, settings = TASKS[options.task], arguments.settings(options)
    learner, episodes = make_learner(options), torch.Generator().manual_seed(options.seed)
    binding = arguments.binding(options)
    progress = Progress()
    if options.resume:
        progress = resume(options.resume, learner, episodes, binding)
        if progress.updates >= settings.updates or is_done(progress, settings):
            print(
                f"{options.resume} has {progress.updates} updates already and solved patterns "
                f"of {progress.longest.pattern}; ask for more with --updates or --longest."
            )
            return

    def report(row: Row) -> None:
        if options.save:
            save_checkpoint(options.save, learner, progress, episodes, binding)
        print(line(row, task), flush=True)

    print(_summary(options, task), header(task), sep="\n")
    if options.compile:
        print("compiling with the first window, some 20 seconds ...", file=sys.stderr, flush=True)
    train(learner, progress, settings, episodes, report)
    longest = progress.longest
    repeats = f" {longest.repeats} times" if task.repeats else ""
    print(f"solved: patterns of {longest.pattern}{repeats}, episodes of {longest.steps} steps")
    later = progress.length
    for steps, error in beyond(learner, later, settings, episodes, limit=options.beyond):
        print(f"not trained to the end: {steps} steps, {error:.3f} {task.unit}")
    plot = options.output / f"{options.task}-{options.method}-{options.window or 'full'}.png"
    save_plot(plot, {options.method: progress}, task, threshold=options.threshold)
    print(f"plot: {plot}")
    if options.save:
        print(f"checkpoint: {options.save}")


def _summary(options: argparse.Namespace, task: Task) -> str:
    window = f"windows of {options.window}" if options.window else "whole episodes"
    method = {"bptt": "backpropagation", "dni": "DNI", "dni+aux": "DNI with auxiliary task"}
    text = f"{task.name}, LSTM of {options.units}, {window}, {method[options.method]}"
    if options.foresight:
        text += f" that sees the answers of {options.foresight} further steps"
    return text


def _how_to_go_on(saved: Path | None) -> str:
    if saved is None:
        return "Interrupted; nothing was saved. With --save FILE a run can be resumed."
    if not saved.exists():
        return f"Interrupted before the first row of the table; {saved} was not written yet."
    return (
        f"Interrupted. {saved} has the last row of the table: go on with the same arguments and "
        f"--resume {saved}"
    )


if __name__ == "__main__":
    sys.exit(main())
