"""`Strategy`: who steps what, when; and strategies made from what a config says of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import CheckpointError, ConfigError, did_you_mean
from ..metered import Statistics
from ..optimizers import OPTIMIZERS
from .optimization import Networks, make_scheduler
from .registry import STRATEGIES, import_path
from .state import State

Gradients = Mapping[str, Mapping[str, Tensor]]
"""Gradients by network and parameter."""
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Strategy:
    """Updates networks from losses; a user's own is a subclass and ``@STRATEGIES.register``.

    Args:
        networks: What it trains, by name.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (autocast; the last one with a
            gradient scaler).
        clip: Largest norm of the gradients of each network; ``None`` for no clipping.
        scheduler: A scheduler of ``torch.optim.lr_scheduler``, ``{type: name, ...}``; it steps
            once after every update.
        compile: Whether its networks are compiled where they are trained: arguments of
            ``torch.compile`` such as ``{backend: aot_eager}``, or ``True`` for its defaults.

    Attributes:
        optimizers: The optimizers by name, whose learning rate ``set("lr", …)`` sets.
        accumulates: Whether gradients of several chunks may be summed before a step.
        updates_at_once: Why those of several batches cannot be; empty where they can.
    """

    accumulates = True
    updates_at_once = ""

    def __init__(
        self,
        networks: Networks,
        *,
        precision: str = "float32",
        clip: float | None = None,
        scheduler: Mapping[str, Any] | None = None,
        compile: bool | Mapping[str, Any] = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"`precision` is {precision!r}.{did_you_mean(precision, PRECISIONS)}")
        if clip is not None and not (isinstance(clip, int | float) and clip > 0):
            raise ConfigError(f"`clip` is {clip!r}; a number above 0 is needed, or null.")
        self.networks, self.clip, self.scheduler = dict(networks), clip, scheduler
        self.dtype = PRECISIONS[precision]
        parameter = next(p for n in networks.values() for p in n.parameters())
        self.device_type = parameter.device.type
        scales = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.device_type) if scales else None
        self.optimizers: dict[str, Optimizer] = {}
        self.schedulers: dict[str, Any] = {}
        self._shares: dict[str, list[float]] = {}
        self._compiled: dict[str, nn.Module] = {}
        self._compile(compile_options(compile))

    def _compile(self, options: dict[str, Any] | None) -> None:
        """Have the networks compiled when they are trained, if there are options."""
        if options is not None:
            for name, network in self.networks.items():
                self._compiled[name] = torch.compile(network, **options)  # type: ignore[assignment]

    def _schedule(self) -> None:
        """Make schedulers, and note how group learning rates relate; optimizers are there now."""
        for name, optimizer in self.optimizers.items():
            base = optimizer.defaults.get("lr") or 1.0
            rates = [float(group.get("lr", base)) / float(base) for group in optimizer.param_groups]
            self._shares[name] = rates
            if self.scheduler is not None:
                self.schedulers[name] = make_scheduler(self.scheduler, optimizer)

    # -- one update ------------------------------------------------------------------------

    def wrap(self, name: str) -> nn.Module:
        """What a step that trains the network calls in its place."""
        return self._compiled.get(name, self.networks[name])

    def called(self, name: str, method: str | None = None) -> Any:
        """What a step calls, or takes a method of, while it trains the network."""
        return self.wrap(name)

    def context(self, state: State) -> AbstractContextManager[None]:
        """What surrounds a forward pass, given the values of the batch."""
        return nullcontext()

    def paused(self) -> AbstractContextManager[None]:
        """What surrounds the use of its networks by steps that do not train them."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def zero_grad(self) -> None:
        """Clear the gradients, before the first backward of an update."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Bring gradients to the parameters. Shape of the loss ``[]``."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def hold(self) -> None:
        """Keep the gradients of this batch: those of others are added before the step."""

    def step(self) -> None:
        """Update the networks."""
        for optimizer in self.optimizers.values():
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
        if self.clip is not None:
            for network in self.networks.values():
                nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        for optimizer in self.optimizers.values():
            if self.scaler is None:
                optimizer.step()
            else:
                self.scaler.step(optimizer)
        self._after()

    def _after(self) -> None:
        has_stepped = True
        if self.scaler is not None:
            before = self.scaler.get_scale()
            self.scaler.update()
            has_stepped = self.scaler.get_scale() >= before
        if has_stepped:
            for scheduler in self.schedulers.values():
                scheduler.step()

    # -- values by path, statistics, saving ------------------------------------------------

    def set(self, name: str, value: float) -> None:
        """Set a value that a schedule gives.

        Args:
            name: ``"lr"``; groups keep the ratio to one another that they were made with.
            value: The value.

        Raises:
            ConfigError: There is no such value.
        """
        if name != "lr":
            raise ConfigError(f"`{type(self).__name__}` has no {name!r}; it has 'lr'.")
        for key, optimizer in self.optimizers.items():
            for group, share in zip(optimizer.param_groups, self._shares[key], strict=True):
                group["lr"] = value * share

    def statistics(self) -> dict[str, Statistics]:
        """How well synthesizers predict, by site; empty where there are none."""
        return {}

    def gradients(self) -> Gradients:
        """The gradients that its networks hold, by network and parameter."""
        return {
            name: {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
            for name, network in self.networks.items()
        }

    def set_gradients(self, gradients: Gradients) -> None:
        """Go on with what `gradients` gave; what is not among them is cleared."""
        for name, network in self.networks.items():
            held = gradients.get(name, {})
            for key, parameter in network.named_parameters():
                gradient = held.get(key)
                parameter.grad = None if gradient is None else gradient.to(parameter.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, but for the networks."""
        return {
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "schedulers": {k: s.state_dict() for k, s in self.schedulers.items()},
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Refuse what another strategy or optimizer saved.

        Raises:
            CheckpointError: It did.
        """
        saved = state.get("optimizers", self.optimizers)
        if saved is self.optimizers:
            return  # a strategy that saves its own
        is_other = saved.keys() != self.optimizers.keys() or any(
            _differ(saved[key], optimizer) for key, optimizer in self.optimizers.items()
        )
        if is_other:
            raise another_optimizer("its optimizer has other settings or other parameters")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for key, optimizer in self.optimizers.items():
            # Copied: torch's optimizers keep the very tensors they are given.
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][key]))
        for key, scheduler in self.schedulers.items():
            if key in state["schedulers"]:
                scheduler.load_state_dict(state["schedulers"][key])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])


def compile_options(given: bool | Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of ``torch.compile``; ``None`` where nothing is to be compiled.

    Raises:
        ConfigError: It has no such argument, or refuses its value.

    Example:
        >>> compile_options(True), compile_options({"backend": "eager"})
        ({}, {'backend': 'eager'})
    """
    if isinstance(given, bool):
        return {} if given else None
    known = set(inspect.signature(torch.compile).parameters) - {"model"}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"`compile` is {given!r}; true, false or arguments of `torch.compile` are needed, "
            "such as {mode: max-autotune}."
        )
    for name in given:
        if name not in known:
            raise ConfigError(f"`torch.compile` has no {name!r}.{did_you_mean(name, known)}")
    try:
        torch.compile(nn.Identity(), **given)  # compiles nothing yet
    except (RuntimeError, TypeError, ValueError) as err:
        first, *_ = str(err).splitlines()
        raise ConfigError(f"`torch.compile` refuses `compile: {dict(given)}`: {first}") from err
    return dict(given)


