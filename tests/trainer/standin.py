"""The part of a trainer that steps need: networks, steps, counters and a list of events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

from dni.trainer.state import State

TRAINING = SimpleNamespace(name="train", training=True, split="train")
VALIDATION = SimpleNamespace(name="validation", training=False, split="validation")


class Standin:
    def __init__(self, networks: dict[str, nn.Module], *steps: Any) -> None:
        self.networks, self.steps = networks, {s.name: s for s in steps}
        self.counters = SimpleNamespace(step=0, part=0)
        self.batches_per_step, self.ends_step = 1, True
        self.events: list[str] = []
        self.scalars: list[tuple[str, Any]] = []
        self.record = SimpleNamespace(scalar=lambda key, value: self.scalars.append((key, value)))

    def handle(self, event: str, phase: Any) -> None:
        self.events.append(event)

    def call(self, name: str) -> nn.Module:
        for step in self.steps.values():
            if step.strategy is not None and name in step.training:
                return step.strategy.wrap(name)
        return self.networks[name]

    def run(self, phase: Any = TRAINING, **batch: Any) -> State:
        state = State(batch)
        for step in self.steps.values():
            step(self, state, phase)
        self.counters.step += 1
        return state
