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

from ...errors import CheckpointError, ConfigError, DNIError, did_you_mean

if TYPE_CHECKING:
    from ..config import Loaded
    from ..run import Run
    from ..trainer import Trainer

FLAGS = {"--help", "--name", "--base", "--train", "--resume", "--project", "--checkpoint"} | {
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
  dni run -n tuned -b base.yaml -c FILE -t            a new run from the weights of a checkpoint

Any other --key/path VALUE sets a key of the config. VALUE is YAML: 3, 1e-4, null, [1, 2],
{type: sgd, lr: 0.1}. In a config ${a.b} or "{a/b}" is the value of another key, and ${oc.env:NAME}
a variable of the environment, which is neither shown nor saved. A mapping whose `type` changes
replaces the one before it. `dni list --config` explains every key.
"""
# What a resumed run may change: none of it decides what a checkpoint holds.
_FREE = {"run", "train", "log", "validate", "checkpoint", "device", "metrics", "callbacks"}
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
        metavar="RUN",
        help="go on with a run: its folder, or a checkpoint in it; its config is used",
    )
    add("-c", "--checkpoint", metavar="FILE", help="take the networks' weights from a checkpoint")
    add("--split", default="validation", help="data to evaluate on (default: validation)")
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

    resumed = Run.find(options.resume) if options.resume else None
    if resumed is not None and options.checkpoint:
        raise ConfigError("--resume goes on with a run, -c begins a new one: give one of them.")
    if not options.base and resumed is None:
        raise ConfigError("There is no config: give one with -b FILE, or a run with --resume RUN.")
    files = options.base or [resumed and resumed.config]
    loaded = load_config(files, _overrides(options))
    if resumed is not None:
        _compare(resumed, loaded)

    print(f"# the resolved config\n{loaded.yaml()}", flush=True)
    trainer = build_trainer(loaded)
    if resumed is not None:
        file = Path(options.resume)
        _load(trainer, file if file.is_file() and file.suffix == ".pt" else resumed.checkpoint())
    elif options.checkpoint:
        _load_networks(trainer, Path(options.checkpoint))
    if not options.train:
        _check_split(options.split, trainer)
        if resumed is None and not options.checkpoint:
            print("dni run: these networks are not trained: -t trains them", file=sys.stderr)
        return _evaluate(trainer, options, loaded, resumed)
    run = resumed or Run.create(loaded.config.run.root, loaded.config.run.name)
    run.write_config(loaded.yaml())
    trainer.run = run
    print(f"# the run: {run.path}", flush=True)
    with _logged(run):
        return _train(trainer, run)


def _overrides(options: argparse.Namespace) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if options.debug and options.train and not options.resume:
        found += [*_DEBUG, ("run/root", "runs/debug")]
    found += options.overrides
    if options.name:
        found.append(("run/name", json.dumps(options.name)))
    return found


def _train(trainer: Trainer, run: Run) -> int:
    from ..cli import FAILED, OK, TERMINATED
    from ..plot import plot_run

    code = OK
    try:
        reason = trainer.fit()
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: dni run --resume {run.path} -t", file=sys.stderr)
        raise
    except SystemExit as stop:
        if stop.code != TERMINATED:
            raise
        print(f"\nended; go on with: dni run --resume {run.path} -t", file=sys.stderr)
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


def trainer_failed(trainer: Trainer) -> bool:
    """Whether a fit ended since a loss was not finite."""
    from ..callbacks import StopOnNaN

    guard = trainer.callbacks.find(StopOnNaN)
    return guard is not None and bool(guard.has_stopped)


def _evaluate(
    trainer: Trainer, options: argparse.Namespace, loaded: Loaded, run: Run | None
) -> int:
    from ..run import Run

    values = trainer.evaluate(options.split)
    for name, value in values.items():
        print(f"{options.split}/{name}: {value:.6g}")
    if run is None and options.name:
        run = Run.create(loaded.config.run.root, loaded.config.run.name)
        run.write_config(loaded.yaml())
    if run is not None:
        file = run.path / f"evaluation_{options.split}.json"
        text = json.dumps({"step": trainer.counters.step, **values}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")
        print(f"# {file}")
    return 0


def _check_split(split: str, trainer: Trainer) -> None:
    if split not in trainer.data:
        hint = did_you_mean(split, trainer.data)
        raise ConfigError(f"There is no data {split!r} to evaluate on; --split names one.{hint}")


def _compare(run: Run, loaded: Loaded) -> None:
    """Tell what differs from the config that the run began with; refuse what cannot change."""
    from omegaconf import OmegaConf

    from ..config import differences

    saved: Any = OmegaConf.to_container(OmegaConf.load(run.config), resolve=False)
    now: Any = OmegaConf.to_container(OmegaConf.create(loaded.yaml()), resolve=False)
    lines = differences(saved, now)
    fixed = [line for line in lines if line.partition(":")[0].partition("/")[0] not in _FREE]
    if fixed:
        raise ConfigError(
            f"The run {run.path} was made with another config; what its checkpoint holds depends "
            "on:\n  " + "\n  ".join(fixed) + "\nGo on without these changes, or begin a new run "
            "from its weights: dni run -n NAME -b FILE -c CHECKPOINT -t"
        )
    for line in lines:
        print(f"# changed: {line}")


def _load(trainer: Trainer, file: Path) -> None:
    try:
        trainer.load(file)
    except CheckpointError as err:
        raise ConfigError(str(err)) from err
    print(f"# goes on from {file}", flush=True)


def _load_networks(trainer: Trainer, file: Path) -> None:
    from .. import checkpoint

    try:
        saved = checkpoint.load(file)["networks"]
    except CheckpointError as err:
        raise ConfigError(str(err)) from err
    for name, network in trainer.networks.items():
        if name not in saved:
            raise ConfigError(f"{file} has no network {name!r}.{did_you_mean(name, saved)}")
        try:
            network.load_state_dict(saved[name])
        except RuntimeError as err:
            given = checkpoint.shapes(network.state_dict())
            lines = checkpoint.differences(checkpoint.shapes(saved[name]), given)
            raise ConfigError(
                f"The network {name!r} in {file} is another one:\n  " + "\n  ".join(lines[:12])
            ) from err


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
