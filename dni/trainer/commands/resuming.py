"""Going on with a run: which one, what its config may change, what a checkpoint brings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, ConfigError, did_you_mean

if TYPE_CHECKING:
    from ..config import Loaded
    from ..run import Run
    from ..trainer import Trainer

NEWEST = ""
"""What ``--resume`` is without a run."""
# What a resumed run may change: none of it decides what a checkpoint holds.
_FREE = {"run", "train", "log", "validate", "checkpoint", "device", "metrics", "callbacks"} | {
    "evaluators",
    "evaluation",
    "ema/validate",
    "strict_callbacks",
}


def find_run(options: argparse.Namespace) -> Run:
    """The run that the command line names, or the newest.

    Raises:
        ConfigError: There is none.
    """
    from ..config import load_config
    from ..run import Run

    if options.resume != NEWEST:
        return Run.find(options.resume)
    root = dict(options.overrides).get("run/root", "runs")
    if options.base:
        root = load_config(options.base, options.overrides).config.run.root
    run = Run.newest(root, options.name)
    print(f"# the newest run: {run.path}")
    return run


def compare(run: Run, loaded: Loaded) -> None:
    """Tell what differs from the config that the run began with; refuse what cannot change."""
    from omegaconf import OmegaConf

    from ..config import differences, load_config

    # Read as a config, so that a key that is newer than the run has its default.
    before = load_config([run.config]).yaml()
    saved: Any = OmegaConf.to_container(OmegaConf.create(before), resolve=False)
    now: Any = OmegaConf.to_container(OmegaConf.create(loaded.yaml()), resolve=False)
    lines = differences(saved, now)
    paths = {line: line.partition(":")[0] for line in lines}
    fixed = [ln for ln, path in paths.items() if not {path, path.partition("/")[0]} & _FREE]
    if fixed:
        raise ConfigError(
            f"The run {run.path} was made with another config; what its checkpoint holds depends "
            "on:\n  " + "\n  ".join(fixed) + "\nGo on without these changes, or begin a new run "
            "from its weights: dni run -n NAME -b FILE -c CHECKPOINT -t"
        )
    for line in lines:
        print(f"# changed: {line}")


def load(trainer: Trainer, file: Path, *, restart: bool) -> None:
    """Go on from a checkpoint, or begin at step 0 with its networks, optimizers and averages.

    Raises:
        ConfigError: It cannot be read, or is of another config.
    """
    from .. import checkpoint

    try:
        trainer.load_state_dict(checkpoint.load(file), restart=restart)
    except CheckpointError as err:
        raise ConfigError(str(err)) from err
    print(f"# {'begins anew' if restart else 'goes on'} from {file}", flush=True)


def load_networks(trainer: Trainer, file: Path, *, averages: bool) -> None:
    """Take the networks of a checkpoint, or their moving averages where it has them."""
    from .. import checkpoint

    try:
        state = checkpoint.load(file)
        saved = state["networks"]
        if averages and evaluates_average(trainer):
            kept = state["callbacks"].get("EMA", {})
            saved = saved | {name: entry["average"] for name, entry in kept.items()}
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


def evaluates_average(trainer: Trainer) -> bool:
    """Whether there is a moving average, which evaluation uses."""
    ema = trainer.callbacks.find("EMA")
    return ema is not None and bool(ema.validate)
