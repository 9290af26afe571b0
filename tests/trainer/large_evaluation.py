"""Evaluates 10,000 examples, stores them, and tells how much memory that took (in MiB)."""

from __future__ import annotations

import json
import resource
import sys
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dni.trainer.data import Source
from dni.trainer.outputs import Outputs
from dni.trainer.state import State
from dni.trainer.trainer import Trainer


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Images(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": torch.full((3, 64, 64), float(index))}


def score(trainer: Trainer, batch: State, phase: object) -> None:
    batch["score"] = batch["image"].mean((1, 2, 3))


if __name__ == "__main__":
    torch.set_num_threads(1)
    libraries = peak()
    trainer = Trainer(
        {"net": nn.Linear(1, 1)},
        {"score": score},
        {"validation": Source(Images(), batch_size=50)},
        [Outputs(["image", "score"])],
        max_steps=1,
        run=SimpleNamespace(path=sys.argv[1]),
    )
    trainer.evaluate()
    outputs = trainer.callbacks.find(Outputs)
    assert outputs.folder is not None
    print(json.dumps({"libraries": libraries, "peak": peak(), "more": peak() - libraries}))
