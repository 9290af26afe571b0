"""A Python function as a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .base_step import BaseStep
from .state import State
from .strategies import Strategy


class FunctionStep(BaseStep):
    """A Python function as a step: ``function(trainer, state, phase)`` returns losses.

    Args:
        name: Its name.
        function: Returns a loss (shape ``[]`` or ``[B]``), a dictionary of losses, which are
            summed, or ``None`` for no update. What it writes into the state is detached after it.
        training: Names of the networks it trains.
        strategy: What updates them; the function calls them by ``trainer.call(name)``.
    """

    averages = True

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
        forward = partial(self._forward, trainer, state, phase)
        with self.frozen(trainer):
            if phase.training and self.strategy is not None:
                self.clear(trainer)
                has_gradients = self.learn(trainer, state, phase, forward)
                self.update(trainer, phase, has_gradients=has_gradients)
            else:
                with torch.no_grad():
                    forward()
        state.detach(list(state))

    def _forward(self, trainer: Any, state: State, phase: Any) -> Tensor | None:
        found = self.function(trainer, state, phase)
        trainer.handle("loss_begin", phase)
        losses = found if isinstance(found, Mapping) else {} if found is None else {"loss": found}
        total: Tensor | None = None
        for name, value in losses.items():
            mean = self.note(state, name, value)
            total = mean if total is None else total + mean
        if total is not None:
            state[f"loss/{self.name}/total"] = total.detach()
        return total
