"""Synthetic gradients from beyond the window of a recurrent network, as a strategy."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, did_you_mean
from ..metered import Statistics
from ..seam import SITE
from ..temporal import TemporalDNI
from .backprop import Backprop
from .optimization import Networks
from .registry import STRATEGIES, import_path
from .state import State
from .strategies import another_optimizer

_OURS = {"network", "optim", "update", "clip", "grad_scaler"}


@STRATEGIES.register("temporal_dni")
class TemporalDNIStrategy(Backprop):
    """Truncated backpropagation that sees beyond its window: every argument of `TemporalDNI`.

    The recurrent network is called by the injector `recurrent`, which hands its state from window
    to window; what surrounds it learns by backpropagation.

    Args:
        networks: What it trains, by name.
        network: Name of the recurrent one; ``None`` where there is no other.
        optim: Optimizer of all of them: ``{type: adamw, lr: 1e-3}`` as for `Backprop`, or a name;
            ``None`` is Adam.
        context: Key of the state with what the synthesizer may see beside the network's state:
            classes ``[B]`` or features ``[B, D]``.
        context_size: Classes or features of it; ``None``: the features of the first window.
        shrink: Whether synthetic gradients are shortened by the slope of their target on them
            lately, from 0 to 1, which takes out what is noise.
        num_classes: Number of classes of the data; what ``context_size`` is for classes.
        precision: See `Strategy`.
        clip: See `Strategy`. The synthesizer, whose targets have a scale of their own, is not
            clipped: where 1 suits the model (characters, 8 symbols ahead, 300 updates) clipping it
            too gives a cosine of 0.26 in the place of 0.34.
        scheduler: See `Strategy`.
        compile: Whether what the synthesizer computes is compiled, see `TemporalDNI.compile`; or
            options of the compiler, ``{options: {...}}``.
        **options: Arguments of `TemporalDNI`; ``synthesizer`` may also be an import path.

    Raises:
        ConfigError: An argument that `TemporalDNI` has not, or no such network.

    Example:
        >>> strategy = TemporalDNIStrategy({"net": nn.LSTM(3, 8)}, optim="sgd", scale=1.0)
        >>> type(strategy.wrap("net")).__name__
        'TemporalDNI'
    """

    def __init__(
        self,
        networks: Networks,
        *,
        network: str | None = None,
        optim: str | Mapping[str, Any] | None = None,
        context: str | None = None,
        context_size: int | None = None,
        shrink: bool = False,
        num_classes: int | None = None,
        precision: str = "float32",
        clip: float | None = None,
        scheduler: Mapping[str, Any] | None = None,
        compile: bool | Mapping[str, Any] = False,
        **options: Any,
    ) -> None:
        spec = dict(optim) if isinstance(optim, Mapping) else {"type": optim or "adam"}
        if "compile" in spec:
            raise ConfigError("`optim` has no `compile`; write it beside `optim`.")
        self._compiling = _compile_options(compile)
        super().__init__(
            networks,
            optimizer=spec.pop("type", "adam"),
            precision=precision,
            clip=clip,
            scheduler=scheduler,
            **spec,
        )
        taken = set(inspect.signature(TemporalDNI).parameters) - _OURS
        for name in options:
            if name not in taken:
                hint = did_you_mean(name, {*taken, "network", "optim", "context", "shrink"})
                raise ConfigError(f"The strategy 'temporal_dni' has no argument {name!r}.{hint}")
        self.recurrent = self._find(network)
        synthesizer = options.get("synthesizer")
        if isinstance(synthesizer, str) and ("." in synthesizer or ":" in synthesizer):
            options["synthesizer"] = import_path(synthesizer, what="synthesizer")
        if context is None and context_size is not None:
            raise ConfigError(
                f"`context_size` is {context_size} and there is no `context`; name the key of "
                "the state that the synthesizer sees."
            )
        self.context_key, self.shrink, self._num_classes = context, shrink, num_classes
        self._state: State | None = None
        self._options = {**options, "grad_scaler": self.scaler}
        self._is_sized = context is None or context_size is not None
        self._make(context_size if self._is_sized else num_classes or 1)

    def _find(self, network: str | None) -> str:
        if network is None and len(self.networks) > 1:
            raise ConfigError(
                f"The step trains {list(self.networks)}; say which one is recurrent: "
                "`network: NAME`."
            )
        name = next(iter(self.networks)) if network is None else network
        if name not in self.networks:
            hint = did_you_mean(name, self.networks)
            raise ConfigError(f"`network` is {name!r}, which the step does not train.{hint}")
        return name

    def _make(self, context_size: int | None) -> None:
        network = self.networks[self.recurrent]
        self.wrapper = TemporalDNI(
            network, update="manual", context_size=context_size, **self._options
        )
        if self._compiling is not None:
            self.wrapper.compile(**self._compiling)
        self._scale = self.wrapper.scale

    def _fit(self, context: Tensor) -> None:
        """Make room for a context whose size nobody told, before the first window."""
        self._is_sized = True
        size = context.shape[-1] if context.is_floating_point() else self._num_classes
        if size is None:
            raise ConfigError(
                f"`context: {self.context_key}` has classes, and neither `context_size` nor the "
                "data (`num_classes`) tells how many."
            )
        if size != self.wrapper.interfaces.context_size:
            self._make(size)

    # -- one update ------------------------------------------------------------------------

    def wrap(self, name: str) -> nn.Module:
        """The network; the recurrent one with its interface."""
        return self.wrapper if name == self.recurrent else self.networks[name]

    def called(self, name: str, method: str | None = None) -> Any:
        """The network; the recurrent one with its interface and what the synthesizer may see."""
        if name != self.recurrent or method is not None:
            return self.networks[name]
        context = self._seen()
        self._shrink()
        return _Window(self.wrapper, context)

    @contextmanager
    def context(self, state: State) -> Iterator[None]:
        """The values of the batch, among which is what the synthesizer may see.

        It is read when the network is called, so an injector of the step may write it.
        """
        self._state = state
        try:
            yield
        finally:
            self._state = None

    def _seen(self) -> Tensor | None:
        if self.context_key is None or self._state is None:
            return None
        by = "strategy 'temporal_dni' (`context`)"
        value: Tensor = self._state.read(self.context_key, by=by)
        if not self._is_sized:
            self._fit(value)
        return value

    def _shrink(self) -> None:
        """Set the factor on synthetic gradients to the slope of their target on them."""
        if not self.shrink:
            return
        slope = 0.0
        if (now := self.wrapper.statistics().get(SITE)) and now["synthetic_norm"]:
            slope = now["cosine"] * now["true_norm"] / now["synthetic_norm"]
        self.wrapper.scale = self._scale * min(max(slope, 0.0), 1.0)

    def zero_grad(self) -> None:
        """Clear the gradients of networks and synthesizer."""
        super().zero_grad()
        if self.wrapper.synthesizer_optimizer is not None:
            self.wrapper.synthesizer_optimizer.zero_grad()

    def hold(self) -> None:
        """Step the synthesizer, which learns from every window."""
        self.wrapper.step(network=False)

    def step(self) -> None:
        """Step the synthesizer; clip and step the networks."""
        self.wrapper.step(network=False)  # first: the scale of the loss is still that of backward
        super().step()

    # -- values by path, statistics, saving ------------------------------------------------

    def set(self, name: str, value: float) -> None:
        """Set ``"lr"``, ``"scale"`` or ``"grad_lr"``, the synthesizer's learning rate."""
        if name == "lr":
            super().set(name, value)
        elif name == "scale":
            self._options["scale"] = self._scale = self.wrapper.scale = value
        elif name == "grad_lr":
            self._options["grad_lr"] = value
            optimizer = self.wrapper.synthesizer_optimizer
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = value
        else:
            raise ConfigError(f"`TemporalDNI` has no {name!r}; it has 'lr', 'grad_lr' and 'scale'.")

    def statistics(self) -> dict[str, Statistics]:
        """How well the synthesizer predicts, of the one site ``state``."""
        return self.wrapper.statistics()

    def state_dict(self) -> dict[str, Any]:
        """As `Strategy.state_dict`, with the interface."""
        size = self.wrapper.interfaces.context_size
        window = {"wrapper": self.wrapper.training_state(), "context_size": size}
        return {**super().state_dict(), **window}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Strategy.check_state_dict`; a synthesizer has to be there, too."""
        if "wrapper" not in state:
            raise another_optimizer("it has no synthesizer")
        super().check_state_dict(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.check_state_dict(state)
        if not self._is_sized and state["context_size"] != self.wrapper.interfaces.context_size:
            self._make(state["context_size"])
        self.wrapper.load_training_state(state["wrapper"])
        # A context of another size is then an error, and no reason to make another synthesizer.
        self._is_sized = self._is_sized or len(self.wrapper.interfaces.values()) > 0
        super().load_state_dict(state)


def _compile_options(given: bool | Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of `TemporalDNI.compile`; ``None`` where nothing is to be compiled."""
    if isinstance(given, bool):
        return {} if given else None
    if not isinstance(given, Mapping) or set(given) - {"options"}:
        raise ConfigError(
            f"`compile` is {given!r}; true, false or {{options: {{...}}}} are what 'temporal_dni' "
            "takes: its recurrent network is not compiled, only what the synthesizer computes."
        )
    return dict(given)


class _Window:
    """A recurrent network with its interface, as the injector calls it."""

    def __init__(self, wrapper: TemporalDNI, context: Tensor | None) -> None:
        self._wrapper, self._context = wrapper, context
        self.end_episode = wrapper.end_episode

    def __call__(self, input: Any, state: Any = None) -> tuple[Any, Any]:
        return self._wrapper(input, state, context=self._context)  # type: ignore[no-any-return]
