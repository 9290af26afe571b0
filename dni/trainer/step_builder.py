"""Makes the steps of a config: from injectors and losses, or from Python code by import path."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from ..errors import AttachmentError, ConfigError, did_you_mean
from .base_step import BaseStep
from .function_step import FunctionStep
from .making import PlacedError, at, check_arguments, parameters_of
from .places import Places
from .registry import INJECTORS, LOSSES, import_path
from .schedules import make_schedule
from .schema import Config, InjectorConfig, StepConfig, Typed
from .step_op import StepOp
from .steps import Step
from .strategies import Strategy, make_strategy
from .template_iterator import TemplateIterator


class StepBuilder:
    """Makes steps over the networks of a config.

    Args:
        config: The config.
        networks: Its networks by name.
        num_classes: Classes of its training data, where these tell.
        places: Where the keys of the config were written.
    """

    def __init__(
        self,
        config: Config,
        networks: Mapping[str, nn.Module],
        num_classes: int | None,
        places: Places,
    ) -> None:
        self.config, self.networks, self.places = config, networks, places
        self.num_classes = num_classes
        self._trained: dict[str, str] = {}

    def steps(self) -> dict[str, BaseStep]:
        """All steps, by name.

        Raises:
            ConfigError: One cannot be made, with file and line.
        """
        return {name: self._step(name, spec) for name, spec in self.config.steps.items()}

    def _step(self, name: str, spec: StepConfig) -> BaseStep:
        path = ("steps", name)
        for trained in spec.training:
            self._check_network(trained, "there is no network {!r}", *path, "training")
        if spec.type is not None:
            with at(self.places, *path):
                return self._python_step(name, spec, spec.type)
        if spec.log_op is not None:
            message = "only a class with `step_op`, named by `type`, has a `log_op`."
            raise PlacedError(self.places.say((*path, "log_op"), message))
        for key, injector in spec.injectors.items():
            self._check_injector(injector, *path, "injectors", key)
        for key, loss in spec.losses.items():
            where = (*path, "losses", key)
            with at(self.places, *where):
                entry = LOSSES.find(loss.type)
                known = type(loss).model_fields
                check_arguments(entry, loss.arguments, self.places, where, known=known)
            with at(self.places, *where, "weight"):
                make_schedule(loss.weight)
        strategy = self._strategy(name, spec)
        with at(self.places, *path):
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

    def _check_injector(self, spec: InjectorConfig, *path: str) -> None:
        with at(self.places, *path):
            entry = INJECTORS.find(spec.type)
        # A plain function is given the values of `in` first, whatever its parameters are called.
        count = 0 if inspect.isclass(entry) else len(listed(spec.inputs))
        first = list(parameters_of(entry) or ())[:count]
        known = [field.alias or key for key, field in type(spec).model_fields.items()]
        check_arguments(entry, spec.arguments, self.places, path, known=known, ours=first)
        if "network" in spec.arguments:
            called = spec.arguments["network"]
            self._check_network(called, "`network` is {!r}, which is not there", *path, "network")

    def _check_network(self, name: Any, message: str, *path: str) -> None:
        if name not in self.networks:
            hint = did_you_mean(str(name), self.networks)
            raise ConfigError(self.places.say(path, f"{message.format(name)}.{hint}"))

    def _strategy(self, name: str, spec: StepConfig) -> Strategy | None:
        if not spec.training:
            return None
        chosen = spec.optimizer or self.config.optimizer
        path = ("steps", name, "optimizer") if spec.optimizer is not None else ("optimizer",)
        if chosen is None:
            message = "it trains and has no optimizer; add `optimizer: {type: adamw, lr: 1e-3}`."
            raise PlacedError(self.places.say(("steps", name), message))
        with at(self.places, *path):
            try:
                made = make_strategy(
                    {"type": chosen.type, **chosen.arguments},
                    {trained: self.networks[trained] for trained in spec.training},
                    precision=self.config.precision,
                    clip=spec.clip,
                    num_classes=self.num_classes,
                )
            except AttachmentError as err:
                shared = next((n for n in spec.training if n in self._trained), None)
                if shared is None:
                    raise
                raise ConfigError(
                    f"the step {name!r} trains the network {shared!r}, which has the interfaces "
                    f"of step {self._trained[shared]!r} already; a network has one set of them. "
                    "Put the losses of both into one step, or give one of the two an optimizer "
                    "without interfaces."
                ) from err
        self._trained.update(dict.fromkeys(spec.training, name))
        return made

    def _python_step(self, name: str, spec: StepConfig, kind: str) -> BaseStep:
        """A step by import path: a `BaseStep`, a class with ``step_op``, or a function."""
        entry = import_path(kind, what="step")
        if not inspect.isclass(entry):
            strategy = self._strategy(name, spec)
            function = partial(entry, **spec.arguments) if spec.arguments else entry
            return FunctionStep(name, function, training=spec.training, strategy=strategy)
        if issubclass(entry, TemplateIterator):
            return self._template_iterator(name, spec, entry)
        shared: dict[str, Any] = {
            "name": name,
            "training": spec.training,
            "networks": dict(self.networks),
        }
        wanted = parameters_of(entry) or {}
        ours = {key: value for key, value in shared.items() if key in wanted}
        if issubclass(entry, BaseStep) and "strategy" in wanted:
            ours["strategy"] = self._strategy(name, spec)
        path = ("steps", name, "arguments")
        check_arguments(entry, spec.arguments, self.places, path, ours=[*ours, "strategy"])
        step: Any = entry(**ours, **spec.arguments)
        return step if isinstance(step, BaseStep) else self._step_op(name, spec, step, None)

    def _template_iterator(
        self, name: str, spec: StepConfig, entry: type[TemplateIterator]
    ) -> BaseStep:
        """A class made for edflow: all of `arguments` is its config."""
        has_optimizer = (spec.optimizer or self.config.optimizer) is not None
        strategy = self._strategy(name, spec) if has_optimizer else None
        parameters = parameters_of(entry) or {}
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        own = {"strategy": strategy} if takes_all or "strategy" in parameters else {}
        model = self.networks[spec.training[0]] if spec.training else None
        step = entry(copy.deepcopy(spec.arguments), None, model, **own)
        return self._step_op(name, spec, step, strategy)

    def _step_op(
        self, name: str, spec: StepConfig, step: Any, strategy: Strategy | None
    ) -> BaseStep:
        if len(spec.training) != 1 or not hasattr(step, "step_op"):
            raise ConfigError(
                f"{spec.type!r} must be a function, a subclass of `BaseStep`, or a class with "
                "a method `step_op` and one network in `training`."
            )
        (model,) = spec.training
        log = {} if spec.log_op is None else spec.log_op.model_dump()
        return StepOp(name, step, model=model, strategy=strategy, **log)


def listed(keys: str | list[str] | None) -> list[str]:
    """The keys that ``in`` or ``out`` names: none, one, or several."""
    return [] if keys is None else [keys] if isinstance(keys, str) else list(keys)


def _plain(spec: Typed) -> dict[str, Any]:
    """A block as its own keys and values; `out` alone may be left out."""
    values = spec.model_dump(by_alias=True)
    if values.get("out", ...) is None:
        del values["out"]
    return values
