"""Truncated backpropagation through time, and the same loop with `TemporalDNI`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni import TemporalDNI
from episodes import Task
from windows import Window, due_size

METHODS = ("bptt", "dni", "dni+aux")


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How the gradients from beyond a window are made.

    Attributes:
        layers: Hidden layers of the synthesizer; with none it is one linear map.
        hidden_size: Units of each of them.
        lr: Its learning rate.
        scale: Factor on a synthetic gradient where it is used.
        auxiliary: Weight of the auxiliary task.
        foresight: Steps after a window whose answers the synthesizer sees.
    """

    layers: int
    hidden_size: int
    lr: float
    scale: float
    auxiliary: float
    foresight: int


class Learner:
    """An LSTM with a linear readout, taught window by window.

    Args:
        task: Gives the sizes and the loss.
        units: Units of the LSTM.
        lr: Learning rate of Adam for LSTM and readout.
        window: Steps of a window, by which a window's loss is divided; None for whole episodes.
        synthesis: How to see beyond a window; None for truncated backpropagation.
        compiles: Whether what the synthesizer computes is compiled.
    """

    def __init__(
        self,
        task: Task,
        *,
        units: int,
        lr: float,
        window: int | None,
        synthesis: Synthesis | None,
        compiles: bool = False,
    ) -> None:
        self.task, self.window = task, window
        core = nn.LSTM(task.inputs, units)
        self.readout = nn.Linear(units, task.outputs)
        self.core: nn.LSTM | TemporalDNI = core
        if synthesis is not None:
            self.core = TemporalDNI(
                core,
                dni_params={"num_layers": synthesis.layers},
                hidden_size=synthesis.hidden_size,
                grad_lr=synthesis.lr,
                scale=synthesis.scale,
                auxiliary=synthesis.auxiliary,
                limit=1.0,  # a poor synthesizer must not outweigh the true gradient
                context_size=due_size(task.outputs, synthesis.foresight) or None,
            )
            if compiles:
                self.core.compile()
        self.optimizer = torch.optim.Adam(
            [*core.parameters(), *self.readout.parameters()], lr=lr, fused=True
        )

    def learn(self, windows: Iterable[Window]) -> tuple[float, int]:
        """Learn from an episode, an update for every window.

        Returns:
            The episode's error in the task's unit, and the number of updates.
        """
        state, updates = None, 0
        total, asked = torch.zeros(()), torch.zeros(())
        for window in windows:
            self.optimizer.zero_grad()
            output, state = self._run(window, state)
            losses = self.task.losses(self.readout(output), window.targets) * window.asked
            (losses.sum() / (self.window or asked_steps(window))).backward()
            self.optimizer.step()
            total += losses.detach().sum()
            asked += window.asked.sum()
            updates += 1
        return self.task.error((total / asked).item()), updates

    @torch.no_grad()
    def error(self, window: Window) -> float:
        """The error on a whole episode, in the task's unit; nothing is learned."""
        output, _ = self.core(window.inputs, None)
        losses = self.task.losses(self.readout(output), window.targets) * window.asked
        return self.task.error((losses.sum() / window.asked.sum()).item())

    def _run(self, window: Window, state: Any) -> tuple[Tensor, Any]:
        if not isinstance(self.core, TemporalDNI):
            output, state = self.core(window.inputs, state)
            return output, tuple(part.detach() for part in state)
        found: tuple[Tensor, Any] = self.core(
            window.inputs, state, done=window.is_last, context=window.due
        )
        return found

    def cosine(self) -> float | None:
        """Cosine between synthetic and true gradient lately; None where there is none."""
        if not isinstance(self.core, TemporalDNI):
            return None
        return self.core.statistics()["state"]["cosine"]

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from between two episodes."""
        core = self.core
        return {
            "core": core.training_state() if isinstance(core, TemporalDNI) else core.state_dict(),
            "readout": self.readout.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if isinstance(self.core, TemporalDNI):
            self.core.load_training_state(state["core"])
        else:
            self.core.load_state_dict(state["core"])
        self.readout.load_state_dict(state["readout"])
        self.optimizer.load_state_dict(state["optimizer"])


def asked_steps(window: Window) -> float:
    """Number of a window's steps that are asked for."""
    return float(window.asked.sum())
