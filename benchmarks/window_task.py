"""Episodes of the copy task, trained as its script does: what windows cost there."""

from __future__ import annotations

import itertools
import sys

import torch

from interleave import Step
from report import ROOT

sys.path.append(str(ROOT / "tasks" / "copy"))  # a folder of scripts, no package
from episodes import TASKS, Length  # noqa: E402
from learners import Learner, Synthesis  # noqa: E402
from windows import cut  # noqa: E402

TITLE = "tasks/copy, LSTM of 64, batch 32, window 4: an episode of 12 steps"
UNITS, BATCH, WINDOW = 64, 32, 4
LENGTH = Length(pattern=5)
EPISODES = 8
METHODS: dict[str, tuple[int | None, bool]] = {
    "BPTT": (None, False),
    "DNI": (0, False),
    "DNI, compiled": (0, True),
    "DNI that sees 16 answers": (16, False),
    "DNI that sees 16 answers, compiled": (16, True),
}
"""Steps after a window whose answers the synthesizer sees, if there is one; whether compiled."""

EXPLANATION = """\
The rows of *tasks/copy* are that script's own loop, an episode at a time: smaller batches, windows
of several lengths, the answers as a context, and an optimizer of the network that is fused, which
makes backpropagation's windows cheaper."""


def episode_steps() -> dict[str, Step]:
    """Under each method's name a step that learns from one episode, an update a window."""
    return {name: _step(*how) for name, how in METHODS.items()}


def _step(foresight: int | None, compiles: bool) -> Step:
    task, generator = TASKS["copy"], torch.Generator().manual_seed(0)
    synthesis = None
    if foresight is not None:
        synthesis = Synthesis(
            layers=0, hidden_size=128, lr=1e-2, scale=1.0, auxiliary=0.0, foresight=foresight
        )
    learner = Learner(
        task, units=UNITS, lr=5e-3, window=WINDOW, synthesis=synthesis, compiles=compiles
    )
    episodes = []
    for number in range(EPISODES):
        episode = task.make(LENGTH, BATCH, generator)
        windows = cut(episode, WINDOW, offset=number % WINDOW, foresight=foresight or 0)
        episodes.append(list(windows))
    turns = itertools.cycle(episodes)

    def step() -> None:
        learner.learn(next(turns))

    return step
