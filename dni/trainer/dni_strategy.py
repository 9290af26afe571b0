"""Synthetic gradients as a strategy: networks with interfaces, from a config."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ..errors import ConfigError, did_you_mean
from ..metered import Statistics
from ..optimizers import parameters_of
from ..wrapper import DNI
from .blocks import blocks
from .optimization import Networks, build_optimizer
from .registry import STRATEGIES, import_path
from .state import State
from .strategies import Strategy, another_optimizer, compile_options


@STRATEGIES.register("dni")
class DNIStrategy(Strategy):
    """Decoupled neural interfaces: takes every argument of `DNI` by its name.

    Where none of ``sites``, ``recursive`` and ``skip_last_layer`` is given, the sites of a network
    are its `blocks` but the last. An interface within a block predicts from another's prediction
    and gains nothing: on digits (two hidden layers of 256, BatchNorm, critics, λ = 0, 30 epochs,
    seeds 0 to 2) every leaf gives 93.4 % accuracy, every leaf but the last 97.6, blocks with the
    last 97.2, without it 98.0, and backpropagation 98.5.

    Args:
        networks: What it trains, by name; each gets interfaces of its own.
        optim: Optimizer of the networks: ``{type: adamw, lr: 1e-3}`` as for `Backprop`, or a
            name; ``None`` as `DNI` has it.
        context: Key of the state with the labels or features that condition the synthesizers.
        num_classes: Number of classes of the data; what ``context_size`` is if not given.
        precision: See `Strategy`.
        clip: See `Strategy`; and separately of the gradients of each network's synthesizers.
        scheduler: See `Strategy`; for the optimizer of the network.
        compile: See `Strategy`; the interfaces are compiled with their network (`DNI.compile`).
        **options: Arguments of `DNI`; ``lambda`` is its λ, and ``dni_network`` may also be an
            import path, or a mapping of site names to names and import paths.

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
        compile: bool | Mapping[str, Any] = False,
        **options: Any,
    ) -> None:
        super().__init__(networks, precision=precision, clip=clip, scheduler=scheduler)
        if "lambda" in options:
            options["lambda_"] = options.pop("lambda")
        taken = set(inspect.signature(DNI).parameters) - {"network", "update", "grad_scaler"}
        for name in options:
            if name not in taken:
                hint = did_you_mean(name, (taken - {"lambda_", "λ"}) | {"lambda"})
                if name == "lr":
                    hint = " `optim: {type: adam, lr: 1e-3}` is the network's, `grad_lr` the other."
                raise ConfigError(f"The strategy 'dni' has no argument {name!r}.{hint}")
        if isinstance(synthesizers := options.get("dni_network"), str):
            options["dni_network"] = _synthesizer(synthesizers)
        elif isinstance(synthesizers, Mapping):
            options["dni_network"] = {k: _synthesizer(v) for k, v in synthesizers.items()}
        is_open = not {"sites", "recursive", "skip_last_layer"} & options.keys()
        self.is_automatic = options.get("unlock", "none") != "none"
        self.accumulates = not self.is_automatic
        if self.is_automatic:
            self.updates_at_once = "its optimizer steps during the forward pass (`unlock`)"
        elif options.get("update_probability", 1.0) != 1.0:
            self.updates_at_once = "other sites learn in each (`update_probability`)"
        self.context_key = context
        self._state: State | None = None
        self._stack, self._conditioned = ExitStack(), set[str]()
        if context is not None and options.get("context_size") is None:
            if num_classes is None:
                raise ConfigError(
                    f"`context: {context}` needs `context_size`, the number of classes or "
                    "features, because the data does not tell it (`num_classes`)."
                )
            options["context_size"] = num_classes
        compiling = compile_options(compile)
        self.wrappers: dict[str, DNI] = {}
        for name, network in networks.items():
            optimizer: Any = optim
            if isinstance(optim, Mapping):
                fixed = {key: value for key, value in optim.items() if key != "type"}
                named = optim.get("type", "adam")
                optimizer = build_optimizer(named, {name: network}, **fixed)
            inner = blocks(network)[:-1] if is_open else []
            wrapper = DNI(
                network,
                optim=optimizer,
                update="auto" if self.is_automatic else "manual",
                clip=clip,
                grad_scaler=self.scaler,
                **({"sites": inner, **options} if inner else options),
            )
            if compiling is not None:
                wrapper.compile(**compiling)
            self.wrappers[name] = wrapper
            self.optimizers[name] = wrapper.optimizer
        self._schedule()

    def wrap(self, name: str) -> nn.Module:
        """The network with its interfaces, conditioned on the context if one surrounds this."""
        wrapper = self.wrappers[name]
        if self._state is not None and name not in self._conditioned:
            assert self.context_key is not None
            value = self._state.read(self.context_key, by="strategy 'dni' (`context`)")
            self._stack.enter_context(wrapper.context(value))
            self._conditioned.add(name)
        return wrapper

    def called(self, name: str, method: str | None = None) -> Any:
        """The network with its interfaces, or its methods, each a pass of its own."""
        wrapper = self.wrap(name)
        return wrapper if method is None else _Methods(self.wrappers[name])

    @contextmanager
    def context(self, state: State) -> Iterator[None]:
        """The labels, for the synthesizers.

        They are read when a network is first called, so an injector of the step may write them.
        """
        if self.context_key is None:
            yield
            return
        with ExitStack() as stack:
            self._stack, self._state, self._conditioned = stack, state, set()
            try:
                yield
            finally:
                self._state = None

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

    def hold(self) -> None:
        """Step the synthesizers, which learn from every batch."""
        for wrapper in self.wrappers.values():
            wrapper.step(network=False)

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

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Strategy.check_state_dict`; synthesizers have to be there, too."""
        if "wrappers" not in state:
            raise another_optimizer("it has no synthesizers")
        super().check_state_dict(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.check_state_dict(state)
        for name, wrapper in self.wrappers.items():
            wrapper.load_training_state(state["wrappers"][name])
        super().load_state_dict(state)


def _synthesizer(name: Any) -> Any:
    """A registered name stays one; an import path becomes what it names."""
    is_path = isinstance(name, str) and ("." in name or ":" in name)
    return import_path(name, what="synthesizer") if is_path else name


class _Methods:
    """Methods of a network with interfaces, each run as a forward pass of the wrapper."""

    def __init__(self, wrapper: DNI) -> None:
        self._wrapper = wrapper

    def __getattr__(self, method: str) -> Any:
        bound = getattr(self._wrapper.network, method)
        return lambda *args, **kwargs: self._wrapper._crossing.run(bound, args, kwargs)
