"""The table of all synthesizers: a row for each, and what the laws need to try it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    DNI,
    RNNDNI,
    Conv2dDNI,
    CriticDNI,
    DNINetwork,
    LabelFreeCriticDNI,
    LinearBatchNormDNI,
    LinearDNI,
    LinearSigmoidDNI,
)
from dni.synthesizers import LeastSquaresDNI

CLASSES, BATCH = 3, 16


class OneSite(nn.Module):
    """A network of one module."""

    def __init__(self, site: nn.Module) -> None:
        super().__init__()
        self.site = site

    def forward(self, input: Tensor) -> Tensor:
        output = self.site(input)
        return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class Kind:
    """A kind of site.

    Attributes:
        make: Makes the module there.
        input: Shape of its input, the batch as -1.
        axes: From the axes of its output to ``[B, *, features]``, and the same back.
    """

    make: Callable[[], nn.Module]
    input: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...]]

    def sample(self, batch: int = BATCH, *, generator: torch.Generator | None = None) -> Tensor:
        """A batch of inputs; maps are smooth, so that a pool does not blur the gradient away."""
        if len(self.input) == 4:
            size = self.input[2:]
            return torch.randn(batch, self.input[1], 1, 1, generator=generator).repeat(1, 1, *size)
        return torch.randn([batch if n == -1 else n for n in self.input], generator=generator)


KINDS = {
    "[B,D]": Kind(lambda: nn.Linear(6, 5), (-1, 6), ((0, 1), (0, 1))),
    "[B,T,D]": Kind(lambda: nn.Linear(6, 5), (-1, 4, 6), ((0, 1, 2), (0, 1, 2))),
    "[B,T,D] rnn": Kind(lambda: nn.RNN(6, 5, batch_first=True), (-1, 4, 6), ((0, 1, 2), (0, 1, 2))),
    "[T,B,D] rnn": Kind(lambda: nn.RNN(6, 5), (4, -1, 6), ((1, 0, 2), (1, 0, 2))),
    "[B,C,H,W]": Kind(
        lambda: nn.Conv2d(2, 5, 3, padding=1, padding_mode="replicate"),
        (-1, 2, 4, 4),
        ((0, 2, 3, 1), (0, 3, 1, 2)),
    ),
    "[B,C,1,1]": Kind(
        lambda: nn.Conv2d(2, 5, 3, padding=1), (-1, 2, 1, 1), ((0, 2, 3, 1), (0, 3, 1, 2))
    ),
}


@dataclass(frozen=True)
class Row:
    """A synthesizer in the table.

    Attributes:
        synthesizer: Its class.
        params: Its ``dni_params``.
        kinds: The kinds of sites it serves; all laws run on the first, shapes on every one.
        contexts: Whether it is tried with labels, without them, or both.
        options: Arguments of the wrapper that it needs.
    """

    synthesizer: type[DNINetwork]
    params: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = tuple(KINDS)
    contexts: tuple[bool, ...] = (False, True)
    options: dict[str, Any] = field(default_factory=dict)

    def wrap(self, *, context: bool, kind: str | None = None, **options: Any) -> DNI:
        """A wrapper of a one-site network with this synthesizer."""
        network = OneSite(KINDS[kind or self.kinds[0]].make())
        defaults: dict[str, Any] = {"grad_lr": 0.01, "hidden_size": 16, "update": "manual"}
        return DNI(
            network,
            self.synthesizer,
            self.params,
            context_size=CLASSES if context else None,
            **{**defaults, **self.options, **options},
        )


SEQUENCES = ("[B,T,D] rnn", "[T,B,D] rnn", "[B,T,D]", "[B,D]")
TABLE = {
    **{
        f"{synthesizer.__name__}-{layers}": Row(synthesizer, {"num_layers": layers})
        for synthesizer in (LinearDNI, LinearSigmoidDNI, LinearBatchNormDNI)
        for layers in (0, 1, 2)
    },
    **{
        f"RNNDNI-{kind}-{layers}": Row(RNNDNI, {"kind": kind, "num_layers": layers}, SEQUENCES)
        for kind in ("lstm", "gru", "rnn")
        for layers in (1, 2)
    },
    "RNNDNI-bidirectional": Row(RNNDNI, {"kind": "gru", "bidirectional": True}, SEQUENCES),
    **{
        f"Conv2dDNI-{pool}-{layers}": Row(
            Conv2dDNI, {"pool": pool, "num_layers": layers}, ("[B,C,H,W]", "[B,C,1,1]")
        )
        for pool in ("none", "max", "avg")
        for layers in (0, 1, 2)
    },
    **{
        f"CriticDNI-{layers}": Row(CriticDNI, {"num_layers": layers}, contexts=(True,))
        for layers in (0, 1, 2)
    },
    "CriticDNI-own": Row(
        CriticDNI,
        {"criterion": nn.functional.mse_loss, "num_layers": 1},
        contexts=(True,),
    ),
    **{
        f"LabelFreeCriticDNI-{layers}": Row(
            LabelFreeCriticDNI, {"num_layers": layers}, contexts=(True,)
        )
        for layers in (0, 1)
    },
    **{
        f"LeastSquaresDNI-{'curves' if curves else 'plain'}": Row(
            LeastSquaresDNI,
            {"curves": curves, "ridge": 1.0},
            options={"grad_optim": "sgd", "grad_lr": 1.0},
        )
        for curves in (True, False)
    },
}

every_synthesizer = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
with_and_without_context = pytest.mark.parametrize(
    ("row", "context"),
    [
        pytest.param(row, context, id=f"{name}-{'context' if context else 'plain'}")
        for name, row in TABLE.items()
        for context in row.contexts
    ],
)


class Lesson:
    """Batches whose true gradient at the site is a linear function of activation and labels.

    Args:
        kind: The kind of the site.
        context: Whether the labels make most of the gradient, so that who does not see them
            cannot learn it.
    """

    def __init__(self, kind: Kind, *, context: bool) -> None:
        self.kind, self.context = kind, context
        self.rng = torch.Generator().manual_seed(5)
        self.matrix = torch.randn(5, 5, generator=self.rng)
        self.by_label = torch.randn(CLASSES, 5, generator=self.rng)

    def batch(self, size: int = BATCH) -> tuple[Tensor, dict[str, Tensor]]:
        """An input, and the keyword arguments of the wrapper."""
        input = self.kind.sample(size, generator=self.rng)
        self.labels = torch.randint(CLASSES, (size,), generator=self.rng)
        return input, ({"context": self.labels} if self.context else {})

    def gradient(self, activation: Tensor) -> Tensor:
        """The true gradient at the site for the last batch."""
        there, back = self.kind.axes
        rows = activation.detach().permute(there)
        told = rows @ self.matrix.to(rows)
        if self.context:
            extra = [1] * (rows.dim() - 2)
            told = 0.2 * told + 2 * self.by_label[self.labels].view(-1, *extra, 5).to(rows)
        return told.permute(back) / len(self.labels)

    def loss(self, output: Tensor) -> Tensor:
        """A scalar with that gradient."""
        return (output * self.gradient(output)).sum()


def study(net: DNI, lesson: Lesson, steps: int, *, network: bool = True) -> None:
    """Train a wrapper with ``update="manual"``."""
    for _ in range(steps):
        input, context = lesson.batch()
        net.zero_grad()
        lesson.loss(net(input.to(next(net.network.parameters()).dtype), **context)).backward()
        net.step(network=network)
