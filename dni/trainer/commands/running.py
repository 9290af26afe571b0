"""``dni run``: train, go on with, fine-tune or evaluate what a config describes."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DNIError, did_you_mean
from .resuming import NEWEST, compare, evaluates_average, find_run, load, load_networks

if TYPE_CHECKING:
    from ..config import Loaded
    from ..run import Run
    from ..trainer import Trainer

FLAGS = {"--help", "--name", "--base", "--train", "--resume", "--project", "--checkpoint"} | {
    "--retrain",
    "--split",
    "--debug",
}
DESCRIPTION = """\
Trains (-t), or evaluates (without -t), what a config describes.

  dni run -n demo -b base.yaml -t                     train into runs/<time>_demo/
  dni run -n demo -b base.yaml more.yaml -t           files are merged in order, deeply
  dni run -n demo -b base.yaml -t --train/max_epochs 3 --optimizer/lr 1e-4
  dni run --resume runs/<time>_demo                   evaluate the newest checkpoint
  dni run --resume runs/<time>_demo -t                go on training, as if never interrupted
  dni run -p -t                                       go on with the newest run
  dni run -n tuned -b base.yaml -c FILE -t            a new run from the weights of a checkpoint
  dni run -n again -p runs/<time>_demo -r -t          a new run from weights and optimizers

An evaluation stores what `evaluation/keys` names, or an `eval_op` gives, for each example under
evaluation/ of the run; `dni eval RUN -c module:function` reads it.

