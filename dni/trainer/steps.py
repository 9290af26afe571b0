"""`Step`: injectors, losses, backward and a strategy, as a config tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from .base_step import BaseStep
from .state import State, joined
from .strategies import Strategy
from .terms import Injection, LossTerm
from .when import When


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

    averages = True

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
        self.injections = [Injection(key, spec) for key, spec in (injectors or {}).items()]
        self.losses = {key: LossTerm(key, spec) for key, spec in (losses or {}).items()}
        if self.training and not self.losses:
            raise ConfigError(f"Step {name!r} trains {list(self.training)} and has no loss.")
        self.replaced = {key for i in self.injections if i.overwrite for key in i.writes}
        if accumulate > 1 and (carrying := [i.by for i in self.injections if i.injector.carries]):
            raise ConfigError(
                f"Step {name!r} has `accumulate: {accumulate}`, and its {carrying[0]} goes on from "
                "batch to batch, not from piece to piece of one; take a smaller `batch_size` and "
                "more `batches_per_step`."
            )
        self.accumulate, self.keep = accumulate, frozenset(keep)
        self.window, self.requires = When(every, after, before), tuple(requires)
        self.outputs = None if step_outputs is None else frozenset(step_outputs)
        written = {key for injection in self.injections for key in injection.writes}
        reported = {f"{kind}/{name}/{key}" for kind in ("loss", "instances") for key in self.losses}
        kept = written if self.outputs is None else written & self.outputs
        self.writes = kept | reported | {f"loss/{name}/total"}

    def __call__(self, trainer: Any, state: State, phase: Any) -> None:
        """Run on a batch; in a training phase with an update."""
        step = trainer.counters.step
        if not self.window.covers(step) or any(key not in state for key in self.requires):
            return
        trains = phase.training and bool(self.training) and self.window.fires(step)
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
        state.detach([*written, *self.replaced], keep=self.keep)

    def _train(self, trainer: Any, state: State, phase: Any, step: int) -> None:
        assert self.strategy is not None
        self.clear(trainer)
        size = state.batch_size() if self.accumulate > 1 else 0
        if size < 2:
            has_gradients = self._learn(trainer, state, phase, step, 1.0)
        else:
            has_gradients = self._accumulate(trainer, state, phase, step, size)
        self.update(trainer, phase, has_gradients=has_gradients)

    def _accumulate(self, trainer: Any, state: State, phase: Any, step: int, size: int) -> bool:
        keys, parts, start, has_gradients = list(state), [], 0, False
        counts = [len(c) for c in torch.arange(size).tensor_split(min(self.accumulate, size))]
        for count in counts:
            part = state.chunk(keys, slice(start, start + count), size)
            has_gradients |= self._learn(trainer, part, phase, step, count / size)
            part.detach(list(part), keep=self.keep)
            parts.append(part)
            start += count
        for key in parts[0]:
            if key not in state or key in self.replaced:
                whole = joined([part[key] for part in parts], counts)
                state.write(key, whole, by=f"step {self.name!r}", overwrite=True)
        return has_gradients

    def _learn(self, trainer: Any, state: State, phase: Any, step: int, share: float) -> bool:
        forward = partial(self._forward, trainer, state, phase, step, trains=True)
        return self.learn(trainer, state, phase, forward, share)

    def _forward(
        self, trainer: Any, state: State, phase: Any, step: int, *, trains: bool
    ) -> Tensor | None:
        def call(name: str, method: str | None) -> Any:
            if name not in trainer.networks:
                hint = did_you_mean(name, trainer.networks)
                raise ConfigError(f"Step {self.name!r} calls network {name!r}.{hint}")
            if trains and name in self.training and self.strategy is not None:
                return self.strategy.called(name, method)
            return trainer.networks[name]

        for injection in self.injections:
            if injection.runs(step, training=phase.training):
                if injection.injector.carries:
                    injection.injector.enter(phase.name, trainer.batch)
                injection.run(state, step, call)
        trainer.handle("loss_begin", phase)
        total: Tensor | None = None
        for name, term in self.losses.items():
            is_open = term.window.fires(step)
            if not is_open and not term.closes_to_zero:
                continue
            mean = self.note(state, name, term.run(state, call))
            weighted = mean * (term.weight(step) if is_open else 0.0)
            total = weighted if total is None else total + weighted
        if total is not None:
            state[f"loss/{self.name}/total"] = total.detach()
        return total

    def state_dict(self) -> dict[str, Any]:
        """As `BaseStep.state_dict`, with what injectors hand from batch to batch."""
        kept = {i.name: saved for i in self.injections if (saved := i.injector.state_dict())}
        return {**super().state_dict(), **({"injectors": kept} if kept else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state)
        kept = state.get("injectors", {})
        for injection in self.injections:
            if injection.name in kept:
                injection.injector.load_state_dict(kept[injection.name])
