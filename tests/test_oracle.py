"""Gradients, regression, scale and statistics of the package equal those of the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, DNINetwork
from oracle import Block, Expected, Oracle, Synthesizer, descend

CLASSES, BATCH, STEPS, RATE = 3, 4, 4, 0.01
EXACT, SINGLE = 1e-11, 3e-6
"""Norm of a difference over the norm; λ = 0.3 and the scale are kept in single precision."""


class Reader(nn.Module):
    """A recurrent layer and a linear one."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, batch_first=batch_first)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.rnn(input)[0])


class Twice(nn.Module):
    """The same hidden layer at two depths."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.hidden, self.end = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        value = self.start(input)
        for _ in range(2):
            value = self.hidden(value.tanh())
        return self.end(value.tanh())


class Apart(DNINetwork):
    """Wants the context apart from its input."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.value = nn.Linear(input_size, output_size)
        self.gate = nn.Linear(CLASSES, output_size)

    def forward(self, input: Tensor, hidden: Any, context: Tensor) -> tuple[Tensor, Any]:
        return self.value(input) * self.gate(context.to(input.dtype)), hidden


# How a synthesizer sees an activation beside one-hot labels c, and back; axes written out.
LAYOUTS: dict[str, Callable[[Callable[..., Tensor], Tensor, Tensor], Tensor]] = {
    "[B,D]": lambda f, h, c: f(h, c),
    "[B,T,D]": lambda f, h, c: f(h, c[:, None, :].expand(-1, h.shape[1], -1)),
    "[T,B,D]": lambda f, h, c: f(h, c[None, :, :].expand(h.shape[0], -1, -1)),
    "[B,C,H,W]": lambda f, h, c: f(h, c[:, :, None, None].expand(-1, -1, *h.shape[2:])),
    "[B,H,W,C]": lambda f, h, c: f(
        h.permute(0, 2, 3, 1), c[:, None, None, :].expand(-1, *h.shape[2:], -1)
    ).permute(0, 3, 1, 2),
}


@dataclass
class Case:
    """A network, the same as a chain, and what its sites look like."""

    network: Callable[[], nn.Module]
    chain: Callable[[Any], list[Block]]
    shape: tuple[int, ...]
    sites: dict[str, tuple[str, int]]
    options: dict[str, Any] = field(default_factory=dict)
    averaged: int | None = None


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.Tanh(),
        nn.LayerNorm(8),
        nn.Linear(8, 7),
        nn.Tanh(),
        nn.Linear(7, CLASSES),
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(27, 3)
    )


def normed() -> nn.Module:
    first = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(first, nn.Linear(8, CLASSES))


def leaves(network: nn.Sequential) -> list[Block]:
    """One block per module of a sequence, an interface behind each that has parameters."""
    named = network.named_children()
    return [Block(m, name if list(m.parameters()) else None) for name, m in named]


def first_only(network: nn.Sequential) -> list[Block]:
    return [Block(network[0], "0"), Block(network[1])]


def reader(network: Reader) -> list[Block]:
    rnn = network.rnn
    return [Block(rnn, "rnn", lambda h: rnn(h)[0]), Block(network.head, "head")]


def twice(network: Twice) -> list[Block]:
    hidden = [Block(nn.Tanh()), Block(network.hidden, "hidden")]
    return [
        Block(network.start, "start"),
        *hidden,
        *hidden,
        Block(nn.Tanh()),
        Block(network.end, "end"),
    ]


