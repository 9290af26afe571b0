"""Runs a training again and again, each time killed at a random moment, and tells how it ended.

A script of its own, because it forks: every attempt is a child of a process that has imported
torch already, which makes twenty of them a matter of seconds.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import loops
import torch

from dni.trainer.checkpoint import Checkpoints
from dni.trainer.events import Callback
from dni.trainer.phases import Phase
from dni.trainer.trainer import Trainer

EPOCHS, SAMPLES = 40, 40


class Keep(Callback):
    """Saves whenever it is time, keeping two."""

    def __init__(self, folder: Path) -> None:
        self.checkpoints = Checkpoints(folder, keep_last=2)

    def on_checkpoint(self, trainer: Trainer, phase: Phase) -> None:
        self.checkpoints.add(trainer.state_dict(), step=trainer.counters.step)


def make(callbacks: list[Callback]) -> Trainer:
    """The trainer of every attempt."""
    return loops.make(callbacks, samples=SAMPLES, max_epochs=EPOCHS, checkpoint_steps=5)


def train(folder: Path) -> Trainer:
    """Go on from the newest checkpoint, to the end."""
    keep = Keep(folder)
    trainer = make([keep])
    if found := keep.checkpoints.newest():
        trainer.load(found[0])
    trainer.fit()
    return trainer


def attempt(folder: Path, seconds: float, whole: Trainer) -> int:
    """Train in a child that is killed after some seconds.

    Returns:
        Minus 9 if it was killed, 0 if it had come to the same end before, else 1.
    """
    child = os.fork()
    if child == 0:
        os._exit(not loops.equal(loops.parameters(train(folder)), loops.parameters(whole)))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Kill twenty times; print whether every end was the same, and at how many places it was cut.

    A run may come to its end before twenty kills: then another one begins. On a busy machine an
    attempt may come nowhere at all: then the next ones get more time.
    """
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    draw = random.Random(0)
    whole = make([])
    whole.fit()
    codes, places, longest = [], set(), 0.1
    while codes.count(-signal.SIGKILL) < 20:
        before = Checkpoints(folder).newest()
        codes.append(attempt(folder, draw.uniform(0.1, 1) * longest, whole))
        after = Checkpoints(folder).newest()
        places.update(path.name for path in after)
        if after == before:
            longest *= 1.2
        if codes[-1] == 0:
            shutil.rmtree(folder)
    resumed = train(folder)
    same = loops.equal(loops.parameters(resumed), loops.parameters(whole))
    left = [path.name for path in folder.glob(".*.tmp")]
    print(same and 1 not in codes, len(places), left)


if __name__ == "__main__":
    main()
