"""Looks for what cannot work before a run spends any time on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ...errors import ConfigError, DNIError, did_you_mean
from ..events import Callback
from ..modes import evaluating
from ..ordering import Callbacks
from ..phases import Phase, ValidationPhase
from ..randomness import random_state, set_random_state
from ..registry import CALLBACKS
from ..state import State

if TYPE_CHECKING:
    from ..trainer import Trainer

logger = logging.getLogger("dni.trainer")


@contextmanager
def rehearsal(trainer: Trainer) -> Iterator[None]:
    """What happens in a ``with`` block is heard by no callback, reported nowhere and not random.

    Networks and optimizers are not looked after.
    """
    kept = trainer.callbacks, trainer.phase, trainer.step, trainer.current, trainer.batch_size
    kept_random = random_state()
    trainer.callbacks = Callbacks()
    try:
        with trainer.record.muted():
            yield
    finally:
        set_random_state(kept_random)
        trainer.callbacks, trainer.phase, trainer.step, trainer.current, trainer.batch_size = kept


@CALLBACKS.register("sanity")
class SanityCheck(Callback):
    """Before the first step, checks data and steps, and runs the steps on a validation batch.

    Looked for: no training data, data without a batch, batches that are no dictionary, nothing
    that steps an optimizer, a key that an injector, loss or evaluator reads and nothing writes, a
    loss of the validation that a callback or schedule goes by and no step has, and whatever the
    steps raise on a batch of the validation data. Nothing is trained. Missing validation data is
    only logged as a warning.

    Args:
        dry_run: Whether the steps are run.

    Raises:
        ConfigError: When the run begins: all that was found, a line each.
    """

    reads = ("data", "steps", "networks")

    def __init__(self, *, dry_run: bool = True) -> None:
        self.dry_run = dry_run

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Check everything, unless the run was resumed: then it has worked before."""
        if trainer.counters.step:
            return
        if "validation" not in trainer.data:
            logger.warning("There is no validation data: add `validation` to `data`.")
        evaluators, kept = trainer.callbacks.find("Evaluators"), list(trainer.callbacks)
        with rehearsal(trainer):
            faults = list(_faults(trainer, phase.split))
            if not faults and self.dry_run and "validation" in trainer.data:
                faults = list(_faults_of_a_run(trainer))
                if not faults:
                    entries = () if evaluators is None else evaluators.entries
                    faults = list(_unread_by_evaluators(trainer, entries))
                    faults += _unreported(trainer, kept)
        if faults:
            found = "\n".join(f"  - {fault}" for fault in faults)
            raise ConfigError(f"The run would not work:\n{found}")


def _faults(trainer: Trainer, split: str) -> Iterator[str]:
    if split not in trainer.data:
        yield f"There is no training data: add {split!r} to `data`.{_near(split, trainer.data)}"
    if not _steps_an_optimizer(trainer.steps):
        yield (
            "Nothing steps an optimizer: no step trains a network. Give a step `training: "
            "[<network>]` and an `optimizer`."
        )
    for name, source in trainer.data.items():
        try:
            batch: Any = source.peek()
        except DNIError as err:
            yield f"The data {name!r} gives no batch: {err}"
            continue
        if not isinstance(batch, Mapping):
            yield (
                f"A batch of the data {name!r} is a {type(batch).__name__}, not a dictionary; "
                "name the parts of its samples by `keys`."
            )
        elif name == split:
            yield from _missing_keys(trainer.steps, batch)


def _near(name: str, known: Mapping[str, Any]) -> str:
    return did_you_mean(name, known)


def _steps_an_optimizer(steps: Mapping[str, Any]) -> bool:
    # Of a plain function nobody can tell.
    return any(
        not hasattr(step, "strategy")
        or getattr(step, "updates_itself", False)
        or (step.strategy is not None and step.training)
        for step in steps.values()
    )


def _missing_keys(steps: Mapping[str, Any], batch: Mapping[str, Any]) -> Iterator[str]:
    """Keys that are read before anything writes them, by the order of a config's steps."""
    there = set(batch)
    for name, step in steps.items():
        if not hasattr(step, "injections"):
            return  # what a function writes is not known
        if any(key not in there for key in step.requires):
            continue
        for injection in step.injections:
            yield from _unread(f"step {name!r}: {injection.by}", injection.reads, there)
            there.update(injection.writes)
        for term in step.losses.values():
            yield from _unread(f"step {name!r}: {term.by}", term.loss.inputs.values(), there)
            there.add(f"loss/{name}/{term.name}")
        there.add(f"loss/{name}/total")


def _unread(reader: str, keys: Any, there: set[str]) -> Iterator[str]:
    for key in keys:
        if key not in there:
            near = did_you_mean(key, [k for k in there if not k.startswith("loss/")])
            yield f"{reader} reads {key!r}, which is no key of the batch and nothing writes.{near}"


def _unread_by_evaluators(trainer: Trainer, entries: Any) -> Iterator[str]:
    """Keys that evaluators read and the steps, which have just run, did not write.

    One that a step of a config says it writes may come later, when its window opens; and a phase
    of the user's own may write what it likes.
    """
    if _validates_by_hand(trainer):
        return
    steps = trainer.steps.values()
    there = set(trainer.step).union(*(getattr(step, "writes", None) or () for step in steps))
    for entry in entries:
        if entry.split == "validation" and not entry.alone and entry.evaluator.needs_data:
            yield from _unread(f"evaluator {entry.name!r}", entry.reads, there)


def _validates_by_hand(trainer: Trainer) -> bool:
    """Whether a phase of the user's own is the validation."""
    return any(p.name == "validation" and type(p).step is not Phase.step for p in trainer.phases)


def _unreported(trainer: Trainer, callbacks: list[Callback]) -> Iterator[str]:
    """Losses of the validation that a callback or a schedule goes by and no step has.

    A callback or phase of the user's own may report what it likes.
    """
    own = any(not type(callback).__module__.startswith("dni.") for callback in callbacks)
    if own or _validates_by_hand(trainer):
        return
    start = "validation/loss/"
    steps = trainer.steps.values()
    there = set(trainer.step).union(*(getattr(step, "writes", None) or () for step in steps))
    reported = [f"validation/{key}" for key in there if key.startswith("loss/")]
    monitors: dict[str, Any] = {f"The callback `{c.name}`": c for c in callbacks}
    monitors |= {f"The schedule {path!r}": s for path, s in trainer.schedules.items()}
    for who, one in monitors.items():
        monitor = getattr(one, "monitor", None)
        if monitor and monitor.startswith(start) and monitor not in reported:
            near = did_you_mean(monitor, reported)
            yield f"{who} goes by {monitor!r}, which no validation will report.{near}"


def _faults_of_a_run(trainer: Trainer) -> Iterator[str]:
    source = trainer.data["validation"]
    trainer.phase = phase = ValidationPhase()
    try:
        with evaluating(trainer.networks):
            batch = {
                key: value.to(trainer.device) if isinstance(value, torch.Tensor) else value
                for key, value in source.peek().items()
            }
            trainer.step = State(batch)
            trainer.batch_size = trainer.step.batch_size()
            phase.step(trainer, trainer.step)
    except Exception as err:
        where = getattr(trainer.current, "name", None)
        step = f"the step {where!r}" if where else "the steps"
        shapes = {k: tuple(v.shape) for k, v in batch.items() if isinstance(v, torch.Tensor)}
        kind = "" if isinstance(err, DNIError) else f"{type(err).__name__}: "
        yield f"A batch of the validation data, {shapes}, does not go through {step}: {kind}{err}"