LINEAR = {"0": ("[B,D]", 8), "2": ("[B,D]", 8), "3": ("[B,D]", 7), "5": ("[B,D]", 3)}
MAPS = {"0": ("[B,C,H,W]", 4), "2": ("[B,C,H,W]", 3), "4": ("[B,D]", 3)}
LAST = {"0": ("[B,H,W,C]", 4), "2": ("[B,H,W,C]", 3), "4": ("[B,D]", 3)}
CASES = {
    "linear": Case(mlp, leaves, (BATCH, 6), LINEAR),
    "sigmoid": Case(mlp, leaves, (BATCH, 6), LINEAR, {"dni_network": "linear_sigmoid"}),
    "batchnorm": Case(mlp, leaves, (BATCH, 6), LINEAR, {"dni_network": "linear_batchnorm"}),
    "conv": Case(cnn, leaves, (BATCH, 2, 5, 5), MAPS),
    "conv-by-linear": Case(cnn, leaves, (BATCH, 2, 5, 5), LAST, {"dni_network": "linear"}),
    "batch-first": Case(
        lambda: Reader(True),
        reader,
        (BATCH, 6, 4),
        {"rnn": ("[B,T,D]", 5), "head": ("[B,T,D]", 3)},
        averaged=1,
    ),
    "time-first": Case(
        lambda: Reader(False),
        reader,
        (6, BATCH, 4),
        {"rnn": ("[T,B,D]", 5), "head": ("[T,B,D]", 3)},
        averaged=0,
    ),
    "twice": Case(
        Twice,
        twice,
        (BATCH, 6),
        {"start": ("[B,D]", 5), "hidden": ("[B,D]", 5), "end": ("[B,D]", 3)},
    ),
    "block": Case(normed, first_only, (BATCH, 6), {"0": ("[B,D]", 8)}, {"sites": ["0"]}),
}


def assert_near(found: Tensor | None, wanted: Tensor, tolerance: float) -> None:
    assert found is not None
    error, size = (found - wanted).norm().item(), wanted.norm().item()
    assert error <= tolerance * size + 1e-12, f"relative error {error / size if size else error}"


@dataclass
class Pair:
    """A wrapper and the oracle of the same network, with the same weights."""

    net: DNI
    oracle: Oracle
    network: nn.Module
    case: Case

    def batches(self, *, conditioned: bool, steps: int = STEPS) -> Any:
        """Input, labels, context for the wrapper, and the loss of an output."""
        rng = torch.Generator().manual_seed(7)
        for _ in range(steps):
            input = torch.randn(self.case.shape, generator=rng, dtype=torch.float64)
            labels = torch.randint(CLASSES, (BATCH,), generator=rng)
            self.labels = labels
            yield input, ({"context": labels} if conditioned else {}), self.loss(labels)

    def loss(self, labels: Tensor) -> Callable[[Tensor], Tensor]:
        axis = self.case.averaged

        def loss(output: Tensor) -> Tensor:
            logits = output[:, :CLASSES] if axis is None else output.mean(axis)
            return F.cross_entropy(logits, labels)

        return loss

    def descend(self, expected: Expected) -> None:
        """The update of the oracle's network and synthesizers."""
        for gradients in (expected.gradients, *expected.synthetic.values()):
            descend(gradients, RATE)

    def check_pass(self, expected: Expected, tolerance: float) -> None:
        """Compare the gradients that a backward pass left with the oracle's."""
        mine = dict(self.net.network.named_parameters())
        for name, theirs in self.network.named_parameters():
            wanted = expected.gradients[theirs]
            assert_near(mine[name].grad, wanted, tolerance)
        for site, wanted_by in expected.synthetic.items():
            module, _ = self.oracle.synthesizers[site]
            mine = dict(self.net.interfaces[site].synthesizer.named_parameters())
            for name, theirs in module.named_parameters():
                assert_near(mine[name].grad, wanted_by[theirs], tolerance)

    def check_statistics(self) -> None:
        """Compare the running statistics."""
        for site, found in self.net.statistics().items():
            assert found == pytest.approx(
                self.oracle.statistics(site), rel=1e-4, abs=1e-7, nan_ok=True
            ), site

    def check_parameters(self, tolerance: float) -> None:
        """Compare the parameters of network and synthesizers."""
        theirs = [*self.network.parameters()]
        ours = [*self.net.network.parameters()]
        for site, (module, _) in self.oracle.synthesizers.items():
            theirs += module.parameters()
            ours += self.net.interfaces[site].synthesizer.parameters()
        for a, b in zip(ours, theirs, strict=True):
            assert_near(a, b, tolerance)


