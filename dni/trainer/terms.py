"""The terms of a step: injectors and losses of a config, each with its keys and its window."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..errors import ConfigError, did_you_mean
from .injectors import Injector, make_injector
from .losses import FunctionLoss, Loss
from .registry import LOSSES
from .schedules import make_schedule
from .state import State
from .when import When

Call = Callable[[str, str | None], Any]
"""Gives a network, or the owner of one of its methods, by its name and that of the method."""


class Injection:
    """An injector of a config, with the keys it reads and writes and its window.

    Args:
        name: Its name; also the key it writes, where ``out`` does not say another.
        spec: ``{type, in, out, every, after, before, train, eval, overwrite, ...}``.

    Raises:
        ConfigError: No such injector, or it cannot be given that many values.
    """

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        options = dict(spec)
        self.name, self.by = name, f"injector {name!r}"
        self.reads = _keys(options.pop("in", None))
        out = options.pop("out", name)
        self.is_single, self.writes = isinstance(out, str), _keys(out)
        self.window = _window(options)
        self.in_training = options.pop("train", True)
        self.in_evaluation = options.pop("eval", True)
        self.overwrite = options.pop("overwrite", False)
        if "type" not in options:
            raise ConfigError(f"The {self.by} has no `type`.")
        self.injector: Injector = make_injector(options)
        self.injector.check(len(self.reads), by=self.by)

    def runs(self, step: int, *, training: bool) -> bool:
        """Whether it takes part in a step of a phase that trains, or of one that does not."""
        wanted = self.in_training if training else self.in_evaluation
        return wanted and self.window.fires(step)

    def run(self, state: State, step: int, call: Call) -> None:
        """Write its keys of the state from those it reads.

        Raises:
            ConfigError: A key that is not there, one that is there already, or another number of
                values than ``out`` has keys.
        """
        values: list[Any] = [step] if self.injector.needs_step else []
        if self.injector.network is not None:
            values.append(call(self.injector.network, getattr(self.injector, "method", None)))
        found = self.injector(*values, *(state.read(key, by=self.by) for key in self.reads))
        if self.is_single:
            found = [found]
        elif not isinstance(found, list | tuple) or len(found) != len(self.writes):
            raise ConfigError(
                f"The {self.by} writes {len(self.writes)} keys and gave "
                f"{len(found) if isinstance(found, list | tuple) else type(found).__name__}."
            )
        for key, value in zip(self.writes, found, strict=True):
            state.write(key, value, by=self.by, overwrite=self.overwrite)


class LossTerm:
    """A loss of a config, with its weight and window.

    Args:
        name: Its name.
        spec: ``{type, weight, every, after, before, closed, ...}``.

    Raises:
        ConfigError: No such loss, or arguments that it does not take.

    Attributes:
        weight: Its weight as a function of the step; a schedule may be set here.
    """

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        options = dict(spec)
        self.name, self.by = name, f"loss {name!r}"
        self.weight: Callable[[int], float] = make_schedule(options.pop("weight", 1.0))
        self.window = _window(options)
        closed = options.pop("closed", "skip")
        if closed not in ("skip", "zero"):
            raise ConfigError(f"`closed` of {self.by} is {closed!r}; 'skip' or 'zero' is needed.")
        self.closes_to_zero = closed == "zero"
        if "type" not in options:
            raise ConfigError(f"The {self.by} has no `type`.")
        self.loss = make_loss(options, by=self.by)

    def run(self, state: State, call: Call) -> Tensor:
        """The loss per sample ``[B]``, or of the batch ``[]``.

        Raises:
            ConfigError: A key that is not there, or a loss of another shape.
        """
        values = {name: state.read(key, by=self.by) for name, key in self.loss.inputs.items()}
        if self.loss.network is not None:
            values["network"] = call(self.loss.network, None)
        found = self.loss(**values)
        if not isinstance(found, Tensor) or found.dim() > 1:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"The {self.by} gave {shape}; a tensor of shape [B] or [] is needed.")
        if found.dim() and found.shape[0] != (size := state.batch_size()):
            raise ConfigError(
                f"The {self.by} gave {len(found)} numbers for a batch of {size}, the first axis of "
                f"its first tensor; one for each sample, shape [{size}], or their mean, shape [], "
                "is needed."
            )
        return found


def make_loss(spec: Mapping[str, Any], *, by: str = "loss") -> Loss:
    """A loss from ``{type: name or import path, **arguments}``.

    Of a plain function the arguments given as text are keys of the state, others are values.

    Raises:
        ConfigError: No such loss, or arguments that it does not take.
    """
    options = {key: value for key, value in spec.items() if key != "type"}
    entry: Any = LOSSES.find(spec["type"])
    try:
        known = inspect.signature(entry).parameters
    except ValueError:  # some functions of C do not tell
        known = MappingProxyType({})
    if known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in options:
            if key not in known:
                raise ConfigError(f"The {by} has no argument {key!r}.{did_you_mean(key, known)}")
    for key, parameter in known.items():
        if (
            parameter.default is parameter.empty
            and key not in options
            and (parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL))
        ):
            raise ConfigError(f"The {by} needs `{key}`.")
    if inspect.isclass(entry):
        make: Any = entry
        made: Loss = make(**options)
        return made
    keys = {key: value for key, value in options.items() if isinstance(value, str)}
    fixed = {key: value for key, value in options.items() if key not in keys}
    return FunctionLoss(functools.partial(entry, **fixed), **keys)


def _keys(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _window(options: dict[str, Any]) -> When:
    return When(**{key: options.pop(key) for key in ("every", "after", "before") if key in options})
