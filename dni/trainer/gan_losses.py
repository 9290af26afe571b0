"""The pair of losses of a generative adversarial network, in four kinds."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, did_you_mean
from .losses import Loss, per_sample
from .registry import LOSSES

KINDS = ("standard", "lsgan", "hinge", "relativistic")
"""Goodfellow 2014 (non-saturating), Mao 2017, Lim & Ye 2017, Jolicoeur-Martineau 2018."""


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise ConfigError(f"`kind` is {kind!r}.{did_you_mean(str(kind), KINDS)}")
    return kind


@LOSSES.register("gan_generator")
class GeneratorLoss(Loss):
    r"""What a generator learns from; :math:`f`, :math:`r` are a discriminator's outputs.

    ``standard``: :math:`\mathrm{softplus}(-f)`; ``lsgan``: :math:`(f - 1)^2`; ``hinge``:
    :math:`-f`; ``relativistic`` (average): :math:`\frac12(\mathrm{softplus}(-(f - \bar r)) +
    \mathrm{softplus}(r - \bar f))`.

    Args:
        fake: Key of the discriminator's output for generated samples, ``[B, *]``.
        real: The same for real samples; for ``relativistic`` alone.
        kind: ``standard``, ``lsgan``, ``hinge`` or ``relativistic``.

    Raises:
        ConfigError: An unknown kind, or ``real`` is missing.

    Source:
        arXiv:1406.2661, 1611.04076, 1705.02894, 1807.00734.
    """

    def __init__(self, fake: str, real: str | None = None, kind: str = "standard") -> None:
        self.kind = _kind(kind)
        inputs = {"fake": fake}
        if kind == "relativistic":
            if real is None:
                raise ConfigError("A relativistic generator loss needs `real` too.")
            inputs["real"] = real
        super().__init__(**inputs)

    def instances(self, *, fake: Tensor, real: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Shapes ``[B, *]`` -> ``[B]``."""
        if self.kind == "standard":
            return per_sample(F.softplus(-fake))
        if self.kind == "lsgan":
            return per_sample((fake - 1).square())
        if self.kind == "hinge":
            return per_sample(-fake)
        assert real is not None
        return _relativistic(fake, real)


@LOSSES.register("gan_discriminator")
class DiscriminatorLoss(Loss):
    r"""What a discriminator learns from; :math:`r`, :math:`f` are its outputs.

    ``standard``: :math:`\mathrm{softplus}(-r) + \mathrm{softplus}(f)`; ``lsgan``:
    :math:`(r - 1)^2 + f^2`; ``hinge``: :math:`\max(0, 1 - r) + \max(0, 1 + f)`;
    ``relativistic``: as the generator's with the roles of real and fake changed. The first three
    are halved, as the relativistic one is, so that a weight means the same in each.

    Args:
        real: Key of its output for real samples, ``[B, *]``.
        fake: Key of its output for generated samples, ``[B, *]``.
        kind: ``standard``, ``lsgan``, ``hinge`` or ``relativistic``.

    Raises:
        ConfigError: An unknown kind.
    """

    def __init__(self, real: str, fake: str, kind: str = "standard") -> None:
        self.kind = _kind(kind)
        super().__init__(real=real, fake=fake)

    def instances(self, *, real: Tensor, fake: Tensor) -> Tensor:  # type: ignore[override]
        """Shapes ``[B, *]`` -> ``[B]``."""
        if self.kind == "relativistic":
            return _relativistic(real, fake)
        terms: dict[str, Any] = {
            "standard": lambda: (F.softplus(-real), F.softplus(fake)),
            "lsgan": lambda: ((real - 1).square(), fake.square()),
            "hinge": lambda: (F.relu(1 - real), F.relu(1 + fake)),
        }
        up, down = terms[self.kind]()
        return 0.5 * (per_sample(up) + per_sample(down))


def _relativistic(up: Tensor, down: Tensor) -> Tensor:
    """``up`` shall be above the mean of ``down``, and ``down`` below the mean of ``up``."""
    above = per_sample(F.softplus(down.mean() - up))
    return 0.5 * (above + per_sample(F.softplus(down - up.mean())))
