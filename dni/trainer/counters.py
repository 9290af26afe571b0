"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """How far a run has come; together with the random state, its position.

    Attributes:
        step: Updates made; during a step, the number of that step, from 0.
        part: Batches that the next update has had already, where it takes several.
        epoch: Epochs completed.
        batch: Batches of the current epoch that are done.
        samples: Samples learned from.
        phase: Which of the training phases of the epoch it is, from 0.
        stage: What of that phase comes next: ``"batches"``, ``"validate"`` or ``"end"``.
    """

    step: int = 0
    part: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    phase: int = 0
    stage: str = "batches"
