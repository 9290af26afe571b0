"""What one batch does: injectors, losses, backward and a strategy, from a config or a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from .injectors import Injector, make_injector
from .losses import FunctionLoss, Loss
from .registry import LOSSES
from .state import State, detached
from .strategies import DNIStrategy, Strategy


@dataclass(frozen=True)
class Window:
    """When something takes part: ``after <= step <= before``, every so many steps from ``after``.

    Example:
        >>> [step for step in range(8) if Window(every=2, after=1, before=5).is_open(step)]
        [1, 3, 5]
    """

    every: int = 1
    after: int = 0
    before: int | None = None

    def is_inside(self, step: int) -> bool:
        """Whether a step is between ``after`` and ``before``, both included."""
        return self.after <= step and (self.before is None or step <= self.before)

    def is_open(self, step: int) -> bool:
        """Whether it takes part in a step."""
        return self.is_inside(step) and (step - self.after) % self.every == 0


_WINDOW = ("every", "after", "before")


def _keys(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


class _Injection:
    """An injector of a config, with the keys it reads and writes and its window."""

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        options = dict(spec)
        self.by = f"injector {name!r}"
        self.reads = _keys(options.pop("in", None))
        out = options.pop("out", name)
        self.is_single, self.writes = isinstance(out, str), _keys(out)
        self.window = Window(**{key: options.pop(key) for key in _WINDOW if key in options})
        self.in_training = options.pop("train", True)
        self.in_evaluation = options.pop("eval", True)
        self.overwrite = options.pop("overwrite", False)
        if "type" not in options:
            raise ConfigError(f"The {self.by} has no `type`.")
        self.injector: Injector = make_injector(options)
        self.injector.check(len(self.reads), by=self.by)

    def run(self, state: State, step: int, call: Callable[[str, str | None], Any]) -> list[str]:
        values: list[Any] = [step] if self.injector.needs_step else []
        if self.injector.network is not None:
            values.append(call(self.injector.network, getattr(self.injector, "method", None)))
        found = self.injector(*values, *(state.read(key, by=self.by) for key in self.reads))
        if self.is_single:
            state.write(self.writes[0], found, by=self.by, overwrite=self.overwrite)
        else:
            if not isinstance(found, list | tuple) or len(found) != len(self.writes):
                raise ConfigError(
                    f"The {self.by} writes {len(self.writes)} keys and gave "
                    f"{len(found) if isinstance(found, list | tuple) else type(found).__name__}."
                )
            for key, value in zip(self.writes, found, strict=True):
                state.write(key, value, by=self.by, overwrite=self.overwrite)
        return self.writes


class LossTerm:
    """A loss of a config, with its weight and window.

    Attributes:
        weight: Its weight as a function of the step; a schedule may be set here.
    """

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        options = dict(spec)
        self.name, self.by = name, f"loss {name!r}"
        self.weight = _weight(options.pop("weight", 1.0))
        self.window = Window(**{key: options.pop(key) for key in _WINDOW if key in options})
        closed = options.pop("closed", "skip")
        if closed not in ("skip", "zero"):
            raise ConfigError(f"`closed` of {self.by} is {closed!r}; 'skip' or 'zero' is needed.")
        self.closes_to_zero = closed == "zero"
        if "type" not in options:
            raise ConfigError(f"The {self.by} has no `type`.")
        self.loss = make_loss(options, by=self.by)

    def run(self, state: State, call: Callable[[str, str | None], Any]) -> Tensor:
        """The loss per sample ``[B]``, or of the batch ``[]``."""
        values = {name: state.read(key, by=self.by) for name, key in self.loss.inputs.items()}
        if self.loss.network is not None:
            values["network"] = call(self.loss.network, None)
        found = self.loss(**values)
        if not isinstance(found, Tensor) or found.dim() > 1:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"The {self.by} gave {shape}; a tensor of shape [B] or [] is needed.")
        return found


def make_loss(spec: Mapping[str, Any], *, by: str = "loss") -> Loss:
    """A loss from ``{type: name or import path, **arguments}``.

    Of a plain function the arguments given as text are keys of the state, others are values.

    Raises:
        ConfigError: No such loss, or arguments that it does not take.
    """
    options = {key: value for key, value in spec.items() if key != "type"}
    entry: Any = LOSSES.find(spec["type"])
    known = inspect.signature(entry).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
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


def _weight(spec: Any) -> Callable[[int], float]:
    if isinstance(spec, int | float) and not isinstance(spec, bool):
        return lambda _: float(spec)
    if callable(spec):
        return spec  # type: ignore[no-any-return]
    from .schedules import make_schedule

    made: Callable[[int], float] = make_schedule(spec)
    return made


class BaseStep:
    """What every kind of step has: a name, networks it trains, a strategy, freezing.

    Args:
        name: Its name.
        training: Names of the networks it trains; the others are frozen while it runs.
        strategy: What updates them; ``None`` for a step that trains nothing.
    """

    def __init__(self, name: str, training: Iterable[str], strategy: Strategy | None) -> None:
        self.name, self.training, self.strategy = name, tuple(training), strategy
        if self.training and strategy is None:
            raise ConfigError(f"Step {name!r} trains {list(self.training)} and has no optimizer.")

    @contextmanager
    def frozen(self, trainer: Any) -> Iterator[None]:
        """Freeze the networks it does not train, and pause their interfaces."""
        others = [n for name, n in trainer.networks.items() if name not in self.training]
        steps = (s for s in trainer.steps.values() if s is not self)
        strategies = [s.strategy for s in steps if getattr(s, "strategy", None) is not None]
        if not others and not strategies:
            yield
            return
        own = {p for name in self.training for p in trainer.networks[name].parameters()}
        thawed = [p for n in others for p in n.parameters() if p.requires_grad and p not in own]
        with ExitStack() as stack:
            for strategy in strategies:
                stack.enter_context(strategy.paused())
            for parameter in thawed:
                parameter.requires_grad_(False)
            try:
                yield
            finally:
                for parameter in thawed:
                    parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, but for the networks."""
        return {} if self.strategy is None else {"strategy": self.strategy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self.strategy is not None:
            self.strategy.load_state_dict(state["strategy"])

    def update(self, trainer: Any, phase: Any) -> None:
        """Let the strategy step, with the events around it."""
        assert self.strategy is not None
        trainer.handle("optimizer_begin", phase)
        self.strategy.step()
        if not self.strategy.accumulates:
            trainer.handle("update", phase)
        trainer.handle("optimizer_end", phase)


class Step(BaseStep):
    """Injectors, then losses, then backward, then the strategy.

    A loss of name ``ce`` in a step ``s`` is in the state afterwards: ``loss/s/ce`` its mean,
    unweighted, ``instances/s/ce`` one number per sample, ``loss/s/total`` the weighted sum.

    Args:
        name: Its name.
        training: Names of the networks it trains.
        strategy: What updates them.
        injectors: By name ``{type, in, out, every, after, before, train, eval, overwrite, ...}``.
        losses: By name ``{type, weight, every, after, before, closed, ...}``. A loss whose window
            is closed is skipped; ``closed: zero`` computes it and multiplies it by 0.
        accumulate: Chunks that the batch is computed in; each weighs as much as its samples.
        keep: Keys whose graphs live on after the step. A step that trains nothing and keeps a key
            makes it with its graph, for a later step that learns through it.
        every: It trains every so many steps from ``after``; between them it only runs forward.
        after: First step it takes part in, 0-based.
        before: Last step it takes part in.
        requires: Keys without which it is passed over.
        step_outputs: The only keys that outlive it, of those it writes; ``None``: all.

    Raises:
        ConfigError: Something in it cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        training: Iterable[str] = (),
        strategy: Strategy | None = None,
        injectors: Mapping[str, Mapping[str, Any]] | None = None,
        losses: Mapping[str, Mapping[str, Any]] | None = None,
        accumulate: int = 1,
        keep: Iterable[str] = (),
        every: int = 1,
        after: int = 0,
        before: int | None = None,
        requires: Iterable[str] = (),
        step_outputs: Iterable[str] | None = None,
    ) -> None:
        super().__init__(name, training, strategy)
        if accumulate < 1:
            raise ConfigError(
                f"`accumulate` of step {name!r} is {accumulate}; 1 or more is needed."
            )
        if accumulate > 1 and strategy is not None and not strategy.accumulates:
            raise ConfigError(
                f"Step {name!r} has `accumulate: {accumulate}`, but its optimizer updates during "
                "the forward pass (`unlock: update`) and cannot wait for other chunks."
            )
        self.injections = [_Injection(key, spec) for key, spec in (injectors or {}).items()]
        self.losses = {key: LossTerm(key, spec) for key, spec in (losses or {}).items()}
        if self.training and not self.losses:
            raise ConfigError(f"Step {name!r} trains {list(self.training)} and has no loss.")
        self.accumulate, self.keep = accumulate, frozenset(keep)
        self.window, self.requires = Window(every, after, before), tuple(requires)
        self.outputs = None if step_outputs is None else frozenset(step_outputs)

    def __call__(self, trainer: Any, state: State, phase: Any) -> None:
        """Run on a batch; in a training phase with an update."""
        step = trainer.counters.step
        if not self.window.is_inside(step) or any(key not in state for key in self.requires):
            return
        trains = phase.training and bool(self.training) and self.window.is_open(step)
        before = set(state)
        if phase.training and self.keep and not self.training:
            self._forward(trainer, state, phase, step, trains=False)
        else:
            with self.frozen(trainer):
                if trains:
                    self._train(trainer, state, phase, step)
                else:
                    with torch.no_grad():
                        self._forward(trainer, state, phase, step, trains=False)
        written = state.keys() - before
        if self.outputs is not None:
            for key in written:
                if key not in self.outputs and "/" not in key:
                    del state[key]
        # A key that was there before may have been overwritten: those are live as well.
        state.detach(
            [*written, *(k for i in self.injections if i.overwrite for k in i.writes)],
            keep=self.keep,
        )

    def _train(self, trainer: Any, state: State, phase: Any, step: int) -> None:
        assert self.strategy is not None
        self.strategy.zero_grad()
        size = state.batch_size() if self.accumulate > 1 else 0
        if size < 2:
            has_gradients = self._backward(trainer, state, phase, step, 1.0)
        else:
            has_gradients = self._accumulate(trainer, state, phase, step, size)
        if has_gradients:
            self.update(trainer, phase)

    def _accumulate(self, trainer: Any, state: State, phase: Any, step: int, size: int) -> bool:
        keys, parts, start, has_gradients = list(state), [], 0, False
        counts = [len(c) for c in torch.arange(size).tensor_split(min(self.accumulate, size))]
        for count in counts:
            part = state.chunk(keys, slice(start, start + count), size)
            has_gradients |= self._backward(trainer, part, phase, step, count / size)
            part.detach(list(part), keep=self.keep)
            parts.append(part)
            start += count
        replaced = {key for i in self.injections if i.overwrite for key in i.writes}
        for key in parts[0]:
            if key not in state or key in replaced:
                joined = _joined([part[key] for part in parts], counts)
                state.write(key, joined, by=f"step {self.name!r}", overwrite=True)
        return has_gradients

    def _backward(self, trainer: Any, state: State, phase: Any, step: int, share: float) -> bool:
        assert self.strategy is not None
        with self.strategy.context(state):
            with self.strategy.autocast():
                total = self._forward(trainer, state, phase, step, trains=True)
            if total is None:
                return False
            _check_graph(total, self)
            trainer.handle("backward_begin", phase)
            self.strategy.backward(total if share == 1.0 else total * share)
            trainer.handle("backward_end", phase)
        return True

    def _forward(
        self, trainer: Any, state: State, phase: Any, step: int, *, trains: bool
    ) -> Tensor | None:
        def call(name: str, method: str | None) -> Any:
            if name not in trainer.networks:
                hint = did_you_mean(name, trainer.networks)
                raise ConfigError(f"Step {self.name!r} calls network {name!r}.{hint}")
            strategy = self.strategy if trains and name in self.training else None
            if strategy is None:
                return trainer.networks[name]
            # A method of a wrapped network has to go through the wrapper's own pass.
            if method is not None and isinstance(strategy, DNIStrategy):
                return _Methods(strategy, name)
            return strategy.wrap(name)

        for injection in self.injections:
            wanted = injection.in_training if phase.training else injection.in_evaluation
            if wanted and injection.window.is_open(step):
                injection.run(state, step, call)
        trainer.handle("loss_begin", phase)
        total: Tensor | None = None
        for name, term in self.losses.items():
            is_open = term.window.is_open(step)
            if not is_open and not term.closes_to_zero:
                continue
            each = term.run(state, call)
            mean = each.mean() if each.dim() else each
            if each.dim():
                state[f"instances/{self.name}/{name}"] = each.detach()
            state[f"loss/{self.name}/{name}"] = mean.detach()
            weighted = mean * (term.weight(step) if is_open else 0.0)
            total = weighted if total is None else total + weighted
        if total is not None:
            state[f"loss/{self.name}/total"] = total.detach()
        return total


class _Methods:
    """Methods of a network with interfaces, each run as a forward pass of the wrapper."""

    def __init__(self, strategy: DNIStrategy, name: str) -> None:
        self._wrapper = strategy.wrappers[name]

    def __getattr__(self, method: str) -> Any:
        bound = getattr(self._wrapper.network, method)
        return lambda *args, **kwargs: self._wrapper._crossing.run(bound, args, kwargs)


def _check_graph(loss: Tensor, step: BaseStep) -> None:
    if not loss.requires_grad:
        raise ConfigError(
            f"The loss of step {step.name!r} depends on no parameter of {list(step.training)}, "
            "which it trains: another network made its inputs, or they were made without a graph "
            "(`grad: false`, or by a step before it, without `keep`)."
        )


def _joined(values: list[Any], counts: list[int]) -> Any:
    """The values of all chunks as one: rows after one another, numbers as a weighted mean."""
    first = values[0]
    if isinstance(first, Tensor) and first.dim() > 0:
        return torch.cat(values) if first.shape[0] == counts[0] else first
    if isinstance(first, Tensor) and first.is_floating_point():
        weights = torch.tensor(counts, dtype=first.dtype, device=first.device) / sum(counts)
        return (torch.stack(values) * weights).sum()
    if isinstance(first, list | tuple):
        return type(first)(_joined(list(parts), counts) for parts in zip(*values, strict=True))
    if isinstance(first, dict):
        return {key: _joined([value[key] for value in values], counts) for key in first}
    return first


class FunctionStep(BaseStep):
    """A Python function as a step: ``function(trainer, state, phase)`` returns losses.

    Args:
        name: Its name.
        function: Returns a loss (shape ``[]`` or ``[B]``), a dictionary of losses, which are
            summed, or ``None`` for no update. What it writes into the state is detached after it.
        training: Names of the networks it trains.
        strategy: What updates them; the function calls them by ``trainer.call(name)``.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Any, State, Any], Any],
        *,
        training: Iterable[str] = (),
        strategy: Strategy | None = None,
    ) -> None:
        super().__init__(name, training, strategy)
        self.function = function

    def __call__(self, trainer: Any, state: State, phase: Any) -> None:
        """Run on a batch; in a training phase with an update."""
        trains = phase.training and self.strategy is not None
        with self.frozen(trainer):
            if not trains:
                with torch.no_grad():
                    self._forward(trainer, state, phase)
            else:
                assert self.strategy is not None
                self.strategy.zero_grad()
                with self.strategy.context(state):
                    with self.strategy.autocast():
                        total = self._forward(trainer, state, phase)
                    if total is not None:
                        _check_graph(total, self)
                        trainer.handle("backward_begin", phase)
                        self.strategy.backward(total)
                        trainer.handle("backward_end", phase)
                if total is not None:
                    self.update(trainer, phase)
        state.detach(list(state))

    def _forward(self, trainer: Any, state: State, phase: Any) -> Tensor | None:
        found = self.function(trainer, state, phase)
        trainer.handle("loss_begin", phase)
        losses = found if isinstance(found, Mapping) else {} if found is None else {"loss": found}
        total: Tensor | None = None
        for name, value in losses.items():
            mean = value.mean() if value.dim() else value
            if value.dim():
                state[f"instances/{self.name}/{name}"] = detached(value)
            state[f"loss/{self.name}/{name}"] = mean.detach()
            total = mean if total is None else total + mean
        if total is not None:
            state[f"loss/{self.name}/total"] = total.detach()
        return total
