"""Makes a `Trainer` from a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, DNIError, did_you_mean
from . import callbacks, data, gan_losses, networks, phases, schedules  # noqa: F401
from .config import Loaded
from .data import Source, make_source
from .events import Callback
from .places import Places
from .registry import CALLBACKS, INJECTORS, LOSSES, NETWORKS, Registry, import_path
from .run import Run
from .schema import Config, DataConfig, StepConfig, StrategyConfig, Typed
from .step_op import StepOp
from .steps import BaseStep, FunctionStep, Step
from .strategies import Strategy, make_strategy
from .trainer import Trainer


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
    steps: dict[str, Any] = {
        name: _step(name, step, config, made, classes, places)
        for name, step in config.steps.items()
    }
    trainer = Trainer(
        made,
        steps,
        sources,
        _callbacks(config, places),
        config.schedules,
        seed=config.seed,
        max_steps=config.train.max_steps,
        max_epochs=config.train.max_epochs,
        device=device,
        run=run,
        log={"every": config.log.every, "growth": config.log.growth},
        validate_epochs=config.validation.every_epochs,
        validate_steps=config.validation.every_steps,
        checkpoint_epochs=config.checkpoint.every_epochs,
        checkpoint_steps=config.checkpoint.every_steps,
        config=loaded.resolved,
    )
    check_keys(trainer, config, places)
    return trainer


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


def check_keys(trainer: Trainer, config: Config, places: Places) -> None:
    """Check that every key of the state that is read has been written, and written once.

    What comes after a step of Python code is not checked: it may write anything.

    Raises:
        ConfigError: A key that nothing writes, or one that two write.
    """
    split = "train" if "train" in trainer.data else next(iter(trainer.data))
    with _at(places, "data", split):
        writers = dict.fromkeys(trainer.data[split].peek(), f"the data {split!r}")
    for name, step in trainer.steps.items():
        if not isinstance(step, Step):
            return
        for key, spec in config.steps[name].injectors.items():
            path = ("steps", name, "injectors", key)
            _check_read(_listed(spec.inputs), writers, places, (*path, "in"))
            for out in _listed(spec.outputs or key):
                if out in writers and not spec.overwrite:
                    raise ConfigError(
                        places.say(
                            (*path, "out"),
                            f"it writes {out!r}, which {writers[out]} has written already; choose "
                            "another `out`, or say `overwrite: true`.",
                        )
                    )
                writers[out] = f"injector {key!r} of step {name!r}"
        for key, term in step.losses.items():
            path = ("steps", name, "losses", key)
            for argument, read in term.loss.inputs.items():
                _check_read([read], writers, places, (*path, argument))
            writers[f"loss/{name}/{key}"] = writers[f"instances/{name}/{key}"] = f"loss {key!r}"
        writers[f"loss/{name}/total"] = f"step {name!r}"
    for name, metric in config.metrics.items():
        for argument in ("input", "target"):
            if argument in metric.arguments:
                _check_read(
                    [metric.arguments[argument]], writers, places, ("metrics", name, argument)
                )


def _check_read(
    keys: Iterable[str], writers: Mapping[str, str], places: Places, path: tuple[str, ...]
) -> None:
    for key in keys:
        if key not in writers:
            raise ConfigError(
                places.say(
                    path,
                    f"it reads {key!r}, which neither the data nor anything before it writes."
                    f"{did_you_mean(key, writers)}",
                )
            )


def _listed(keys: Any) -> list[str]:
    return [] if keys is None else [keys] if isinstance(keys, str) else list(keys)


@contextmanager
def _at(places: Places, *path: str) -> Iterator[None]:
    """Put the place in front of what goes wrong while something of the config is made."""
    try:
        yield
    except _Placed:
        raise
    except DNIError as err:
        raise _Placed(places.say(path, str(err))) from err
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as err:
        raise _Placed(places.say(path, f"it could not be made: {err}.")) from err


class _Placed(ConfigError):
    """An error that names its place already."""


def _check_arguments(
    entry: Callable[..., Any],
    given: Mapping[str, Any],
    places: Places,
    path: tuple[str, ...],
    *,
    known: Iterable[str] = (),
    ours: Iterable[str] = (),
) -> None:
    """Refuse arguments that a class or function does not take, and ask for those it needs.

    Args:
        entry: The class or function.
        given: Its arguments.
        places: Where they were written.
        path: The block they are in.
        known: Keys of the block that are ours, for the nearest name.
        ours: Arguments of `entry` that we give.

    Raises:
        ConfigError: An argument too many, or one too few.
    """
    try:
        parameters = inspect.signature(entry).parameters
    except (TypeError, ValueError):  # some classes of C have no signature
        return
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in ours
    }
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in named and not takes_all:
            kind = getattr(entry, "__name__", str(entry))
            hint = did_you_mean(key, [*named, *known])
            message = f"`{kind}` has no such argument.{hint}"
            raise _Placed(places.say((*path, key), message))
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in given:
            message = f"the argument `{key}` is missing."
            raise _Placed(places.say(path, message))


def _made(registry: Registry, spec: Typed, places: Places, *path: str) -> Any:
    with _at(places, *path):
        entry = registry.find(spec.type)
        _check_arguments(entry, spec.arguments, places, path)
        return entry(**spec.arguments)


def _source(name: str, spec: DataConfig, places: Places) -> Source:
    own = {key: getattr(spec, key) for key in type(spec).model_fields if key != "type"}
    given = {key: value for key, value in own.items() if value is not None}
    with _at(places, "data", name):
        return make_source(spec.type, **given, **spec.arguments)


def _network(name: str, spec: Typed, places: Places) -> nn.Module:
    network = _made(NETWORKS, spec, places, "networks", name)
    if not isinstance(network, nn.Module):
        message = f"{spec.type!r} made a {type(network).__name__}; a torch module is needed."
        raise ConfigError(places.say(("networks", name), message))
    return network


def _step(
    name: str,
    spec: StepConfig,
    config: Config,
    made: Mapping[str, nn.Module],
    classes: int | None,
    places: Places,
) -> BaseStep:
    path = ("steps", name)
    for trained in spec.training:
        if trained not in made:
            message = f"there is no network {trained!r}.{did_you_mean(trained, made)}"
            raise ConfigError(places.say((*path, "training"), message))
    if spec.type is not None:
        return _python_step(name, spec, config, made, classes, places)
    for key, injector in spec.injectors.items():
        where = (*path, "injectors", key)
        with _at(places, *where):
            entry = INJECTORS.find(injector.type)
        # A plain function is given the values of `in` first, whatever its parameters are called.
        read = _listed(injector.inputs) if not inspect.isclass(entry) else []
        first = list(inspect.signature(entry).parameters)[: len(read)]
        known = [field.alias or key for key, field in type(injector).model_fields.items()]
        _check_arguments(entry, injector.arguments, places, where, known=known, ours=first)
        called = injector.arguments.get("network")
        if "network" in injector.arguments and called not in made:
            message = (
                f"`network` is {called!r}, which is not there.{did_you_mean(str(called), made)}"
            )
            raise ConfigError(places.say((*where, "network"), message))
    for key, loss in spec.losses.items():
        where = (*path, "losses", key)
        with _at(places, *where):
            _check_arguments(
                LOSSES.find(loss.type), loss.arguments, places, where, known=type(loss).model_fields
            )
    strategy = _strategy(name, spec, config, made, classes, places)
    with _at(places, *path):
        return Step(
            name,
            training=spec.training,
            strategy=strategy,
            injectors={key: _plain(value) for key, value in spec.injectors.items()},
            losses={key: _plain(value) for key, value in spec.losses.items()},
            accumulate=spec.accumulate,
            keep=spec.keep,
            every=spec.every,
            after=spec.after,
            before=spec.before,
            requires=spec.requires,
            step_outputs=spec.step_outputs,
        )


def _plain(spec: Typed) -> dict[str, Any]:
    """A block as its own keys and values; `out` alone may be left out."""
    values = spec.model_dump(by_alias=True)
    if values.get("out", ...) is None:
        del values["out"]
    return values


def _strategy(
    name: str,
    spec: StepConfig,
    config: Config,
    made: Mapping[str, nn.Module],
    classes: int | None,
    places: Places,
) -> Strategy | None:
    if not spec.training:
        return None
    chosen: StrategyConfig | None = spec.optimizer or config.optimizer
    path = ("steps", name, "optimizer") if spec.optimizer is not None else ("optimizer",)
    if chosen is None:
        message = "it trains and has no optimizer; add `optimizer: {type: adamw, lr: 1e-3}`."
        raise ConfigError(places.say(("steps", name), message))
    with _at(places, *path):
        return make_strategy(
            {"type": chosen.type, **chosen.arguments},
            {trained: made[trained] for trained in spec.training},
            precision=config.precision,
            clip=spec.clip,
            num_classes=classes,
        )


def _python_step(
    name: str,
    spec: StepConfig,
    config: Config,
    made: Mapping[str, nn.Module],
    classes: int | None,
    places: Places,
) -> BaseStep:
    """A step by import path: a `BaseStep`, a class with ``step_op``, or a function."""
    path = ("steps", name)
    assert spec.type is not None
    with _at(places, *path):
        entry = import_path(spec.type, what="step")
        if inspect.isclass(entry):
            shared: dict[str, Any] = {
                "name": name,
                "training": spec.training,
                "networks": dict(made),
            }
            wanted = inspect.signature(entry).parameters
            ours = {key: value for key, value in shared.items() if key in wanted}
            if issubclass(entry, BaseStep) and "strategy" in wanted:
                ours["strategy"] = _strategy(name, spec, config, made, classes, places)
            _check_arguments(
                entry, spec.arguments, places, (*path, "arguments"), ours=[*ours, "strategy"]
            )
            step: Any = entry(**ours, **spec.arguments)
            if isinstance(step, BaseStep):
                return step
            if len(spec.training) != 1 or not hasattr(step, "step_op"):
                raise ConfigError(
                    f"{spec.type!r} must be a function, a subclass of `BaseStep`, or a class with "
                    "a method `step_op` and one network in `training`."
                )
            return StepOp(name, step, model=spec.training[0], training=spec.training)
        strategy = _strategy(name, spec, config, made, classes, places)
        function = partial(entry, **spec.arguments) if spec.arguments else entry
        return FunctionStep(name, function, training=spec.training, strategy=strategy)


def _callbacks(config: Config, places: Places) -> list[Callback]:
    log, saving = config.log, config.checkpoint
    wanted: list[tuple[str, dict[str, Any]]] = [("sanity", {}), ("stop_on_nan", {})]
    with _at(places, "metrics"):
        metrics = {
            name: {"type": spec.type, **spec.arguments} for name, spec in config.metrics.items()
        }
        wanted.append(("metrics", {"metrics": metrics}))
    wanted.append(("dni_statistics", {}))
    if log.csv:
        wanted.append(("csv", {}))
    if log.tensorboard:
        wanted.append(("tensorboard", {}))
    if log.images is not None:
        wanted.append(("images", log.images.model_dump()))
    if config.ema is not None:
        wanted.append(("ema", config.ema.model_dump()))
    wanted.append(("progress", {"bar": None if log.progress else False}))
    options = saving.model_dump(exclude={"every_epochs", "every_steps"})
    wanted.append(("checkpoint", options))
    own = {spec.type for spec in config.callbacks}
    made: list[Callback] = []
    for name, arguments in wanted:
        if name in CALLBACKS and name not in own:
            with _at(places, {"csv": "log", "images": "log"}.get(name, name)):
                made.append(CALLBACKS[name](**arguments))
    for index, spec in enumerate(config.callbacks):
        made.append(_made(CALLBACKS, spec, places, "callbacks", str(index)))
    return made
