"""Networks that people use: each wraps with defaults, trains, and comes back as it was."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, DNIWarning
from dni.vision import import_torchvision

from .networks import assert_is_backprop, hooks

Run = Callable[[nn.Module], Any]


@dataclass
class Model:
    """A network, what goes in, and the loss of what comes out.

    Attributes:
        make: Makes the network.
        inputs: Makes the arguments.
        loss: From the output, in training mode, to a scalar.
        silent: End of the names of the sites that are never called, ``None`` if there are none.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    loss: Callable[[Any], Tensor]
    silent: str | None = None


def models() -> Any:
    return import_torchvision().models


def images(side: int, count: int = 2) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(count, 3, side, side),)


def cross_entropy(logits: Tensor) -> Tensor:
    rows = logits.flatten(0, -2)
    return F.cross_entropy(rows, torch.arange(len(rows)) % rows.shape[-1])


def with_auxiliaries(output: Any) -> Tensor:
    """GoogLeNet's training output is a named tuple of three heads."""
    assert type(output).__name__ == "GoogLeNetOutputs"
    heads = [cross_entropy(head) for head in output]
    return heads[0] + 0.3 * (heads[1] + heads[2])


def small_vision_transformer() -> nn.Module:
    return models().VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )


def transformer() -> nn.Module:
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 1, "dim_feedforward": 32}
    return nn.Transformer(d_model=16, nhead=2, batch_first=True, **sizes)


class Tagger(nn.Module):
    """Two bidirectional layers of LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 12, num_layers=2, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return self.head(out)


class LanguageModel(nn.Module):
    """An embedding whose weights are those of the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 20)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.rnn(self.embedding(tokens))[0]))


ZOO: dict[str, Model] = {
    "resnet18": Model(lambda: models().resnet18(num_classes=10), images(32), cross_entropy),
    "densenet121": Model(lambda: models().densenet121(num_classes=10), images(32), cross_entropy),
    "googlenet": Model(
        lambda: models().googlenet(num_classes=10, init_weights=False, aux_logits=True),
        images(64),
        with_auxiliaries,
    ),
    "mobilenet_v3_small": Model(
        lambda: models().mobilenet_v3_small(num_classes=10), images(32), cross_entropy
    ),
    "vit_b_16": Model(
        lambda: models().vit_b_16(image_size=32, num_classes=10),
        images(32),
        cross_entropy,
        silent="out_proj",
    ),
    "small_vision_transformer": Model(
        small_vision_transformer, images(16), cross_entropy, silent="out_proj"
    ),
    "nn.Transformer": Model(
        transformer,
        lambda: (torch.randn(2, 5, 16), torch.randn(2, 4, 16)),
        lambda out: out.square().mean(),
        silent="out_proj",
    ),
    "bidirectional LSTM": Model(Tagger, lambda: (torch.randn(6, 3, 8),), cross_entropy),
    "tied embedding": Model(LanguageModel, lambda: (torch.randint(20, (3, 7)),), cross_entropy),
}
each_model = pytest.mark.parametrize("model", ZOO.values(), ids=ZOO)


def train(net: nn.Module, model: Model, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = model.loss(net(*model.inputs()))
        loss.backward()
        losses.append(loss.item())
    return losses


def evaluate(net: nn.Module, model: Model) -> Tensor:
    torch.manual_seed(9)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nested tensors is in prototype")
        return net.eval()(*model.inputs())


@each_model
def test_three_steps_are_finite_and_detach_gives_the_network_back(model: Model) -> None:
    network = model.make()
    kind, keys = type(network), list(network.state_dict())
    before = {name: value.clone() for name, value in network.named_parameters()}
    net = DNI(network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DNIWarning)
        losses = train(net, model, 3)
    assert all(map(math.isfinite, losses))
    assert net.updates == 3
    assert all(p.isfinite().all() for p in net.parameters())

    silent = [str(w.message) for w in caught]
    if model.silent is None:
        assert silent == []
    else:
        assert len(silent) == 1
        assert all(site.endswith(model.silent) for site in re.findall("'(.*?)'", silent[0]))
    frozen = [name for name, p in network.named_parameters() if torch.equal(p, before[name])]
    assert frozen == []
    for site, statistics in net.statistics().items():
        called = model.silent is None or model.silent not in site
        assert statistics["true_norm"] > 0 or not called, site

    outputs = evaluate(net, model)
    assert net.detach() is network
    assert type(network) is kind
    assert list(network.state_dict()) == keys
    assert list(hooks(network)) == []
    assert torch.equal(evaluate(network, model), outputs)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "nn.Transformer", "tied embedding"])
@pytest.mark.filterwarnings("ignore::dni.DNIWarning")
def test_two_steps_are_backprop_at_λ_one(name: str) -> None:
    model = ZOO[name]
    assert_is_backprop(model.make(), lambda net: model.loss(net(*model.inputs())), steps=2)


@pytest.mark.parametrize("name", ["bidirectional LSTM", "small_vision_transformer"])
@pytest.mark.filterwarnings("ignore::dni.DNIWarning")
def test_the_loss_falls_on_one_batch(name: str) -> None:
    model = ZOO[name]
    torch.manual_seed(0)
    net, inputs = DNI(model.make(), grad_lr=0.01), model.inputs()
    losses = []
    for _ in range(40):
        loss = model.loss(net(*inputs))
        loss.backward()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
