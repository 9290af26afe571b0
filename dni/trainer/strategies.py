"""Who steps what, when: backpropagation with any torch optimizer, and synthetic gradients."""

from __future__ import annotations

import copy
import fnmatch
import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ConfigError, did_you_mean
from ..interface import Statistics
from ..optimizers import OPTIMIZERS, make_optimizer, parameters_of
from ..wrapper import DNI
from .registry import STRATEGIES, import_path
from .state import State

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

Networks = Mapping[str, nn.Module]


class Strategy:
    """Updates networks from losses; a user's own is a subclass and ``@STRATEGIES.register``.

    Args:
        networks: What it trains, by name.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (autocast; the last one with a
            gradient scaler).
        clip: Largest norm of all gradients together, ``None`` for no clipping.
        scheduler: A scheduler of ``torch.optim.lr_scheduler``, ``{type: name, ...}``; it steps
            once after every update.

    Attributes:
        optimizers: The optimizers by name, whose learning rate ``set("lr", …)`` sets.
        accumulates: Whether gradients of several chunks may be summed before a step.
    """

    accumulates = True

    def __init__(
        self,
        networks: Networks,
        *,
        precision: str = "float32",
        clip: float | None = None,
        scheduler: Mapping[str, Any] | None = None,
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

    def _schedule(self) -> None:
        """Make schedulers, and note how group learning rates relate; optimizers are there now."""
        for name, optimizer in self.optimizers.items():
            base = optimizer.defaults.get("lr") or 1.0
            rates = [float(group.get("lr", base)) / float(base) for group in optimizer.param_groups]
            self._shares[name] = rates
            if self.scheduler is not None:
                self.schedulers[name] = _make_scheduler(self.scheduler, optimizer)

    # -- one update ------------------------------------------------------------------------

    def wrap(self, name: str) -> nn.Module:
        """What a step that trains the network calls in its place."""
        return self.networks[name]

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

    def step(self) -> None:
        """Update the networks."""
        for optimizer in self.optimizers.values():
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
        if self.clip is not None:
            every = [p for o in self.optimizers.values() for p in parameters_of(o)]
            nn.utils.clip_grad_norm_(every, self.clip)
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

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, but for the networks."""
        return {
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "schedulers": {k: s.state_dict() for k, s in self.schedulers.items()},
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for key, optimizer in self.optimizers.items():
            # Copied: torch's optimizers keep the very tensors they are given.
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][key]))
        for key, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state["schedulers"][key])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])


@STRATEGIES.register("backprop")
class Backprop(Strategy):
    """Backpropagation with a torch optimizer over all networks of the step.

    Args:
        networks: What it trains, by name.
        optimizer: Name in ``torch.optim``, import path, or class.
        lr: Learning rate.
        no_decay: What gets no weight decay: ``"bias"``, ``"norm"``, ``"embedding"``, or patterns
            of ``network.parameter`` such as ``"net.head.*"``.
        groups: Further options by such a pattern: ``{"net.head.*": {"lr": 1e-4}}``; the first
            pattern that fits counts.
        precision: See `Strategy`.
        clip: See `Strategy`.
        scheduler: See `Strategy`.
        **options: Further arguments of the optimizer.

    Example:
        >>> strategy = Backprop({"net": nn.Linear(2, 1)}, optimizer="sgd", lr=0.1)
        >>> type(strategy.optimizers["optimizer"]).__name__
        'SGD'
    """

    def __init__(
        self,
        networks: Networks,
        *,
        optimizer: str | type[Optimizer] = "adamw",
        lr: float = 1e-3,
        no_decay: list[str] | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        precision: str = "float32",
        clip: float | None = None,
        scheduler: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(networks, precision=precision, clip=clip, scheduler=scheduler)
        made = build_optimizer(
            optimizer, networks, lr=lr, no_decay=no_decay, groups=groups, **options
        )
        self.optimizers["optimizer"] = made
        self._schedule()


@STRATEGIES.register("dni")
class DNIStrategy(Strategy):
    """Decoupled neural interfaces: takes every argument of `DNI` by its name.

    Args:
        networks: What it trains, by name; each gets interfaces of its own.
        optim: Optimizer of the networks: ``{type: adamw, lr: 1e-3}`` as for `Backprop`, or a
            name; ``None`` as `DNI` has it.
        context: Key of the state with the labels or features that condition the synthesizers.
        num_classes: Number of classes of the data; what ``context_size`` is if not given.
        precision: See `Strategy`.
        clip: Largest norm of the gradients of each network, and of its synthesizers.
        scheduler: See `Strategy`; for the optimizer of the network.
        **options: Arguments of `DNI`; ``lambda`` is its λ.

    Raises:
        ConfigError: An argument that `DNI` has not.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        optim: str | Mapping[str, Any] | None = None,
        context: str | None = None,
        num_classes: int | None = None,
        precision: str = "float32",
        clip: float | None = None,
        scheduler: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(networks, precision=precision, clip=clip, scheduler=scheduler)
        if "lambda" in options:
            options["lambda_"] = options.pop("lambda")
        taken = set(inspect.signature(DNI).parameters) - {"network", "update", "grad_scaler"}
        for name in options:
            if name not in taken:
                hint = did_you_mean(name, (taken - {"lambda_", "λ"}) | {"lambda"})
                raise ConfigError(f"The strategy 'dni' has no argument {name!r}.{hint}")
        self.is_automatic = options.get("unlock", "none") != "none"
        self.accumulates = not self.is_automatic
        self.context_key = context
        if context is not None and options.get("context_size") is None:
            if num_classes is None:
                raise ConfigError(
                    f"`context: {context}` needs `context_size`, the number of classes or "
                    "features, because the data does not tell it (`num_classes`)."
                )
            options["context_size"] = num_classes
        self.wrappers: dict[str, DNI] = {}
        for name, network in networks.items():
            optimizer: Any = optim
            if isinstance(optim, Mapping):
                fixed = {key: value for key, value in optim.items() if key != "type"}
                named = optim.get("type", "adam")
                optimizer = build_optimizer(named, {name: network}, **fixed)
            wrapper = DNI(
                network,
                optim=optimizer,
                update="auto" if self.is_automatic else "manual",
                clip=clip,
                grad_scaler=self.scaler,
                **options,
            )
            self.wrappers[name] = wrapper
            self.optimizers[name] = wrapper.optimizer
        self._schedule()

    def wrap(self, name: str) -> nn.Module:
        """The network with its interfaces."""
        return self.wrappers[name]

    def context(self, state: State) -> AbstractContextManager[None]:
        """The labels, for the synthesizers."""
        return nullcontext() if self.context_key is None else self._context(state)

    @contextmanager
    def _context(self, state: State) -> Iterator[None]:
        assert self.context_key is not None
        value = state.read(self.context_key, by="strategy 'dni' (`context`)")
        with ExitStack() as stack:
            for wrapper in self.wrappers.values():
                stack.enter_context(wrapper.context(value))
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No interface is passed."""
        with ExitStack() as stack:
            for wrapper in self.wrappers.values():
                stack.enter_context(wrapper.paused())
            yield

    def zero_grad(self) -> None:
        """Clear the gradients of networks and synthesizers."""
        super().zero_grad()
        for wrapper in self.wrappers.values():
            if wrapper.synthesizer_optimizer is not None:
                wrapper.synthesizer_optimizer.zero_grad()

    def step(self) -> None:
        """Clip, step the networks and step the synthesizers; nothing under update unlocking."""
        for wrapper in self.wrappers.values():
            if self.is_automatic:
                continue
            if self.scaler is not None:
                self.scaler.unscale_(wrapper.optimizer)
                if self.clip is not None:
                    nn.utils.clip_grad_norm_(parameters_of(wrapper.optimizer), self.clip)
                self.scaler.step(wrapper.optimizer)
            wrapper.step(network=self.scaler is None)
        self._after()

    def set(self, name: str, value: float) -> None:
        """Set ``"lr"``, ``"lambda"`` or ``"grad_lr"``, the synthesizers' learning rate."""
        for wrapper in self.wrappers.values():
            if name in ("lambda", "λ", "lambda_"):
                if wrapper.λ != value:
                    wrapper.λ = value
            elif name == "grad_lr":
                if wrapper.synthesizer_optimizer is not None:
                    wrapper.synthesizer_optimizer.param_groups[0]["lr"] = value
            elif name != "lr":
                raise ConfigError(f"`DNI` has no {name!r}; it has 'lr', 'lambda' and 'grad_lr'.")
        if name == "lr":
            super().set(name, value)

    def statistics(self) -> dict[str, Statistics]:
        """By site; with several networks by ``network.site``."""
        if len(self.wrappers) == 1:
            return next(iter(self.wrappers.values())).statistics()
        every = ((n, w.statistics()) for n, w in self.wrappers.items())
        return {f"{name}.{site}": found for name, sites in every for site, found in sites.items()}

    def state_dict(self) -> dict[str, Any]:
        """As `Strategy.state_dict`, with the interfaces."""
        wrappers = {name: wrapper.training_state() for name, wrapper in self.wrappers.items()}
        return {**super().state_dict(), "wrappers": wrappers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, wrapper in self.wrappers.items():
            wrapper.load_training_state(state["wrappers"][name])
        super().load_state_dict(state)


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
        options, entry = {"optimizer": entry, **options}, Backprop
    if not (inspect.isclass(entry) and issubclass(entry, Strategy)):
        raise ConfigError(f"{name!r} is neither a `Strategy` nor a torch optimizer.")
    parameters = inspect.signature(entry).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in options:
        if key not in parameters and not free:
            raise ConfigError(f"{name!r} has no argument {key!r}.{did_you_mean(key, parameters)}")
    passed = {k: v for k, v in shared.items() if k in parameters and v is not None}
    return entry(networks, **{**passed, **options})


def build_optimizer(
    spec: str | type[Optimizer],
    networks: Networks,
    *,
    lr: float = 1e-3,
    no_decay: list[str] | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Optimizer:
    """A torch optimizer over the trainable parameters of networks; see `Backprop`.

    Raises:
        ConfigError: No such optimizer, an argument it does not take, or a pattern nothing fits.
    """
    kind: Any = spec
    if isinstance(spec, str) and spec.lower() in OPTIMIZERS:
        kind = OPTIMIZERS[spec.lower()]
    elif isinstance(spec, str) and ("." in spec or ":" in spec):
        kind = import_path(spec, what="optimizer")
    if inspect.isclass(kind):
        known = inspect.signature(kind).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for key in options:
            if key not in known and not free:
                hint = did_you_mean(key, set(known) - {"params"} | {"no_decay", "groups"})
                raise ConfigError(f"`{kind.__name__}` has no argument {key!r}.{hint}")
        chosen: Any = kind
        kind = lambda params: chosen(params, lr=lr, **options)  # noqa: E731
    return make_optimizer(
        kind, _groups(networks, no_decay or [], groups or {}), lr=lr, argument="optimizer"
    )


def _groups(
    networks: Networks, no_decay: list[str], groups: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    found: dict[tuple[str | None, bool], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    unused = {*groups, *no_decay} - {"bias", "norm", "embedding"}
    for network, module in networks.items():
        owners = dict(module.named_modules())
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            path = f"{network}.{name}"
            owner = owners[name.rpartition(".")[0]]
            kinds = {"bias"} if name.rpartition(".")[2].startswith("bias") else set()
            kinds |= {"norm"} if "Norm" in type(owner).__name__ else set()
            kinds |= {"embedding"} if isinstance(owner, nn.Embedding | nn.EmbeddingBag) else set()
            free = [p for p in no_decay if p in kinds or fnmatch.fnmatch(path, p)]
            group = next((p for p in groups if fnmatch.fnmatch(path, p)), None)
            unused -= {*free, *([] if group is None else [group])}
            found.setdefault((group, bool(free)), []).append(parameter)
    if unused:
        raise ConfigError(
            f"No trainable parameter fits {', '.join(map(repr, sorted(unused)))}; patterns are "
            "of `network.parameter`, such as 'net.head.*'."
        )
    return [
        {
            "params": params,
            **(groups[g] if g is not None else {}),
            **({"weight_decay": 0.0} if free else {}),
        }
        for (g, free), params in found.items()
    ]


def _make_scheduler(spec: Mapping[str, Any], optimizer: Optimizer) -> Any:
    known = {
        name: kind
        for name, kind in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.lr_scheduler.LRScheduler)
    }
    name = spec["type"]
    if name not in known and "." not in name and ":" not in name:
        raise ConfigError(f"There is no LR scheduler {name!r}.{did_you_mean(name, known)}")
    kind = known[name] if name in known else import_path(name, what="LR scheduler")
    options = {key: value for key, value in spec.items() if key != "type"}
    try:
        return kind(optimizer, **options)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"The LR scheduler {name!r} could not be made: {err}.") from err
