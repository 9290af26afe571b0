"""Injectors: each reads keys of the state and gives values for others; those around networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from ..errors import ConfigError
from .registry import INJECTORS
from .schedules import make_schedule


class Injector:
    """Makes values of the state from others.

    Adding one is a subclass with `inject`, or a plain function of the values read, and one
    ``@INJECTORS.register("name")``. In a config ``in`` names the keys it reads and ``out`` those
    it writes; a list ``out`` needs a sequence of as many values.

    Attributes:
        network: Name of the network that it is given ahead of the values; ``None`` for none.
        needs_step: Whether it is given the number of the step, ahead of all.
        carries: Whether something goes from one batch to the next (see `enter`).
    """

    network: str | None = None
    needs_step = False
    carries = False

    def inject(self, *values: Any) -> Any:
        """The values for ``out``, from those of ``in``."""
        raise NotImplementedError

    def __call__(self, *values: Any) -> Any:
        """What `inject` returns."""
        return self.inject(*values)

    def enter(self, phase: str, batch: int) -> None:
        """Hear where the run is, ahead of each batch's values, if it ``carries``.

        Args:
            phase: Name of the phase.
            batch: Number of the batch in the epoch, or in the evaluation, from 0.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""

    def check(self, count: int, *, by: str) -> None:
        """Check that it can be given that many values.

        Args:
            count: How many keys it reads.
            by: Which injector it is, for the message.

        Raises:
            ConfigError: It takes more or fewer.
        """
        ahead = int(self.needs_step) + int(self.network is not None)
        try:
            inspect.signature(self.inject).bind(*[None] * (ahead + count))
        except TypeError as err:
            raise ConfigError(f"The {by} reads {count} keys (`in`) and cannot: {err}.") from None


@INJECTORS.register("call")
class Call(Injector):
    """Call a network on the values of ``in``.

    Args:
        network: Its name.
        method: Name of a method to call instead of the network itself.
        args: Keyword arguments with fixed values.
        grad: Whether to record the call for backward.
    """

    def __init__(
        self,
        network: str,
        method: str | None = None,
        args: Mapping[str, Any] | None = None,
        grad: bool = True,
    ) -> None:
        self.network = network
        self.method, self.args, self.grad = method, dict(args or {}), grad

    def inject(self, module: Any, *values: Any) -> Any:
        """Call it; the module comes first, given by the step."""
        call = module
        if self.method is not None:
            call = getattr(module, self.method, None)
            if not callable(call):
                raise ConfigError(f"Network {self.network!r} has no method {self.method!r}.")
        with nullcontext() if self.grad else torch.no_grad():
            return call(*values, **self.args)


@INJECTORS.register("direct")
class Direct(Injector):
    """The same value under another key."""

    def inject(self, value: Any) -> Any:
        """The value as it is."""
        return value


@INJECTORS.register("for_each")
class ForEach(Injector):
    """Another injector, on each part of the first value along an axis; results are stacked.

    Args:
        injector: What to apply: ``{type: name, ...}``, or an injector.
        dim: The axis; also that of the result.
    """

    def __init__(self, injector: Any, dim: int = 1) -> None:
        self.each = make_injector(injector)
        self.network, self.dim = self.each.network, dim
        self.method = getattr(self.each, "method", None)

    def inject(self, *values: Any) -> Any:
        """A network and then the values, or the values alone."""
        ahead, rest = (values[:1], values[1:]) if self.network is not None else ((), values)
        parts = rest[0].unbind(self.dim)
        return torch.stack([self.each(*ahead, part, *rest[1:]) for part in parts], self.dim)


@INJECTORS.register("scheduled_scalar")
class ScheduledScalar(Injector):
    """The value of a schedule at the current step.

    Args:
        schedule: A schedule, a number, or a function of the step.
    """

    needs_step = True

    def __init__(self, schedule: Any) -> None:
        self.schedule = make_schedule(schedule)

    def inject(self, step: int, *_: Any) -> float:
        """The value at that step."""
        return self.schedule(step)


class FunctionInjector(Injector):
    """A plain function as an injector; arguments beside ``in`` are fixed.

    Args:
        function: The function.
        **options: Its fixed keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.function, self.options = function, options

    def inject(self, *values: Any) -> Any:
        """What the function returns."""
        return self.function(*values, **self.options)

    def check(self, count: int, *, by: str) -> None:
        """As `Injector.check`, for the function."""
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # some functions of C have none
            return
        try:
            signature.bind(*[None] * count, **self.options)
        except TypeError as err:
            raise ConfigError(f"The {by} reads {count} keys (`in`) and cannot: {err}.") from None


def make_injector(spec: Any) -> Injector:
    """An injector from ``{type: name or import path, **arguments}``.

    Raises:
        ConfigError: No such injector, or arguments that it does not take.
    """
    if isinstance(spec, Injector):
        return spec
    options = {key: value for key, value in spec.items() if key != "type"}
    entry = INJECTORS.find(spec["type"])
    if not isinstance(entry, type):
        return FunctionInjector(entry, **options)
    try:
        made = entry(**options)
    except TypeError as err:
        raise ConfigError(f"The injector {spec['type']!r} could not be made: {err}.") from err
    if not isinstance(made, Injector):
        raise ConfigError(f"{spec['type']!r} is no `Injector`.")
    return made
