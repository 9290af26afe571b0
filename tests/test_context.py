"""Labels and features beside an activation: their encoding, and how samples find each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, ContextError, DNINetwork
from dni.context import aligned, conditioned, encode


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_become_one_hot(dtype: torch.dtype) -> None:
    found = encode(torch.tensor([2, 0, 1], dtype=dtype), 3)
    assert torch.equal(found, torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))


def test_booleans_are_two_classes() -> None:
    assert torch.equal(encode(torch.tensor([True, False]), 2), torch.tensor([[0.0, 1], [1, 0]]))


def test_labels_of_every_time_step_become_one_hot_at_every_time_step() -> None:
    labels = torch.tensor([[0, 2], [1, 1], [2, 0]])
    assert torch.equal(encode(labels, 3), torch.eye(3)[labels])


def test_features_stay_what_they_are_without_their_graph() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    found = encode(features, 3)
    assert torch.equal(found, features)
    assert not found.requires_grad


B, T, D, C = 2, 5, 4, 3
PER_SAMPLE = torch.randn(B, C)
PER_STEP = torch.randn(B, T, C)


@pytest.mark.parametrize(
    ("context", "shape", "batch_axis", "expected"),
    [
        (PER_SAMPLE, (B, D), 0, PER_SAMPLE),
        (PER_SAMPLE, (B, T, D), 0, PER_SAMPLE[:, None].expand(B, T, C)),
        (PER_SAMPLE, (T, B, D), 1, PER_SAMPLE[None].expand(T, B, C)),
        (PER_SAMPLE, (T, B, D), 0, PER_SAMPLE[None].expand(T, B, C)),
        (PER_SAMPLE, (B, 6, 7, D), 0, PER_SAMPLE[:, None, None].expand(B, 6, 7, C)),
        (PER_STEP, (B, T, D), 0, PER_STEP),
        (PER_STEP.transpose(0, 1), (T, B, D), 1, PER_STEP.transpose(0, 1)),
        (PER_STEP, (B * T, D), 0, PER_STEP.reshape(B * T, C)),
        (PER_STEP.reshape(B * T, C), (B, T, D), 0, PER_STEP),
    ],
    ids=[
        "sample",
        "repeated",
        "time-first",
        "guessed",
        "grid",
        "step",
        "step-time-first",
        "flat",
        "unflat",
    ],
)
def test_each_sample_meets_its_own_context(
    context: Tensor, shape: tuple[int, ...], batch_axis: int, expected: Tensor
) -> None:
    found = aligned(context, torch.Size(shape), site="rnn", batch_axis=batch_axis)
    assert torch.equal(found, expected)


def test_the_layout_decides_where_batch_and_time_have_one_size() -> None:
    square = torch.randn(4, C)
    first = aligned(square, torch.Size((4, 4, D)), site="rnn", batch_axis=0)
    second = aligned(square, torch.Size((4, 4, D)), site="rnn", batch_axis=1)
    assert torch.equal(first, square[:, None].expand(4, 4, C))
    assert torch.equal(second, square[None].expand(4, 4, C))


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        ((3,), (2, 4)),
        ((7,), (2, 5, 4)),
        ((5, 2), (2, 6, 4)),
        ((2, 5), (5, 2, 4)),
        ((6,), (2, 6, 6, 4)),
        ((2, 5), (2, 4)),
    ],
)
def test_a_context_that_fits_no_axis_is_refused_with_both_shapes(
    rows: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ContextError, match="'rnn'") as info:
        aligned(torch.zeros(*rows, C), torch.Size(shape), site="rnn")
    assert str(shape) in str(info.value)
    assert str(rows) in str(info.value)


def test_the_context_is_put_behind_the_features() -> None:
    activation, context = torch.randn(B, D, 3, 3), torch.randn(B, C)
    found = conditioned(activation, context, site="conv", axis=1)
    assert torch.equal(found[:, :D], activation)
    assert torch.equal(found[:, D:], context[:, :, None, None].expand(B, C, 3, 3))
    assert conditioned(activation.double(), context, site="conv", axis=1).dtype == torch.float64


class Recorder(DNINetwork):
    """Keeps what it was given."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.seen: list[Tensor] = []

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        self.seen.append(input)
        return torch.zeros_like(input[..., : self.output_size]), hidden


def wrapper() -> DNI:
    return DNI(nn.Linear(4, 4), Recorder, context_size=3)


def last_seen(net: DNI) -> Tensor:
    found: Tensor = net.interfaces[""].synthesizer.seen[-1][:, 4:]
    return found


def test_both_ways_to_give_a_context_do_the_same() -> None:
    net, labels = wrapper(), torch.tensor([1, 2])
    net(torch.randn(2, 4), context=labels)
    by_argument = last_seen(net)
    with net.context(labels):
        net(torch.randn(2, 4))
    assert torch.equal(by_argument, torch.eye(3)[labels])
    assert torch.equal(last_seen(net), by_argument)


def test_the_innermost_context_counts_and_the_outer_one_comes_back() -> None:
    net = wrapper()
    with net.context(torch.tensor([0])):
        with net.context(torch.tensor([1])):
            net(torch.randn(1, 4), context=torch.tensor([2]))
            assert last_seen(net).argmax() == 2
            net(torch.randn(1, 4))
            assert last_seen(net).argmax() == 1
        net(torch.randn(1, 4))
        assert last_seen(net).argmax() == 0
    with pytest.raises(ContextError):
        net(torch.randn(1, 4))


def test_a_context_ends_with_its_block_when_the_block_raises() -> None:
    net = wrapper()
    with pytest.raises(KeyError), net.context(torch.tensor([0])):
        raise KeyError
    with pytest.raises(ContextError):
        net(torch.randn(1, 4))


def test_a_network_with_an_argument_called_context_keeps_it() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.given: Any = None

        def forward(self, input: Tensor, context: Any = None) -> Tensor:
            self.given = context
            return self.layer(input)

    net = DNI(Own(), Recorder, context_size=3)
    with net.context(torch.tensor([1])):
        net(torch.randn(1, 4), context="mine")
    assert net.network.given == "mine"
    assert net.interfaces["layer"].synthesizer.seen[-1][0, 4:].argmax() == 1


def test_no_context_is_needed_where_no_synthesizer_runs() -> None:
    net, input = wrapper(), torch.randn(2, 4)
    with torch.no_grad():
        plain = net(input)
    with net.paused():
        assert torch.equal(net(input), plain)
    net.eval()
    assert torch.equal(net(input), plain)
    assert torch.equal(net(input, context=torch.tensor([0, 1])), plain)
    assert net.interfaces[""].synthesizer.seen == []