def another_optimizer(what: str) -> CheckpointError:
    """The error that a checkpoint is of another strategy."""
    return CheckpointError(
        f"The checkpoint is of a run by another optimizer: {what}. Its networks alone can be gone "
        "on from: -c FILE without -r."
    )


def _differ(saved: Mapping[str, Any], optimizer: Optimizer) -> bool:
    """Whether groups have other settings (those of another torch may have more) or sizes."""
    groups = saved["param_groups"], optimizer.param_groups
    if [len(g["params"]) for g in groups[0]] != [len(g["params"]) for g in groups[1]]:
        return True
    pairs = [(set(a), set(b)) for a, b in zip(*groups, strict=True)]
    return any(not (a <= b or b <= a) for a, b in pairs)


def make_strategy(spec: Mapping[str, Any], networks: Networks, **shared: Any) -> Strategy:
    """A strategy from ``{type: name, **arguments}``.

    Args:
        spec: ``type`` is a registered strategy, an optimizer of torch in any case (which means
            backpropagation with it), or an import path of a `Strategy` or an optimizer.
        networks: What it trains, by name.
        **shared: ``precision``, ``clip``, ``num_classes``: passed on if the strategy takes them.

    Raises:
        ConfigError: No such strategy or optimizer; arguments that it does not take.
    """
    options = {key: value for key, value in spec.items() if key != "type"}
    name = spec["type"]
    entry: Any = name
    if isinstance(name, str) and name in STRATEGIES:
        entry = STRATEGIES[name]
    elif isinstance(name, str) and name.lower() in OPTIMIZERS:
        entry = OPTIMIZERS[name.lower()]
    elif isinstance(name, str):
        if "." not in name and ":" not in name:
            known = [*STRATEGIES, *OPTIMIZERS]
            raise ConfigError(
                f"There is no optimizer or strategy {name!r}.{did_you_mean(name, known)}"
            )
        entry = import_path(name, what="optimizer")
    if inspect.isclass(entry) and issubclass(entry, Optimizer):
        options, entry = {"optimizer": entry, **options}, STRATEGIES["backprop"]
    if not (inspect.isclass(entry) and issubclass(entry, Strategy)):
        raise ConfigError(f"{name!r} is neither a `Strategy` nor a torch optimizer.")
    parameters = inspect.signature(entry).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in options:
        if key not in parameters and not free:
            raise ConfigError(f"{name!r} has no argument {key!r}.{did_you_mean(key, parameters)}")
    passed = {k: v for k, v in shared.items() if k in parameters and v is not None}
    return entry(networks, **{**passed, **options})
