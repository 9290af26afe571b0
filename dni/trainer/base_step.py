"""What every kind of step has: networks it trains, a strategy, and freezing of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from .state import State
from .strategies import Strategy


class BaseStep:
    """What every kind of step has: a name, networks it trains, a strategy, freezing.

    Args:
        name: Its name.
        training: Names of the networks it trains; the others are frozen while it runs.
        strategy: What updates them; ``None`` for a step that trains nothing.

    Attributes:
        writes: Keys of the state that it may leave behind; ``None`` where nobody can tell.
    """

    writes: Set[str] | None = None

    def __init__(self, name: str, training: Iterable[str], strategy: Strategy | None) -> None:
        self.name, self.training, self.strategy = name, tuple(training), strategy
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
            trainer.handle("backward_begin", phase)
            self.strategy.backward(total if share == 1.0 else total * share)
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
