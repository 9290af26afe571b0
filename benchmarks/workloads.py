"""The networks and batches that benchmarks train, and their training step by backpropagation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PIXELS, CLASSES = 28 * 28, 10
CHARACTERS = 64

Learn = Callable[[Tensor, Tensor], None]
"""One training step on an input and its targets (class indices)."""

make_optimizer = functools.partial(torch.optim.Adam, lr=1e-3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A network, a batch for it and the modules that carry an interface."""

    title: str
    """What is trained, in words."""
    build: Callable[[], nn.Module]
    """Makes the network."""
    batch: Callable[[], tuple[Tensor, Tensor]]
    """Makes an input and its targets (class indices)."""
    sites: tuple[str, ...]
    """Dotted names of the modules with an interface."""
    chosen: str = "linear"
    """Registered name of the synthesizer that the package chooses for these sites."""
    sees_labels: bool = False
    """Whether the targets, one per sample, can be the context of a critic at every site."""

    def on(self, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
        """A new network, an input and its targets on `device`."""
        value, target = self.batch()
        return self.build().to(device), value.to(device), target.to(device)


class FCN(nn.Sequential):
    """Fully connected network: blocks `hidden.0` to `hidden.N-1`, then the layer `output`."""

    def __init__(self, layers: int, units: int = 256) -> None:
        super().__init__()
        sizes = [PIXELS] + [units] * layers
        blocks = [
            nn.Sequential(nn.Linear(size, units), nn.BatchNorm1d(units), nn.ReLU())
            for size in sizes[:layers]
        ]
        self.hidden = nn.Sequential(*blocks)
        self.output = nn.Linear(units, CLASSES)


class CNN(nn.Sequential):
    """The paper's network for MNIST: two layers of 5×5 filters, max then average pooling."""

    def __init__(self, filters: int = 64) -> None:
        super().__init__()
        self.first = self._block(1, filters, nn.MaxPool2d(3, stride=2, padding=1))
        self.second = self._block(filters, filters, nn.AvgPool2d(3, stride=2, padding=1))
        self.flatten = nn.Flatten()
        self.output = nn.Linear(filters * 7 * 7, CLASSES)

    @staticmethod
    def _block(channels: int, filters: int, pool: nn.Module) -> nn.Sequential:
        convolution = nn.Conv2d(channels, filters, kernel_size=5, padding=2)
        return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU(), pool)


class CharacterLSTM(nn.Module):
    """A language model over characters: embedding, one LSTM layer, a linear decoder."""

    def __init__(self, units: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, units)
        self.lstm = nn.LSTM(units, units)
        self.decoder = nn.Linear(units, CHARACTERS)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits `[T * B, CHARACTERS]` of the character after each of `characters` `[T, B]`."""
        output, _ = self.lstm(self.embedding(characters))
        return self.decoder(output).flatten(0, 1)  # type: ignore[no-any-return]


def _images(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.rand(*shape), torch.randint(CLASSES, shape[:1])


def _text(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    return torch.randint(CHARACTERS, (steps, batch)), torch.randint(CHARACTERS, (steps * batch,))


def _fcn(layers: int, units: int = 256) -> Workload:
    return Workload(
        title=f"FCN, {layers} hidden layers of {units}, batch 256",
        build=lambda: FCN(layers, units),
        batch=lambda: _images(256, PIXELS),
        sites=tuple(f"hidden.{index}" for index in range(layers)),
        sees_labels=True,
    )


WORKLOADS = {
    "fcn-3": _fcn(3),
    "fcn-6": _fcn(6),
    "fcn-12": _fcn(12),
    "fcn-6-wide": _fcn(6, 1024),
    "cnn": Workload(
        title="CNN, two 5×5 layers of 64 filters, batch 32",
        build=CNN,
        batch=lambda: _images(32, 1, 28, 28),
        sites=("first", "second"),
        chosen="conv2d",
    ),
    "lstm": Workload(
        title="LSTM of 256 units, 35 steps, batch 20",
        build=CharacterLSTM,
        batch=lambda: _text(35, 20),
        sites=("lstm",),
        chosen="rnn",
    ),
}


def backprop(network: nn.Module) -> Learn:
    """A training step: forward, loss, backward, optimizer step, clearing of gradients."""
    optimizer = make_optimizer(network.parameters())

    def learn(value: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(value), target).backward()
        optimizer.step()

    return learn
