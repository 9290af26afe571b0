"""Interfaces on recurrent layers and cells, against the same gradients by plain autograd."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, RNNDNI

INPUTS, UNITS, STEPS, BATCH = 3, 5, 4, 2
LAYERS: dict[str, Callable[[], nn.RNNBase]] = {
    "LSTM": lambda: nn.LSTM(INPUTS, UNITS),
    "LSTM, batch first": lambda: nn.LSTM(INPUTS, UNITS, batch_first=True),
    "LSTM, stacked": lambda: nn.LSTM(INPUTS, UNITS, num_layers=2),
    "GRU, both directions": lambda: nn.GRU(INPUTS, UNITS, bidirectional=True),
    "RNN": lambda: nn.RNN(INPUTS, UNITS),
}
CELLS: dict[str, Callable[[], nn.RNNCellBase]] = {
    "LSTMCell": lambda: nn.LSTMCell(INPUTS, UNITS),
    "GRUCell": lambda: nn.GRUCell(INPUTS, UNITS),
}


class Reader(nn.Module):
    """A recurrent layer; the loss is computed from its output."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Stepper(nn.Module):
    """A loop over a cell."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        outputs = []
        for step in x:
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs)


def loss_of(output: Tensor) -> Tensor:
    return (output - 0.3).square().sum()


def taught(network: nn.Module, share: float, **options: Any) -> DNI:
    """A wrapper whose synthesizers say something."""
    net = DNI(network, λ=share, update="manual", scale_targets=False, **options)
    loss_of(net(torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64))).backward()
    net.zero_grad()
    for interface in net.interfaces.values():
        interface.heard()
        for parameter in interface.synthesizer.parameters():
            nn.init.normal_(parameter, std=0.5)
    return net


def mixed(said: Tensor, share: float, true: Tensor) -> Tensor:
    return share * true + (1 - share) * said


def assert_gradients(module: nn.Module, loss: Tensor) -> None:
    parameters = list(module.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gets_the_mix_with_what_the_synthesizer_says_of_the_sequence(
    name: str, share: float
) -> None:
    layer = LAYERS[name]().double()
    net = taught(Reader(layer), share)
    x = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    loss_of(net(x)).backward()
    synthesizer = net.interfaces["rnn"].synthesizer
    assert isinstance(synthesizer, RNNDNI)
    output = layer.forward(x)[0]
    said = synthesizer(output.detach(), None)[0].detach()
    (true,) = torch.autograd.grad(loss_of(output), output, retain_graph=True)
    assert_gradients(layer, (output * (share * true + (1 - share) * said)).sum())
    # The regression, through the whole sequence.
    prediction = synthesizer(output.detach(), None)[0]
    assert_gradients(synthesizer, (prediction - true).square().sum(-1).mean())


@pytest.mark.parametrize("synthesizer", ["linear", "rnn"])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_gets_the_mix_at_every_step(name: str, share: float, synthesizer: str) -> None:
    cell = CELLS[name]().double()
    net = taught(Stepper(cell), share, dni_network=synthesizer)
    x = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    for _ in range(2):  # the second pass must not go on from the first one's hidden state
        net.zero_grad()
        loss_of(net(x)).backward()

    state: Any = None
    outputs, hidden = [], [None, None]
    for step in x:
        result = cell.forward(step, state)
        parts = list(result) if isinstance(result, tuple) else [result]
        for k, part in enumerate(parts):
            model = net.interfaces["cell#1" if k else "cell"].synthesizer
            said, after = model(part.detach(), hidden[k])
            hidden[k] = after if synthesizer == "rnn" else None
            copied = part.clone()
            copied.register_hook(partial(mixed, said.detach(), share))
            parts[k] = copied
        state = tuple(parts) if isinstance(result, tuple) else parts[0]
        outputs.append(parts[0])
    assert_gradients(cell, loss_of(torch.stack(outputs)))


def test_a_synthesizer_at_a_cell_learns_through_the_steps_it_remembers() -> None:
    cell = nn.GRUCell(INPUTS, UNITS).double()
    net = taught(Stepper(cell), 1.0, dni_network="rnn")
    x = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    loss_of(net(x)).backward()
    synthesizer = net.interfaces["cell"].synthesizer
    state, hidden, outputs, predictions = None, None, [], []
    for step in x:
        state = cell.forward(step, state)
        outputs.append(state)
        said, hidden = synthesizer(state.detach(), hidden)
        predictions.append(said)
    loss = loss_of(torch.stack(outputs))
    true = torch.autograd.grad(loss, outputs)
    assert_gradients(
        synthesizer,
        sum((p - g).square().sum(-1).mean() for p, g in zip(predictions, true, strict=True)),
    )


def test_what_a_synthesizer_at_a_cell_remembers_is_not_copied() -> None:
    net = DNI(Stepper(nn.GRUCell(INPUTS, UNITS)), dni_network="rnn")
    x = torch.randn(STEPS, BATCH, INPUTS)
    for _ in range(2):
        loss_of(net(x)).backward()
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    loss_of(net(x)).backward()
    for other in copies:
        loss_of(other(x)).backward()
        for a, b in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    smaller = net(x[:, :1])  # another batch size starts anew
    assert smaller.shape == (STEPS, 1, UNITS)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_recurrent_model_learns_with_every_layer_a_site(share: float) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(INPUTS, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    net = DNI(Model(), λ=share, grad_lr=1e-2, hidden_size=20, context_size=2)
    x = torch.randn(STEPS, 16, INPUTS)
    y = x.cumsum(0)[..., :2].tanh()
    losses = []
    for _ in range(150):
        loss = (net(x, context=y) - y).square().mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
