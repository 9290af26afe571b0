"""Windowed training with synthetic gradients against the full unroll, computed plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DNINetwork, TemporalDNI
from dni.states import Form, rebuilt, tensors_in

BATCH, INPUTS, UNITS, WINDOW, WINDOWS = 4, 3, 5, 3, 4
STEPS = WINDOW * WINDOWS


class Loop(nn.Module):
    """A user's loop over a cell, with a mapping of named parts as its state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(INPUTS, UNITS)

    def forward(self, x: Tensor, state: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        if state is None:
            zeros = x.new_zeros(x.shape[1], UNITS)
            state = {"parts": (zeros, zeros), "steps": 0}
        parts, outputs = state["parts"], []
        for step in x:
            parts = self.cell(step, parts)
            outputs.append(parts[0])
        return torch.stack(outputs), {"parts": parts, "steps": state["steps"] + len(x)}


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(INPUTS, UNITS),
    "LSTM, batch first": lambda: nn.LSTM(INPUTS, UNITS, batch_first=True),
    "LSTM, stacked": lambda: nn.LSTM(INPUTS, UNITS, num_layers=3),
    "LSTM, projected": lambda: nn.LSTM(INPUTS, UNITS, proj_size=2),
    "GRU": lambda: nn.GRU(INPUTS, UNITS),
    "GRU, stacked": lambda: nn.GRU(INPUTS, UNITS, num_layers=2),
    "RNN": lambda: nn.RNN(INPUTS, UNITS),
    "a loop over a cell": Loop,
    "LSTMCell": lambda: nn.LSTMCell(INPUTS, UNITS),
    "GRUCell": lambda: nn.GRUCell(INPUTS, UNITS),
}


class Exact(DNINetwork):
    """Says what it is told to."""

    answer: Tensor

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        return self.answer.expand_as(input), hidden


def windows_of(network: nn.Module) -> list[Tensor]:
    """One sequence per row in windows as a network takes them; a cell's are single steps."""
    sequence = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    if isinstance(network, nn.RNNCellBase):
        return list(sequence)
    axis = 1 if getattr(network, "batch_first", False) else 0
    return list((sequence.transpose(0, 1) if axis else sequence).split(WINDOW, axis))


def loss_of(output: Tensor) -> Tensor:
    return (output.sin() * torch.linspace(0.5, 1.5, output.shape[-1])).sum()


def run(network: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """One window of the network itself."""
    result = network(x, state)
    if isinstance(network, nn.RNNCellBase):
        return (result[0] if isinstance(result, tuple) else result), result
    return result


def where(keep: Tensor, state: Any, other: list[Tensor], batch_dim: int) -> Any:
    """The state, with the values of another one for the sequences not to keep."""
    tensors = tensors_in(state)
    form = Form(tensors, batch_dim)
    rows = torch.where(keep[:, None], form.join(tensors), form.join(other))
    return rebuilt(state, form.split(rows))


def full_unroll(
    network: nn.Module, windows: list[Tensor], done: list[Tensor], batch_dim: int, *, resets: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the parameters, and of the whole state at each window's end, by plain autograd.

    Where a sequence is done its state is cut off, and is zero if it ``resets``.
    """
    state: Any = None
    ends, total = [], torch.zeros((), dtype=torch.float64)
    losses_after: list[Tensor] = []
    for x, finished in zip(windows, done, strict=True):
        output, state = run(network, x, state)
        tensors = [t.clone() for t in tensors_in(state)]  # h is a function of c, its copy is not
        state = rebuilt(state, tensors)
        ends.append(tensors)
        loss = loss_of(output)
        losses_after.append(loss)
        total = total + loss
        others = [torch.zeros_like(t) if resets else t.detach() for t in tensors]
        state = where(~finished, state, others, batch_dim)
    of_states = []
    for k, tensors in enumerate(ends):
        later = losses_after[k + 1 :]
        if later:
            grads = torch.autograd.grad(sum(later), tensors, retain_graph=True)
        else:
            grads = [torch.zeros_like(t) for t in tensors]
        of_states.append(Form(grads, batch_dim).join(grads))
    return list(torch.autograd.grad(total, list(network.parameters()))), of_states


def exact(network: nn.Module, **options: Any) -> tuple[TemporalDNI, Exact]:
    """A wrapper whose synthesizer says what it is told, in units of 1."""
    net = TemporalDNI(network, Exact, scale=1.0, scale_targets=False, **options)
    zero = torch.zeros((), dtype=torch.float64)
    Exact.answer = zero
    output, _ = net(windows_of(network)[0])  # makes the synthesizer of a user's module
    net.end_episode()
    synthesizer = net.interfaces["state"].synthesizer
    assert isinstance(synthesizer, Exact)
    return net, synthesizer


ENDINGS = {
    "no sequence ends": [()] * (STEPS - 1),
    "sequences end at different windows": [(), (0,), (1, 2), (0,), (), (3,)] + [()] * STEPS,
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_exact_synthesizer_gives_the_gradients_of_the_full_unroll(
    name: str, ending: str, resets: bool
) -> None:
    network = NETWORKS[name]().double()
    net, synthesizer = exact(network)
    windows = windows_of(network)
    done = [
        torch.tensor([row in rows for row in range(BATCH)])
        for rows, _ in zip(ENDINGS[ending], windows[1:], strict=False)
    ] + [torch.ones(BATCH, dtype=torch.bool)]
    expected, of_states = full_unroll(network, windows, done, net.batch_dim, resets=resets)
    # What lies beyond the end of a sequence must not matter: the wrapper is to leave it out.
    wrong = torch.randn(BATCH, of_states[0].shape[1], dtype=torch.float64)
    state = None
    for x, finished, future in zip(windows, done, of_states, strict=True):
        synthesizer.answer = torch.where(finished[:, None], wrong, future)
        if finished.all():
            output, state = net(x, state)
            net.end_episode()
        else:
            output, state = net(x, state, done=finished)
        loss_of(output).backward()
        if resets:
            state = where(
                ~finished, state, [torch.zeros_like(t) for t in tensors_in(state)], net.batch_dim
            )
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-10)
