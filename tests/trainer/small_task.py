"""A small task that every callback is tried on: digits, a network, one step from a config."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dni.trainer.data import Source, Tensors
from dni.trainer.state import State
from dni.trainer.steps import Step
from dni.trainer.strategies import make_strategy
from dni.trainer.trainer import Trainer

ADAM = {"type": "adamw", "lr": 1e-2}
DNI = {"type": "dni", "lambda": 0.0, "optim": ADAM}


def tensors(count: int, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 6, generator=generator)
    return Tensors(image=image, label=(image[:, :3].sum(1) > 0).long(), num_classes=2)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)
        )


def classify(net: nn.Module, optimizer: dict[str, Any] = ADAM, **options: Any) -> Step:
    return Step(
        "classify",
        training=["net"],
        strategy=make_strategy(optimizer, {"net": net}),
        injectors={"forward": {"type": "call", "network": "net", "in": "image", "out": "logits"}},
        losses={"ce": {"type": "cross_entropy", "input": "logits", "target": "label"}},
        **options,
    )


def make(
    *callbacks: Any,
    folder: Path | None = None,
    optimizer: dict[str, Any] = ADAM,
    validation: bool = True,
    **options: Any,
) -> Trainer:
    net = network()
    data = {"train": Source(tensors(40, 2), batch_size=8)}
    if validation:
        data["validation"] = Source(tensors(21, 3), batch_size=8)
    settings: dict[str, Any] = {"max_epochs": 3, "log": {"every": 4, "growth": 2}} | options
    run = None if folder is None else SimpleNamespace(path=folder)
    return Trainer(
        {"net": net}, {"classify": classify(net, optimizer)}, data, callbacks, run=run, **settings
    )


def validated(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Logits and labels of all validation samples at once, without the trainer."""
    net = trainer.networks["net"]
    was = net.training
    net.eval()
    with torch.no_grad():
        batch = State(trainer.data["validation"].dataset.tensors)
        logits = net(batch.image)
    net.train(was)
    return logits, batch.label
