"""Checks, before training, that every key of the state that is read is written, and once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..errors import ConfigError, did_you_mean
from .evaluators import Evaluators
from .making import at
from .places import Places
from .schema import Config, InjectorConfig
from .step_builder import listed
from .steps import Step
from .trainer import Trainer


@dataclass(frozen=True)
class _Writer:
    """Who writes a key; ``spec`` tells when an injector does, others always do."""

    by: str
    spec: InjectorConfig | None = None

    def meets(self, other: InjectorConfig) -> bool:
        """Whether an injector may come to write in the same step of the same phase."""
        if self.spec is None:
            return True
        first, second = sorted((self.spec, other), key=lambda spec: spec.after)
        overlaps = first.before is None or second.after <= first.before
        trains = first.in_training and second.in_training
        return overlaps and (trains or (first.in_evaluation and second.in_evaluation))


Writers = dict[str, list[_Writer]]


def check_keys(trainer: Trainer, config: Config, places: Places) -> None:
    """Check that every key of the state that is read has been written, and written once.

    Two injectors may write one key if they never do so in one step: one takes part in training
    and the other in evaluation, or the one begins after the other's last step. What comes after
    a step of Python code is not checked here: it may write anything. `SanityCheck` tries that.

    Args:
        trainer: What was made of the config.
        config: The config.
        places: Where its keys were written.

    Raises:
        ConfigError: A key that nothing writes, or one that two write.
    """
    split = "train" if "train" in trainer.data else next(iter(trainer.data))
    with at(places, "data", split):
        writers: Writers = {
            key: [_Writer(f"the data {split!r}")] for key in trainer.data[split].peek()
        }
    found = trainer.callbacks.find(Evaluators)
    entries = found.entries if found is not None else []
    for entry in entries:
        if entry.alone and entry.evaluator.needs_data:
            with at(places, "data", entry.split):
                batch = trainer.data[entry.split].peek()
            _check_read(entry.reads, batch, places, ("evaluators", entry.name))
    steps = [step for step in trainer.steps.values() if isinstance(step, Step)]
    written = {key for step in steps for key in step.writes or ()}
    for name, step in trainer.steps.items():
        if not isinstance(step, Step):
            return
        if len(steps) == len(trainer.steps):
            _check_read(step.requires, {*writers, *written}, places, ("steps", name, "requires"))
        for key, spec in config.steps[name].injectors.items():
            path = ("steps", name, "injectors", key)
            _check_read(listed(spec.inputs), writers, places, (*path, "in"))
            for out in listed(spec.outputs or key):
                before = writers.setdefault(out, [])
                clash = next((writer for writer in before if writer.meets(spec)), None)
                if clash is not None and not spec.overwrite:
                    message = (
                        f"it writes {out!r}, which {clash.by} has written already; choose "
                        "another `out`, or say `overwrite: true`."
                    )
                    raise ConfigError(places.say((*path, "out"), message))
                before.append(_Writer(f"injector {key!r} of step {name!r}", spec))
        for key, term in step.losses.items():
            for argument, read in term.loss.inputs.items():
                _check_read([read], writers, places, ("steps", name, "losses", key, argument))
        made = {key for injection in step.injections for key in injection.writes}
        for option, keys in (("keep", step.keep), ("step_outputs", step.outputs or ())):
            for key in sorted(set(keys) - made):
                message = f"no injector of the step writes {key!r}.{did_you_mean(key, made)}"
                raise ConfigError(places.say(("steps", name, option), message))
        for key in step.writes or ():
            writers.setdefault(key, [_Writer(f"step {name!r}")])
        _check_context(name, config, writers, places)
    for name, metric in config.metrics.items():
        for argument in ("input", "target"):
            if argument in metric.arguments:
                where = ("metrics", name, argument)
                _check_read([metric.arguments[argument]], writers, places, where)
    for entry in entries:
        if not entry.alone:
            _check_read(entry.reads, writers, places, ("evaluators", entry.name))
    _check_read(config.evaluation.keys or (), writers, places, ("evaluation", "keys"))


def _check_context(name: str, config: Config, writers: Writers, places: Places) -> None:
    own = config.steps[name].optimizer
    chosen = own or config.optimizer
    context = chosen.arguments.get("context") if chosen is not None else None
    is_dni = chosen is not None and chosen.type in ("dni", "temporal_dni")
    if is_dni and isinstance(context, str):
        path = ("steps", name, "optimizer") if own is not None else ("optimizer",)
        if config.steps[name].training:
            _check_read([context], writers, places, (*path, "context"))


def _check_read(
    keys: Iterable[str], writers: Collection[str], places: Places, path: tuple[str, ...]
) -> None:
    for key in keys:
        if key not in writers:
            message = (
                f"it reads {key!r}, which neither the data nor anything before it writes."
                f"{did_you_mean(key, writers)}"
            )
            raise ConfigError(places.say(path, message))