Any other --key/path VALUE sets a key of the config. VALUE is YAML: 3, 1e-4, null, [1, 2],
{type: sgd, lr: 0.1}. In a config ${a.b} or "{a/b}" is the value of another key, and ${oc.env:NAME}
a variable of the environment, which is neither shown nor saved. A mapping whose `type` changes
replaces the one before it. `dni list --config` explains every key.
"""
_DEBUG = [("train/max_steps", "10"), ("log/every", "1"), ("log/tensorboard", "false")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("-n", "--name", help="end of the name of the run's folder")
    add("-b", "--base", nargs="+", metavar="FILE", default=[], help="configs, merged in order")
    add("-t", "--train", action="store_true", help="train; without it, evaluate")
    add(
        "--resume",
        "-p",
        "--project",
        nargs="?",
        const=NEWEST,
        metavar="RUN",
        help="go on with a run: its folder, or a checkpoint in it; its config is used. Without "
        "RUN the newest run with a checkpoint, of the name that -n gives",
    )
    add("-c", "--checkpoint", metavar="FILE", help="take the networks' weights from a checkpoint")
    add(
        "-r",
        "--retrain",
        action="store_true",
        help="with --resume or -c: a new run from step 0, with networks, optimizers and averages "
        "of the checkpoint",
    )
    add("--split", help="data to evaluate on (default: `evaluation/split`, validation)")
    parser.set_defaults(call=main)
    for action in parser._actions:
        if action.dest == "debug":
            action.help = "10 steps into <root>/debug/, unless told otherwise; full error traces"


def main(options: argparse.Namespace) -> int:
    """Carry out the command.

    Returns:
        The exit code.

    Raises:
        DNIError: What went wrong.
    """
    from ..build import build_trainer
    from ..config import load_config
    from ..run import Run

    if options.retrain and options.resume is None and not options.checkpoint:
        raise ConfigError("-r begins anew from a checkpoint: say which with --resume or -c.")
    resumed = None if options.resume is None else find_run(options)
    if resumed is not None and options.checkpoint:
        raise ConfigError("--resume goes on with a run, -c begins a new one: give one of them.")
    if not options.base and resumed is None:
        raise ConfigError("There is no config: give one with -b FILE, or a run with --resume RUN.")
    files = options.base or [resumed and resumed.config]
    loaded = load_config(files, _overrides(options, is_new=resumed is None or options.retrain))
    if resumed is not None and not options.retrain:
        compare(resumed, loaded)

    print(f"# the resolved config\n{loaded.yaml()}", flush=True)
    trainer = build_trainer(loaded)
    file = Path(options.checkpoint) if options.checkpoint else None
    if resumed is not None:
        given = Path(options.resume)
        file = given if given.suffix == ".pt" and given.is_file() else resumed.checkpoint()
    if file is not None:
        if resumed is None and not options.retrain:
            load_networks(trainer, file, averages=not options.train)
        else:
            load(trainer, file, restart=options.retrain)
    if not options.train:
        if file is None:
            print("dni run: these networks are not trained: -t trains them", file=sys.stderr)
        return _evaluate(trainer, options, loaded, resumed, file)
    if not any(map(_may_train, trainer.steps.values())):
        message = "no step trains a network; name one in its `training`."
        raise ConfigError(loaded.places.say(("steps",), message))
    run = resumed if resumed is not None and not options.retrain else None
    run = run or Run.create(loaded.config.run.root, loaded.config.run.name)
    run.write_config(loaded.yaml())
    trainer.run = run
    print(f"# the run: {run.path}", flush=True)
    with _logged(run):
        return _train(trainer, run)


def _may_train(step: Any) -> bool:
    """Whether a step updates networks; one of Python code may, whatever it says."""
    from ..steps import Step

    return bool(step.training) or not isinstance(step, Step)


def _overrides(options: argparse.Namespace, *, is_new: bool) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if options.debug and options.train and is_new:
        found += [*_DEBUG, ("run/root", "runs/debug")]
    found += options.overrides
    if options.name and is_new:
        found.append(("run/name", json.dumps(options.name)))
    return found


def _train(trainer: Trainer, run: Run) -> int:
    from ..cli import FAILED, OK, TERMINATED
    from ..plot import plot_run

    code = OK
    try:
        reason = trainer.fit()
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_way_on(run)}", file=sys.stderr)
        raise
    except SystemExit as stop:
        if stop.code != TERMINATED:
            raise
        print(f"\nended; {_way_on(run)}", file=sys.stderr)
        return TERMINATED
    if trainer_failed(trainer):
        print(f"dni run: error: {reason}", file=sys.stderr)
        code = FAILED
    pictures = plot_run(run.path)
    print(f"# ended after {trainer.counters.step} steps: {reason}")
    for name, value in trainer.record.latest.items():
        if name.startswith("validation/"):
            print(f"{name}: {value:.4g}")
    print(f"# the run: {run.path}")
    for picture in pictures:
        print(f"#   {picture}")
    return code


def _way_on(run: Run) -> str:
    try:
        run.checkpoint()
    except DNIError:
        return "nothing is saved: there was no update yet"
    return f"go on with: dni run --resume {run.path} -t"


def trainer_failed(trainer: Trainer) -> bool:
    """Whether a fit ended since a loss was not finite."""
    from ..callbacks import StopOnNaN

    guard = trainer.callbacks.find(StopOnNaN)
    return guard is not None and bool(guard.has_stopped)


def _evaluate(
    trainer: Trainer,
    options: argparse.Namespace,
    loaded: Loaded,
    run: Run | None,
    file: Path | None,
) -> int:
    from ..outputs import Outputs
    from ..run import Run

    settings = loaded.config.evaluation
    split = options.split or settings.split
    if split not in trainer.data:
        hint = did_you_mean(split, trainer.data)
        raise ConfigError(f"There is no data {split!r} to evaluate on; --split names one.{hint}")
    if settings.batch_size is not None:
        trainer.data[split].batch_size = settings.batch_size
    if run is None and options.name:
        run = Run.create(loaded.config.run.root, loaded.config.run.name)
        run.write_config(loaded.yaml())
    trainer.run = run
    outputs: Outputs = trainer.callbacks.find(Outputs)
    outputs.split, outputs.checkpoint = split, None if file is None else file.name
    if file is not None and trainer.callbacks.find("EMA") is not None:
        is_average = evaluates_average(trainer)
        what = "moving average of the weights" if is_average else "weights, not their average"
        print(f"# evaluated: the {what} (--ema/validate {str(not is_average).lower()}: the other)")
    values = trainer.evaluate(split)
    for name, value in values.items():
        print(f"{split}/{name}: {value:.6g}")
    if run is not None:
        written = run.path / f"evaluation_{split}.json"
        text = json.dumps({"step": trainer.counters.step, **values}, indent=2)
        written.write_text(text + "\n", encoding="utf-8")
        print(f"# {written}")
    if outputs.folder is not None:
        print(f"# for each example: {outputs.folder}")
    return 0


class _Brief(logging.Formatter):
    """A line for the screen; the trace of an error is in the file."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname}: {record.getMessage()}"


@contextlib.contextmanager
def _logged(run: Run) -> Iterator[None]:
    """Keep warnings and messages of the trainer, and errors, in ``log.txt`` of the run."""
    logger = logging.getLogger("dni.trainer")
    to_file = logging.FileHandler(run.path / "log.txt", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_screen = logging.StreamHandler()
    to_screen.setFormatter(_Brief())
    handlers: list[logging.Handler] = [to_file, to_screen]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    except DNIError as error:
        to_file.handle(logger.makeRecord(logger.name, logging.ERROR, "", 0, str(error), (), None))
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
