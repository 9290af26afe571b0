"""What tests of the loop share: a small network, a step, data, and a callback that takes notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dni.trainer.data import Source, Tensors
from dni.trainer.events import EVENTS, Callback
from dni.trainer.phases import Phase
from dni.trainer.state import State
from dni.trainer.trainer import Trainer


class Regress:
    """A step with dropout, so that it draws random numbers, and an optimizer with a memory."""

    name = "regress"
    strategy = None
    training = ("net",)

    def __init__(self, network: nn.Module) -> None:
        self.optimizer = torch.optim.Adam(network.parameters(), lr=0.05)

    def __call__(self, trainer: Trainer, batch: State, phase: Phase) -> None:
        batch.y = trainer.networks["net"](batch.x)
        trainer.handle("loss_begin", phase)
        loss = (batch.y - batch.x.sum(1, keepdim=True)).square().mean()
        batch["loss/regress/square"] = loss.detach()
        if phase.training:
            trainer.handle("backward_begin", phase)
            loss.backward()
            trainer.handle("backward_end", phase)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


def make(
    callbacks: Iterable[Callback] = (), *, samples: int = 8, validates: bool = True, **options: Any
) -> Trainer:
    """A trainer with 4 samples in a batch; validation has one batch."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    values = torch.randn(samples, 3)
    data = {"train": Source(Tensors(x=values), batch_size=4)}
    if validates:
        data["validation"] = Source(Tensors(x=values[:4]), batch_size=4)
    options = {"max_epochs": 1, "log": 1000} | options
    return Trainer({"net": net}, {"regress": Regress(net)}, data, callbacks, **options)


def parameters(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of everything the network holds."""
    return {k: v.clone() for k, v in trainer.networks["net"].state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two networks are the same bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Notes(Callback):
    """Writes down every event, with the phase and what it is asked to see."""

    events = ("mine",)

    def __init__(self, see: Callable[[Trainer], Any] | None = None) -> None:
        self.lines: list[Any] = []
        for event in (*EVENTS, *self.events):
            setattr(self, f"on_{event}", self._noting(event, see))

    def _noting(self, event: str, see: Callable[[Trainer], Any] | None) -> Callable[..., None]:
        def note(trainer: Trainer, phase: Phase, **values: Any) -> None:
            line = f"{phase.name} {event}"
            self.lines.append(line if see is None else (line, see(trainer)))

        return note


class Raise(Callback):
    """Raises an error at an event of a training phase, when the step counter says so."""

    def __init__(self, event: str, error: BaseException, *, step: int = 0) -> None:
        self.error, self.step = error, step
        setattr(self, f"on_{event}", self._maybe)

    def _maybe(self, trainer: Trainer, phase: Phase) -> None:
        if phase.training and trainer.counters.step == self.step:
            self.step = -1
            raise self.error
