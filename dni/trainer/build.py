"""Makes a `Trainer` from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, did_you_mean
from . import callbacks, data  # noqa: F401
from .callbacks.tally import Metric
from .config import Loaded
from .data import Source, make_source
from .evaluators import Entry, Evaluator, attach_evaluators
from .events import Callback
from .keys import check_keys
from .making import PlacedError, at, check_arguments, make
from .outputs import Outputs
from .phases import Phase
from .places import Places
from .registry import CALLBACKS, EVALUATORS, NETWORKS, PHASES
from .run import Run
from .schedules import Schedule, make_schedule
from .schema import Config, DataConfig, PhaseConfig, Typed
from .step_builder import StepBuilder
from .targets import Target, targets_of
from .trainer import Trainer
from .validation import check_monitor
from .when import When


def build_trainer(loaded: Loaded, run: Run | None = None) -> Trainer:
    """Make networks, data, steps and callbacks, and the trainer that holds them.

    Args:
        loaded: From `load_config`.
        run: Folder to write into; ``None``: nothing is written.

    Raises:
        ConfigError: Something that the config names cannot be made, with file and line.
    """
    config, places = loaded.config, loaded.places
    device = find_device(config.device)
    torch.manual_seed(config.seed)
    sources = {name: _source(name, spec, places) for name, spec in config.data.items()}
    made = {name: _network(name, spec, places).to(device) for name, spec in config.networks.items()}
    if "train" in sources:
        classes = sources["train"].num_classes
    else:
        classes = next((source.num_classes for source in sources.values()), None)
    trainer = Trainer(
        made,
        StepBuilder(config, made, classes, places).steps(),
        sources,
        _callbacks(config, places),
        _schedules(config, places),
        phases=_phases(config, sources, places),
        seed=config.seed,
        max_steps=config.train.max_steps,
        max_epochs=config.train.max_epochs,
        batches_per_step=config.batches_per_step,
        device=device,
        run=run,
        log=config.log.model_dump(include={"every", "growth", "start"}),
        validate_epochs=config.validation.every_epochs,
        validate_steps=config.validation.every_steps,
        checkpoint_epochs=config.checkpoint.every_epochs,
        checkpoint_steps=config.checkpoint.every_steps,
        strict_callbacks=config.strict_callbacks,
        config=loaded.resolved,
    )
    for path in trainer.schedules:
        with at(places, "schedules", path):
            Target(trainer, path)
    with at(places, "schedules"):
        targets_of(trainer)
    with at(places, "evaluators"):
        attach_evaluators(trainer, _evaluators(config, places))
    for path, schedule in trainer.schedules.items():
        with at(places, "schedules", path):
            check_monitor(trainer, path, schedule)
    storing = config.evaluation.model_dump(exclude={"batch_size"})
    trainer.callbacks.add(Outputs(**storing))
    check_keys(trainer, config, places)
    return trainer


def build_data(loaded: Loaded, split: str) -> Source:
    """Make one split of the data, as `build_trainer` makes it.

    Raises:
        ConfigError: There is no such split, or it cannot be made.
    """
    config, places = loaded.config, loaded.places
    if split not in config.data:
        hint = did_you_mean(split, config.data)
        raise ConfigError(places.say(("data",), f"there is no split {split!r}.{hint}"))
    # Those before it are made too: they may draw from the same random numbers.
    torch.manual_seed(config.seed)
    names = list(config.data)
    sources = [_source(n, config.data[n], places) for n in names[: names.index(split) + 1]]
    return sources[-1]


def find_device(name: str) -> torch.device:
    """The device that a config names; ``"auto"`` is a GPU if there is one.

    Raises:
        ConfigError: It is not there.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {name!r} is not there ({torch.cuda.device_count()} CUDA devices are); "
            "'auto' takes one if there is one. `dni doctor` tells more."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: 'mps' is not there; 'auto' takes a GPU if there is one.")
    return device


