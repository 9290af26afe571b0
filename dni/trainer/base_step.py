"""What every kind of step has: networks it trains, a strategy, and freezing of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from .state import State
from .strategies import Gradients, Strategy


class BaseStep:
    """What every kind of step has: a name, networks it trains, a strategy, freezing.

    Args:
        name: Its name.
        training: Names of the networks it trains; the others are frozen while it runs.
        strategy: What updates them; ``None`` for a step that trains nothing.

    Attributes:
        writes: Keys of the state that it may leave behind; ``None`` where nobody can tell.
        averages: Whether it can take the mean gradient of several batches: it calls `clear`,
            `learn` and `update`, and leaves it to them what is done with which batch.
        held: Gradients of earlier batches that wait for the update, by network and parameter.
    """

    writes: Set[str] | None = None
    averages: bool = False

    def __init__(self, name: str, training: Iterable[str], strategy: Strategy | None) -> None:
        self.name, self.training, self.strategy = name, tuple(training), strategy
        self.held: Gradients = {}
        if self.training and strategy is None:
            raise ConfigError(f"Step {name!r} trains {list(self.training)} and has no optimizer.")

    def __call__(self, trainer: Any, state: State, phase: Any) -> None:
        """Run on a batch; in a training phase with an update."""
        raise NotImplementedError

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

    def learn(
        self,
        trainer: Any,
        state: State,
        phase: Any,
        forward: Callable[[], Tensor | None],
        share: float = 1.0,
    ) -> bool:
        """Bring gradients to the networks, with the events around it.

        They are divided by the number of batches that an update takes.

        Args:
            trainer: The trainer.
            state: Values of the batch.
            phase: The phase that runs.
            forward: Gives the loss, shape ``[]``; ``None`` for nothing to learn.
            share: What the loss is multiplied by.

        Returns:
            Whether there was a loss.

        Raises:
            ConfigError: The loss depends on nothing that the step trains.
        """
        assert self.strategy is not None
        with self.strategy.context(state):
            with self.strategy.autocast():
                total = forward()
            if total is None:
                return False
            if not total.requires_grad:
                raise ConfigError(
                    f"The loss of step {self.name!r} depends on no parameter of "
                    f"{list(self.training)}, which it trains: another network made its inputs, or "
                    "they were made without a graph (`grad: false`, or by a step before it, "
                    "without `keep`)."
                )
            if share != 1.0:
                total = total * share
            if trainer.batches_per_step > 1:
                total = total / trainer.batches_per_step
            trainer.handle("backward_begin", phase)
            self.strategy.backward(total)
            trainer.handle("backward_end", phase)
        return True

    def note(self, state: State, loss: str, values: Tensor) -> Tensor:
        """Write a loss to the state, cut from its graph.

        Args:
            state: Values of the batch.
            loss: Name of the loss.
            values: One for each sample, shape ``[B]``, or one for the batch, shape ``[]``.

        Returns:
            Their mean, shape ``[]``.
        """
        mean = values.mean() if values.dim() else values
        if values.dim():
            state[f"instances/{self.name}/{loss}"] = values.detach()
        state[f"loss/{self.name}/{loss}"] = mean.detach()
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, but for the networks."""
        if self.strategy is None:
            return {}
        held = {"gradients": self.held} if self.held else {}
        return {"strategy": self.strategy.state_dict(), **held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self.strategy is not None:
            self.strategy.load_state_dict(state["strategy"])
            held = state.get("gradients", {})
            self.held = {name: {k: g.clone() for k, g in held[name].items()} for name in held}

    def clear(self, trainer: Any) -> None:
        """Clear the gradients, or go on with those that wait for this batch's."""
        assert self.strategy is not None
        self.strategy.zero_grad()
        if trainer.counters.part == 0:
            self.held = {}
        elif self.held:
            self.strategy.set_gradients(self.held)

    def update(self, trainer: Any, phase: Any, *, has_gradients: bool = True) -> None:
        """Let the strategy step, with the events around it, once the update has its batches.

        Args:
            trainer: The trainer.
            phase: The phase that runs.
            has_gradients: Whether this batch brought any.
        """
        assert self.strategy is not None
        if not trainer.ends_step:
            if has_gradients:
                self.strategy.hold()
                # Put aside, where nobody zeroes them who trains the same networks.
                self.held = self.strategy.gradients()
                self.strategy.set_gradients({})
            return
        if not (has_gradients or self.held):
            return
        self.held = {}
        trainer.handle("optimizer_begin", phase)
        self.strategy.step()
        if not self.strategy.accumulates:
            trainer.handle("update", phase)
        trainer.handle("optimizer_end", phase)


def check_averaging(steps: Mapping[str, object], batches: int) -> None:
    """Check that steps can take the mean gradient of so many batches.

    Raises:
        ConfigError: The number is not one, or a step updates with every batch.
    """
    if batches < 1:
        raise ConfigError(f"`batches_per_step` is {batches}; 1 or more is needed.")
    for name, step in steps.items() if batches > 1 else ():
        reason = "a function steps as it likes"
        if isinstance(step, BaseStep):
            reason = f"a `{type(step).__name__}` steps as it likes" if step.training else ""
            if step.averages:
                reason = "" if step.strategy is None else step.strategy.updates_at_once
                if getattr(step, "requires", ()):
                    reason = "batches that lack what it `requires` have no part in an update"
        if reason:
            raise ConfigError(
                f"`batches_per_step` is {batches}, and the step {name!r} updates with every batch: "
                f"{reason}. Take 1, or larger batches."
            )
