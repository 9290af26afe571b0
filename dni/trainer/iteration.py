"""One batch on its way through a phase, with the events around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .data import Batch
from .events import STEP_BEGIN, STEP_CANCELLED, STEP_END, Cancel
from .state import State

if TYPE_CHECKING:
    from .phases import Phase
    from .trainer import Trainer


class Iteration:
    """Runs a phase on a batch, and knows whether it came through.

    Args:
        trainer: The trainer.

    Attributes:
        is_complete: Whether the last batch came through: what it was to update, it has.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.is_complete = True

    def run(self, phase: Phase, batch: Batch) -> None:
        """Run a batch.

        Raises:
            Cancel: A callback or a step cancelled it.
        """
        trainer, handlers = self.trainer, self.trainer.callbacks.handlers
        if trainer.device.type != "cpu":
            batch = {key: _moved(value, trainer.device) for key, value in batch.items()}
        trainer.step = state = State(batch)
        trainer.batch_size = state.batch_size()
        self.is_complete = False
        try:
            for handler in handlers[STEP_BEGIN]:
                handler(trainer, phase)
            phase.step(trainer, state)
            self.is_complete = True
            for handler in handlers[STEP_END]:
                handler(trainer, phase)
        except BaseException as error:
            if phase.training and trainer.current is not None:
                # Gradients may hold some of this batch: an update of several begins anew.
                trainer.counters.part = 0
            if isinstance(error, Cancel):
                trainer.current = None
                if not self.is_complete:
                    for handler in handlers[STEP_CANCELLED]:
                        handler(trainer, phase)
            raise


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
