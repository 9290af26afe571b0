"""Sites that return tuples, dictionaries, named tuples or recurrent states."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, SiteError

from .networks import assert_is_backprop, assert_mixes


class Pair(NamedTuple):
    first: Tensor
    second: Any


PACK: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"a": a, "b": b},
    "ordered": lambda a, b: OrderedDict(b=a, a=b),
    "namedtuple": Pair,
    "nested": lambda a, b: ({"x": [a]}, Pair(b, None)),
    "mixed": lambda a, b: (a, 7, "text", None, b.argmax(-1), b),
}


class Packed(nn.Module):
    """A site with two parameters that packs two tensors."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.weight, self.pack = nn.Parameter(torch.randn(2, 6, 4)), pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(x @ self.weight[0], (x @ self.weight[1]).tanh())


def floats(output: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(output)
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


class Reader(nn.Module):
    """Uses every tensor of what a site returns."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.site, self.head = Packed(pack), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.site(x)
        a, b = floats(self.seen)
        return self.head(a * b + a)


X = torch.linspace(-1, 1, 18, dtype=torch.float64).view(3, 6)


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_gradients_are_mixed_at_every_tensor(pack: Callable[[Tensor, Tensor], Any]) -> None:
    network = Reader(pack).double()
    assert_mixes(network, lambda net: net(X).square().sum())
    assert_is_backprop(network, lambda net: net(X).square().sum())


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_the_structure_of_the_output_is_kept(pack: Callable[[Tensor, Tensor], Any]) -> None:
    net = DNI(Reader(pack).double())
    net.eval()(X)
    expected = net.network.seen
    net.train()(X)
    actual = net.network.seen
    assert type(actual) is type(expected)
    structure = torch.utils._pytree.tree_structure
    assert structure(actual) == structure(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
    for ours, theirs in zip(floats(actual), floats(expected), strict=True):
        assert torch.equal(ours, theirs)
    assert list(net.interfaces) == ["head", "site", "site#1"]


def test_a_network_that_is_a_site_returns_what_it_returned() -> None:
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(x), "labels": torch.arange(len(x))}

    net = DNI(Outputs().double(), recursive=False)
    outputs = net(X)
    assert list(outputs) == ["logits", "labels"]
    outputs["logits"].square().sum().backward()
    assert (net.updates, list(net.interfaces)) == (1, [""])


def test_a_tensor_of_the_tuple_may_be_left_unused() -> None:
    class First(Reader):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.site(x)[0])

    network = First(PACK["tuple"]).double()
    assert_mixes(network, lambda net: net(X).square().sum())
    net = assert_is_backprop(network, lambda net: net(X).square().sum())
    assert net.statistics()["site#1"]["true_norm"] == 0.0


def test_the_number_of_tensors_may_change_from_pass_to_pass() -> None:
    net = DNI(Reader(PACK["tuple"]).double())
    net(X).square().sum().backward()
    net.network.site.pack = lambda a, b: {"only": a, "also": b, "third": a - b}
    loss = sum(t.square().sum() for t in floats(net.site(X)))
    loss.backward()
    assert list(net.interfaces) == ["head", "site", "site#1", "site#2"]


@pytest.mark.parametrize(
    "output", [torch.tensor([1, 2]), ("text", None), {"n": torch.ones(2, 2) > 0}]
)
def test_an_output_without_floats_is_refused_and_named(output: Any) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2))

        def forward(self, x: Tensor) -> Any:
            return output

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counter, self.layer = Counter(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.counter(x)
            return self.layer(x)

    net = DNI(Network().double())
    with pytest.raises(SiteError, match=r"'counter'.*floating-point.*sites="):
        net(X)
    net = DNI(net.detach(), sites=["layer"])
    net(X).sum().backward()
    assert net.updates == 1


class Encoder(nn.Module):
    """Reads a sequence; the loss uses the state after the last step."""

    def __init__(self, kind: type[nn.RNNBase], head: int | None) -> None:
        super().__init__()
        self.rnn = kind(3, 4, num_layers=2, batch_first=True)
        self.head = None if head is None else nn.Linear(4, head)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.rnn(x)
        last = state[0][-1] if isinstance(state, tuple) else state[-1]
        return last if self.head is None else self.head(last)


KINDS = [nn.LSTM, nn.GRU, nn.RNN]
SEQUENCE = torch.linspace(-1, 1, 24).view(2, 4, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [2, None], ids=["head", "bare"])
def test_a_loss_on_the_last_state_is_backprop(kind: type[nn.RNNBase], head: int | None) -> None:
    assert_is_backprop(Encoder(kind, head), lambda net: net(SEQUENCE).square().sum())


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [2, None], ids=["head", "bare"])
def test_a_loss_on_the_last_state_trains_every_weight(
    kind: type[nn.RNNBase], head: int | None, share: float
) -> None:
    net = DNI(Encoder(kind, head), lambda_=share, optim="sgd", grad_lr=0.05)
    before = {name: p.detach().clone() for name, p in net.network.named_parameters()}
    losses = []
    for _ in range(40):
        loss = (net(SEQUENCE) - 0.5).square().mean()
        loss.backward()
        losses.append(loss.item())
    assert net.updates == 40
    for name, parameter in net.network.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_on_outputs_and_state_is_backprop(kind: type[nn.RNNBase]) -> None:
    def run(net: nn.Module) -> Tensor:
        outputs, state = net(SEQUENCE)
        state = torch.cat(state) if isinstance(state, tuple) else state
        return outputs.square().sum() + state.pow(3).sum()

    assert_is_backprop(kind(3, 4, batch_first=True, bidirectional=True), run)
    net = DNI(kind(3, 4, batch_first=True))
    for _ in range(3):
        run(net).backward()
    assert net.updates == 3
    assert list(net.interfaces) == [""]
    assert net.statistics()[""]["true_norm"] > 0


def test_a_packed_sequence_keeps_its_lengths() -> None:
    class Lengths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            lengths = torch.tensor([4, 2])
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            out, _ = self.rnn(packed)
            padded, seen = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
            assert seen.tolist() == [4, 2]
            return self.head(padded)

    assert_is_backprop(Lengths(), lambda net: net(SEQUENCE).square().sum())
    net = DNI(Lengths(), lambda_=0.0)
    for _ in range(3):
        net(SEQUENCE).square().sum().backward()
    assert net.updates == 3
