"""Wrong uses of `TemporalDNI`: one clear sentence each, and training goes on after them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    DNI,
    AttachmentError,
    CheckpointError,
    ConfigError,
    ContextError,
    DNIError,
    ShapeError,
    TemporalDNI,
)

X = torch.linspace(-1, 1, 24).view(4, 2, 3)  # [T, B, D]
H = torch.zeros(1, 2, 5)


class Pairless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, state: Any) -> Tensor:
        return x * self.weight


class Stateless(Pairless):
    def forward(self, x: Tensor, state: Any) -> Any:
        return x * self.weight, 3


class Odd(Pairless):
    """Its output has no axis of the batch's size."""

    def forward(self, x: Tensor, state: Any) -> Any:
        return (x * self.weight).sum((0, 1)), (x * self.weight)[0]


def on(network: nn.Module, *args: Any, **kwargs: Any) -> Callable[[], object]:
    """Call a wrapper of a network."""
    return lambda: TemporalDNI(network)(*args, **kwargs)


GRU = nn.GRU(3, 5)
packed = nn.utils.rnn.pack_padded_sequence(X, [4, 2])

CASES: dict[str, tuple[Callable[[], object], type[DNIError], str]] = {
    "bidirectional": (
        lambda: TemporalDNI(nn.LSTM(3, 5, bidirectional=True)),
        ConfigError,
        r"`LSTM` is bidirectional: .* Pass `bidirectional=False`",
    ),
    "no module": (lambda: TemporalDNI("lstm"), ConfigError, "an `nn.Module` is needed"),  # type: ignore[arg-type]
    "a DNI": (
        lambda: TemporalDNI(DNI(nn.LSTM(3, 5))),
        AttachmentError,
        "is a `DNI` already; call its `detach",
    ),
    "scale": (lambda: TemporalDNI(GRU, scale=-1), ConfigError, "`scale` is -1; a number of at"),
    "scale, set later": (
        lambda: setattr(TemporalDNI(GRU), "scale", None),
        ConfigError,
        "`scale` is None; a number of at least 0",
    ),
    "train_every": (
        lambda: TemporalDNI(GRU, train_every=0),
        ConfigError,
        "`train_every` is 0; a whole number",
    ),
    "auxiliary": (
        lambda: TemporalDNI(GRU, auxiliary="yes"),  # type: ignore[arg-type]
        ConfigError,
        "`auxiliary` is 'yes'; a number of at least 0",
    ),
    "synthesizer": (
        lambda: TemporalDNI(GRU, "lineal"),
        ConfigError,
        "'lineal', no synthesizer. Did you mean 'linear'?",
    ),
    "batch_dim": (
        lambda: TemporalDNI(GRU, batch_dim=-1),
        ConfigError,
        "`batch_dim` is -1; a whole number of at least 0",
    ),
    "update": (lambda: TemporalDNI(GRU, update="now"), ConfigError, "'auto' or 'manual'"),  # type: ignore[arg-type]
    "optim": (lambda: TemporalDNI(GRU, optim="adm"), ConfigError, "`optim` is 'adm'.* 'adam'"),
    "a scaler and the auxiliary task": (
        lambda: TemporalDNI(
            GRU, auxiliary=1, grad_scaler=torch.amp.GradScaler("cpu"), update="manual"
        ),
        ConfigError,
        "`auxiliary` does not go with `grad_scaler`",
    ),
    "packed": (on(GRU, packed), ConfigError, "`PackedSequence`.*pass padded windows, and `done="),
    "no batch": (on(GRU, X[:, 0]), ShapeError, r"\(4, 3\); `GRU` .* needs \[time, batch, feat"),
    "no batch, cell": (
        on(nn.GRUCell(3, 5), X[0, 0]),
        ShapeError,
        r"\(3,\); `GRUCell` .* needs \[batch, features\]. A single sequence is a batch of one",
    ),
    "a window of 0": (on(GRU, X[:0]), ShapeError, r"\(0, 2, 3\), \[time, .* window above 0"),
    "no sequence": (on(GRU, X[:, :0]), ShapeError, "at least one step and one sequence"),
    "state of another batch": (
        on(GRU, X, torch.zeros(1, 7, 5)),
        ShapeError,
        r"The state has 7 sequences \(shape \(1, 7, 5\)\), 2 are needed.*`None` to begin an epis",
    ),
    "state of another device": (
        on(GRU, X, H.to("meta")),
        ShapeError,
        r"on meta, the network on cpu; move it there with `.to\('cpu'\)`",
    ),
    "state of another type": (
        on(GRU, X, H.double()),
        ShapeError,
        "is torch.float64, the network torch.float32",
    ),
    "state of another size": (
        on(GRU, X, torch.zeros(1, 2, 4)),
        ShapeError,
        r"have \[4\] entries per sequence, \[5\] are needed",
    ),
    "state without tensors": (on(GRU, X, ()), ShapeError, "no floating-point tensor"),
    "state without batch": (on(GRU, X, H[0, 0]), ShapeError, "without the axis 1 of sequences"),
    "done of another shape": (
        on(GRU, X, done=torch.tensor([True])),
        ShapeError,
        r"`done` has shape \(1,\); .* shape \[2\]",
    ),
    "done of another type": (
        on(GRU, X, done=torch.zeros(2)),
        ConfigError,
        r"`done` is of torch.float32; a boolean tensor of shape \[2\]",
    ),
    "done is no tensor": (on(GRU, X, done=1), ConfigError, "`done` is a int; a boolean tensor"),
    "no pair": (on(Pairless(), X), ShapeError, r"`Pairless` returned a Tensor; the pair \(output"),
    "no state": (on(Stateless(), X), ShapeError, "`Stateless` returned a state without a floating"),
    "an axis that is none of sequences": (
        lambda: TemporalDNI(GRU, batch_dim=2)(X),
        ShapeError,
        r"`GRU` returned a state .* shape \(1, 2, 5\), whose axis 2 is not .* Pass `batch_dim`",
    ),
    "context without size": (
        on(GRU, X, context=torch.tensor([0, 1])),
        ContextError,
        "Pass `context_size=`",
    ),
    "size without context": (
        lambda: TemporalDNI(GRU, context_size=3)(X),
        ContextError,
        "`context_size=3`, but no context was given",
    ),
    "context of another batch": (
        lambda: TemporalDNI(GRU, context_size=3)(X, context=torch.tensor([0, 1, 2])),
        ContextError,
        "one context per sample",
    ),
    "auxiliary without a batch axis": (
        lambda: TemporalDNI(Odd(), auxiliary=1.0)(X),
        ShapeError,
        r"needs an output \[time, 2, features\].*returned \(3,\)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_use_gets_one_clear_sentence(name: str) -> None:
    call, kind, message = CASES[name]
    with pytest.raises(kind, match=message):
        call()


def test_training_goes_on_after_errors_amid_a_sequence() -> None:
    torch.manual_seed(1)
    net, twin = TemporalDNI(nn.LSTM(3, 5)), TemporalDNI(nn.LSTM(3, 5))
    twin.load_state_dict(net.state_dict())
    state = other = None
    for _ in range(4):
        output, state = net(X, state)
        output.square().mean().backward()
        expected, other = twin(X, other)
        expected.square().mean().backward()
        wrong: list[tuple[Any, Any, Any]] = [
            (X[:0], state, None),
            (X[:, :1], state, None),
            (X, state, torch.tensor([True])),
            (X, (H, torch.zeros(1, 2, 6)), None),
        ]
        for x, start, done in wrong:
            with pytest.raises(DNIError):
                net(x, start, done=done)
    for key, value in net.state_dict().items():
        assert not isinstance(value, Tensor) or torch.equal(value, twin.state_dict()[key]), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dni_params": {"num_layers": 1}}, "hidden_layers"),
        ({"synthesizer": "rnn"}, "has a `LinearDNI`"),
        ({"optim": "adam"}, "The wrapper has an optimizer of the network, the state has none"),
        ({"auxiliary": 1.0}, "auxiliary_head.weight is missing|auxiliary"),
    ],
)
def test_a_state_of_other_arguments_is_refused_whole(options: Any, message: str) -> None:
    saved = TemporalDNI(nn.GRU(3, 5))
    net = TemporalDNI(nn.GRU(3, 5), **options)
    net(X)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(CheckpointError, match=message):
        net.load_training_state(saved.training_state())
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