def _source(name: str, spec: DataConfig, places: Places) -> Source:
    own = {key: getattr(spec, key) for key in type(spec).model_fields if key != "type"}
    given = {key: value for key, value in own.items() if value is not None}
    with at(places, "data", name):
        return make_source(spec.type, **given, **spec.arguments)


def _network(name: str, spec: Typed, places: Places) -> nn.Module:
    network = make(NETWORKS, spec, places, "networks", name)
    if not isinstance(network, nn.Module):
        message = f"{spec.type!r} made a {type(network).__name__}; a torch module is needed."
        raise ConfigError(places.say(("networks", name), message))
    return network


def _phases(config: Config, sources: Mapping[str, Source], places: Places) -> list[Phase]:
    specs = dict(config.phases)
    for name, kind in (("train", "training"), ("validation", "validation")):
        if name == "train" or name in sources:
            specs.setdefault(name, PhaseConfig.model_validate({"type": kind}))
    made = []
    for name, spec in specs.items():
        if spec is None:
            continue
        path = ("phases", name)
        phase = make(PHASES, spec, places, *path)
        if not isinstance(phase, Phase):
            message = f"{spec.type!r} made a {type(phase).__name__}; a `Phase` is needed."
            raise ConfigError(places.say(path, message))
        phase.name, phase.split = name, spec.split or phase.split
        phase.when = When(every=spec.every, after=spec.after, before=spec.before)
        if name in config.phases and phase.split not in sources:
            hint = did_you_mean(phase.split, sources)
            message = f"it is for the data {phase.split!r}, which is not there.{hint}"
            raise ConfigError(places.say((*path, "split"), message))
        made.append(phase)
    return made


def _schedules(config: Config, places: Places) -> dict[str, Schedule]:
    made = {}
    for path, spec in config.schedules.items():
        with at(places, "schedules", path):
            made[path] = make_schedule(spec, hears=True)
    return made


def _evaluators(config: Config, places: Places) -> list[Entry]:
    entries = []
    for name, spec in config.evaluators.items():
        evaluator = make(EVALUATORS, spec, places, "evaluators", name)
        if not isinstance(evaluator, Evaluator):
            message = f"{spec.type!r} made a {type(evaluator).__name__}, which is no `Evaluator`."
            raise PlacedError(places.say(("evaluators", name), message))
        entries.append(Entry(name, evaluator, spec.split, spec.every_epochs, spec.alone))
    return entries


def _callbacks(config: Config, places: Places) -> list[Callback]:
    log, saving = config.log, config.checkpoint
    wanted: list[tuple[str, dict[str, Any]]] = [("sanity", {}), ("stop_on_nan", {})]
    metrics = {}
    for name, spec in config.metrics.items():
        path = ("metrics", name)
        with at(places, *path):
            check_arguments(Metric, spec.arguments, places, path, ours=["name", "type"])
            metrics[name] = Metric(name, spec.type, **spec.arguments)
    wanted.append(("metrics", {"metrics": metrics}))
    wanted.append(("dni_statistics", {}))
    if log.csv:
        wanted.append(("csv", {}))
    if log.tensorboard:
        wanted.append(("tensorboard", {}))
    if log.images is not None:
        wanted.append(("images", log.images.model_dump()))
    if config.ema is not None:
        wanted.append(("ema", config.ema.model_dump(by_alias=True)))
    wanted.append(("progress", {"bar": None if log.progress else False}))
    options = saving.model_dump(exclude={"every_epochs", "every_steps"})
    wanted.append(("checkpoint", options))
    own = {spec.type for spec in config.callbacks}
    made: list[Callback] = []
    for name, arguments in wanted:
        if name in CALLBACKS and name not in own:
            with at(places, {"csv": "log", "images": "log"}.get(name, name)):
                made.append(CALLBACKS[name](**arguments))
    for index, spec in enumerate(config.callbacks):
        callback = make(CALLBACKS, spec, places, "callbacks", str(index))
        if not isinstance(callback, Callback):
            message = f"{spec.type!r} made a {type(callback).__name__}; a `Callback` is needed."
            raise ConfigError(places.say(("callbacks", str(index)), message))
        made.append(callback)
    return made
