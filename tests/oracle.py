"""What `dni` computes, a second time: slowly, with plain `torch.autograd.grad`, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor], Tensor]
Synthesizer = Callable[[Tensor], Tensor]
"""From the activation of a site to a prediction of the same shape, context and axes included."""

MEMORY = 0.98


@dataclass
class Block:
    """One function of a chain.

    Attributes:
        module: Owns the parameters.
        site: Name of the interface behind it, ``None`` for none.
        run: What the chain computes; the module itself if left out.
    """

    module: nn.Module
    site: str | None = None
    run: Callable[[Tensor], Tensor] | None = None

    def __call__(self, input: Tensor) -> Tensor:
        """The output of the block."""
        output: Tensor = (self.run or self.module)(input)
        return output


@dataclass
class Expected:
    """What one training pass must give.

    Attributes:
        gradients: Of the network's parameters, mixed at every interface.
        synthetic: Of the synthesizers' parameters, by site, from the regression.
        true: True gradient at every call of every site, in the order of the backward pass.
        mixed: Mixed gradient at the same places.
        sums: Σg², Σs², Σsg, number of entries and number of calls, by site, over all its calls.
    """

    gradients: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    synthetic: dict[str, dict[nn.Parameter, Tensor]] = field(default_factory=dict)
    true: dict[str, list[Tensor]] = field(default_factory=dict)
    mixed: dict[str, list[Tensor]] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)


class Oracle:
    """A chain of blocks with interfaces behind some of them.

    Args:
        blocks: The chain, first block first; the same module may come twice.
        synthesizers: By site, the module that owns the parameters and what it computes.
        features: By site, the number of features of a position.
        share: λ of every site.
        scale_targets: Whether synthesizers predict in units of the running root mean square.
    """

    def __init__(
        self,
        blocks: list[Block],
        synthesizers: Mapping[str, tuple[nn.Module, Synthesizer]],
        *,
        features: Mapping[str, int],
        share: Mapping[str, float],
        scale_targets: bool,
    ) -> None:
        self.blocks = blocks
        self.synthesizers = synthesizers
        self.features = features
        self.share = share
        self.scale_targets = scale_targets
        self.scale = dict.fromkeys(synthesizers, 0.0 if scale_targets else 1.0)
        self.running = {site: torch.zeros(5, dtype=torch.float64) for site in synthesizers}

    def run(self, input: Tensor, loss: Loss) -> Expected:
        """Forward and backward, one block at a time; the running statistics move on.

        Args:
            input: Input of the first block.
            loss: From the output of the last block to a scalar.
        """
        inputs, outputs = [], []
        value = input
        for block in self.blocks:
            inputs.append(value.detach().requires_grad_())
            outputs.append(block(inputs[-1]))
            value = outputs[-1]

        expected = Expected()
        top = outputs[-1].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(top), top)
        for block, start, end in reversed(list(zip(self.blocks, inputs, outputs, strict=True))):
            if block.site is not None:
                gradient = self._cross(block.site, end.detach(), gradient, expected)
            parameters = list(block.module.parameters())
            *own, gradient = torch.autograd.grad(end, [*parameters, start], gradient)
            _accumulate(expected.gradients, parameters, own)
        for site, sums in expected.sums.items():
            self._remember(site, sums)
        return expected

    def _cross(self, site: str, activation: Tensor, true: Tensor, expected: Expected) -> Tensor:
        """Go through an interface from above: what arrives below it."""
        module, synthesize = self.synthesizers[site]
        scale = self.scale[site]
        prediction = synthesize(activation)
        assert prediction.shape == activation.shape
        synthetic = (scale * prediction).detach()
        mixed = self.share[site] * true + (1 - self.share[site]) * synthetic

        target = true / scale if scale else torch.zeros_like(true)
        positions = true.numel() / self.features[site]
        regression = (prediction - target).square().sum() / positions
        parameters = list(module.parameters())
        own = torch.autograd.grad(regression, parameters)
        _accumulate(expected.synthetic.setdefault(site, {}), parameters, own)

        expected.true.setdefault(site, []).append(true)
        expected.mixed.setdefault(site, []).append(mixed)
        sums = [(true**2).sum(), (synthetic**2).sum(), (true * synthetic).sum()]
        row = torch.stack([*sums, *torch.tensor([true.numel(), 1]).to(true)])
        expected.sums[site] = expected.sums.get(site, torch.zeros_like(row)) + row
        return mixed

    def _remember(self, site: str, sums: Tensor) -> None:
        if not sums[0]:  # below a synthetic gradient of zero there is nothing to learn from
            return
        self.running[site] = MEMORY * self.running[site] + (1 - MEMORY) * sums
        if self.scale_targets:
            true, _, _, count, _ = self.running[site].tolist()
            self.scale[site] = (true / count) ** 0.5

    def statistics(self, site: str) -> dict[str, float]:
        """The statistics of a site, from their definitions."""
        true, synthetic, product, _, calls = self.running[site].tolist()
        if not true:
            nothing = dict.fromkeys(("cosine", "true_norm", "synthetic_norm"), 0.0)
            return {**nothing, "relative_error": math.nan, "scale": self.scale[site]}
        return {
            "cosine": product / (true * synthetic) ** 0.5 if synthetic else 0.0,
            "relative_error": ((true - 2 * product + synthetic) / true) ** 0.5,
            "true_norm": (true / calls) ** 0.5,
            "synthetic_norm": (synthetic / calls) ** 0.5,
            "scale": self.scale[site],
        }


def descend(gradients: Mapping[nn.Parameter, Tensor], lr: float) -> None:
    """One step of plain gradient descent."""
    with torch.no_grad():
        for parameter, gradient in gradients.items():
            parameter -= lr * gradient


def _accumulate(
    into: dict[nn.Parameter, Tensor], parameters: list[nn.Parameter], new: tuple[Tensor, ...]
) -> None:
    for parameter, gradient in zip(parameters, new, strict=True):
        into[parameter] = into[parameter] + gradient if parameter in into else gradient