def pair(
    case: Case,
    *,
    share: Any,
    scale_targets: bool,
    conditioned: bool,
    update: str = "manual",
    **options: Any,
) -> Pair:
    """Wrap a network, and give a copy of everything to an oracle."""
    network = case.network().double()
    net = DNI(
        network,
        **{"optim": "sgd", "grad_optim": "sgd", **case.options, **options},
        grad_lr=RATE,
        hidden_size=5,
        λ=share,
        scale_targets=scale_targets,
        context_size=CLASSES if conditioned else None,
        update=update,
    )
    made: Pair
    synthesizers: dict[str, tuple[nn.Module, Synthesizer]] = {}
    probe = torch.randn(case.shape, dtype=torch.float64)
    net(probe, **({"context": torch.zeros(BATCH).long()} if conditioned else {}))
    for site, (layout, _) in case.sites.items():
        mine = net.interfaces[site].synthesizer
        with torch.no_grad():  # a synthesizer that starts at zero would hide a lot
            for parameter in mine.parameters():
                parameter.normal_(0, 0.3)
        module = copy.deepcopy(mine)

        def synthesize(h: Tensor, module: nn.Module = module, layout: str = layout) -> Tensor:
            def run(h: Tensor, c: Tensor) -> Tensor:
                if isinstance(module, Apart):
                    return module(h, None, c)[0]
                axis = 1 if layout == "[B,C,H,W]" else -1
                return module(torch.cat((h, c), axis) if conditioned else h, None)[0]

            return LAYOUTS[layout](run, h, F.one_hot(made.labels, CLASSES).to(h.dtype))

        synthesizers[site] = module, synthesize
    copied = copy.deepcopy(network)
    oracle = Oracle(
        case.chain(copied),
        synthesizers,
        features={site: features for site, (_, features) in case.sites.items()},
        share=share if isinstance(share, dict) else dict.fromkeys(case.sites, share),
        scale_targets=scale_targets,
    )
    made = Pair(net, oracle, copied, case)
    return made


@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "context"])
@pytest.mark.parametrize("scale_targets", [False, True], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_every_gradient_and_statistic_equals_the_oracle(
    name: str, share: float, scale_targets: bool, conditioned: bool
) -> None:
    both = pair(CASES[name], share=share, scale_targets=scale_targets, conditioned=conditioned)
    tolerance = EXACT if share != 0.3 and not scale_targets else SINGLE
    for input, context, loss in both.batches(conditioned=conditioned):
        expected = both.oracle.run(input, loss)
        both.net.zero_grad()
        loss(both.net(input, **context)).backward()
        both.check_pass(expected, tolerance)
        both.net.step()
        both.descend(expected)
        both.check_statistics()
    both.check_parameters(tolerance)


@pytest.mark.parametrize("name", ["linear", "conv", "time-first", "twice"])
def test_automatic_updates_equal_the_oracle_over_many_steps(name: str) -> None:
    both = pair(CASES[name], share=0.5, scale_targets=True, conditioned=True, update="auto")
    for input, context, loss in both.batches(conditioned=True, steps=15):
        expected = both.oracle.run(input, loss)
        loss(both.net(input, **context)).backward()
        both.descend(expected)
    both.check_parameters(1e-5)
    both.check_statistics()


@pytest.mark.parametrize("scale_targets", [False, True], ids=["unscaled", "scaled"])
def test_a_synthesizer_that_takes_the_context_apart_equals_the_oracle(scale_targets: bool) -> None:
    for name in ("linear", "time-first", "batch-first"):
        both = pair(
            CASES[name], share=0.5, scale_targets=scale_targets, conditioned=True, dni_network=Apart
        )
        for input, context, loss in both.batches(conditioned=True):
            expected = both.oracle.run(input, loss)
            both.net.zero_grad()
            loss(both.net(input, **context)).backward()
            both.check_pass(expected, SINGLE)
            both.net.step()
            both.descend(expected)
            both.check_statistics()


def test_each_site_mixes_by_its_own_share_when_a_mapping_is_given() -> None:
    share = {"0": 0.0, "2": 1.0, "3": 0.5, "5": 0.25}
    both = pair(CASES["linear"], share=share, scale_targets=False, conditioned=False)
    for input, _, loss in both.batches(conditioned=False):
        expected = both.oracle.run(input, loss)
        both.net.zero_grad()
        loss(both.net(input)).backward()
        both.check_pass(expected, EXACT)


def test_the_oracle_itself_is_backpropagation_at_share_one() -> None:
    both = pair(CASES["twice"], share=1.0, scale_targets=False, conditioned=False)
    for input, _, loss in both.batches(conditioned=False):
        expected = both.oracle.run(input, loss)
        parameters = list(both.network.parameters())
        plain = torch.autograd.grad(loss(both.network(input)), parameters)
        for parameter, gradient in zip(parameters, plain, strict=True):
            assert_near(expected.gradients[parameter], gradient, EXACT)
