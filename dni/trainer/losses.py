"""The losses a config can name; adding one is one function or class and one decorator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, did_you_mean
from .registry import LOSSES


class Loss:
    """A loss term: reads keys of the state and returns one number per sample.

    Subclass it, or register a plain function of tensors; each of the inputs is a key of the state.

    Attributes:
        inputs: Arguments of `instances` by the key of the state that each of them reads.
        network: Name of the network it needs besides, or ``None``.
    """

    network: str | None = None

    def __init__(self, **inputs: str) -> None:
        self.inputs = inputs

    def instances(self, **values: Any) -> Tensor:
        """The loss of each sample, shape ``[B]``, or of the whole batch, shape ``[]``."""
        raise NotImplementedError

    def __call__(self, **values: Any) -> Tensor:
        """What `instances` returns."""
        return self.instances(**values)


def per_sample(values: Tensor) -> Tensor:
    """Mean over all axes but the first. Shape ``[B, *]`` -> ``[B]``.

    Example:
        >>> per_sample(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        tensor([2., 0.])
    """
    return values.flatten(1).mean(1) if values.dim() > 1 else values


class Pair(Loss):
    """A loss of an ``input`` against a ``target``, both keys of the state."""

    def __init__(self, input: str, target: str) -> None:
        super().__init__(input=input, target=target)


def _same_shape(input: Tensor, target: Tensor, name: str) -> None:
    if input.shape != target.shape:
        raise ConfigError(
            f"The loss `{name}` was given an input of shape {tuple(input.shape)} and a target of "
            f"shape {tuple(target.shape)}; the same shape is needed."
        )


class Distance(Pair):
    """A loss of an ``input`` against a ``target`` of the same shape."""

    def distance(self, input: Tensor, target: Tensor) -> Tensor:
        """Shapes ``[B, *]`` -> ``[B]``."""
        raise NotImplementedError

    def instances(self, *, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """Shapes ``[B, *]`` -> ``[B]``."""
        _same_shape(input, target, type(self).__name__)
        return self.distance(input, target)


@LOSSES.register("l1")
class L1(Distance):
    r"""Mean absolute difference, :math:`\frac1D \sum_d |x_{bd} - y_{bd}|`.

    Example:
        >>> L1("a", "b")(input=torch.tensor([[1.0, 2.0]]), target=torch.zeros(1, 2))
        tensor([1.5000])
    """

    def distance(self, input: Tensor, target: Tensor) -> Tensor:
        """Shapes ``[B, *]`` -> ``[B]``."""
        return per_sample((input - target).abs())


@LOSSES.register("l2")
class L2(Distance):
    r"""Mean squared difference, :math:`\frac1D \sum_d (x_{bd} - y_{bd})^2`."""

    def distance(self, input: Tensor, target: Tensor) -> Tensor:
        """Shapes ``[B, *]`` -> ``[B]``."""
        return per_sample((input - target).square())


@LOSSES.register("cosine")
class Cosine(Distance):
    r"""One minus the cosine of two vectors, :math:`1 - \hat x_b \cdot \hat y_b`."""

    def distance(self, input: Tensor, target: Tensor) -> Tensor:
        """Shapes ``[B, *]`` -> ``[B]``; features of a sample are one vector."""
        return 1 - F.cosine_similarity(input.flatten(1), target.flatten(1), dim=1)


@LOSSES.register("cross_entropy")
class CrossEntropy(Pair):
    r"""Cross entropy of logits, :math:`-\sum_c y_{bc} \log \mathrm{softmax}(x_b)_c`.

    Args:
        input: Logits ``[B, C, *]`` (``binary``: ``[B, *]``).
        target: Labels ``[B, *]`` (``hard``), probabilities ``[B, C, *]`` (``soft``) or
            probabilities of the shape of the input (``binary``).
        kind: ``"hard"``, ``"soft"`` or ``"binary"``.
        label_smoothing: Share of the target spread over all classes.

    Raises:
        ConfigError: An unknown kind; label smoothing of a binary loss.
    """

    KINDS = ("hard", "soft", "binary")

    def __init__(
        self, input: str, target: str, kind: str = "hard", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(input, target)
        if kind not in self.KINDS:
            raise ConfigError(f"`kind` is {kind!r}.{did_you_mean(str(kind), self.KINDS)}")
        if kind == "binary" and label_smoothing:
            raise ConfigError("`label_smoothing` goes with kind 'hard' or 'soft', not 'binary'.")
        self.kind, self.label_smoothing = kind, label_smoothing

    def instances(self, *, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """The loss of each sample, a mean over further axes. Shape ``[B]``."""
        if self.kind == "binary":
            _same_shape(input, target, "CrossEntropy")
            target = target.to(input.dtype)
            return per_sample(F.binary_cross_entropy_with_logits(input, target, reduction="none"))
        if self.kind == "hard":
            target = target.long()
        else:
            _same_shape(input, target, "CrossEntropy")
        smoothing = self.label_smoothing
        return per_sample(
            F.cross_entropy(input, target, reduction="none", label_smoothing=smoothing)
        )


@LOSSES.register("direct")
class Direct(Loss):
    """A value of the state is the loss: one per sample, or one for the batch.

    Args:
        input: The key.
        inverted: Whether to make it large instead of small.
    """

    def __init__(self, input: str, inverted: bool = False) -> None:
        super().__init__(input=input)
        self.sign = -1.0 if inverted else 1.0

    def instances(self, *, input: Tensor) -> Tensor:  # type: ignore[override]
        """Shape ``[B, *]`` -> ``[B]``, or ``[]`` -> ``[]``."""
        return self.sign * per_sample(input)


@LOSSES.register("kl_gaussian")
class KLGaussian(Loss):
    r"""KL divergence of Gaussians with diagonal covariance, summed over dimensions, in nats.

    .. math:: \frac12 \sum_d \left( \log\frac{\sigma_{q,d}^2}{\sigma_{p,d}^2}
              + \frac{\sigma_{p,d}^2 + (\mu_{p,d} - \mu_{q,d})^2}{\sigma_{q,d}^2} - 1 \right)

    Args:
        mean: Key of :math:`\mu_p`, ``[B, *]``.
        log_variance: Key of :math:`\log \sigma_p^2`, ``[B, *]``.
        target_mean: Key of :math:`\mu_q`; ``None`` means 0.
        target_log_variance: Key of :math:`\log \sigma_q^2`; ``None`` means 0.

    Example:
        >>> KLGaussian("m", "v")(mean=torch.ones(1, 2), log_variance=torch.zeros(1, 2))
        tensor([1.])
    """

    def __init__(
        self,
        mean: str,
        log_variance: str,
        target_mean: str | None = None,
        target_log_variance: str | None = None,
    ) -> None:
        inputs = {"mean": mean, "log_variance": log_variance}
        if target_mean is not None:
            inputs["target_mean"] = target_mean
        if target_log_variance is not None:
            inputs["target_log_variance"] = target_log_variance
        super().__init__(**inputs)

    def instances(  # type: ignore[override]
        self,
        *,
        mean: Tensor,
        log_variance: Tensor,
        target_mean: Tensor | None = None,
        target_log_variance: Tensor | None = None,
    ) -> Tensor:
        """Shapes ``[B, *]`` -> ``[B]``."""
        other = torch.zeros_like(mean) if target_mean is None else target_mean
        wide = torch.zeros_like(mean) if target_log_variance is None else target_log_variance
        ratio = log_variance - wide
        terms = ratio.exp() + (mean - other).square() / wide.exp() - 1 - ratio
        return 0.5 * terms.flatten(1).sum(1)


@LOSSES.register("distillation")
class Distillation(Distance):
    r"""KL divergence of a student from a teacher at a temperature, :math:`T^2 \, KL(p_t \| p_s)`.

    Args:
        input: The student's logits, ``[B, C]``.
        target: The teacher's logits, ``[B, C]``; it learns nothing from this.
        temperature: T, above 0.

    Source:
        Hinton et al. 2015, arXiv:1503.02531.
    """

    def __init__(self, input: str, target: str, temperature: float = 1.0) -> None:
        super().__init__(input, target)
        if not temperature > 0:
            raise ConfigError(f"`temperature` is {temperature!r}; a number above 0 is needed.")
        self.temperature = temperature

    def distance(self, input: Tensor, target: Tensor) -> Tensor:
        """Shapes ``[B, C]`` -> ``[B]``."""
        student = (input / self.temperature).log_softmax(1)
        teacher = (target.detach() / self.temperature).log_softmax(1)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).flatten(1)
        return divergence.sum(1) * self.temperature**2


class FunctionLoss(Loss):
    """A plain function of tensors as a loss: ``f(**values) -> [B]`` or ``[]``."""

    def __init__(self, function: Any, **inputs: Any) -> None:
        super().__init__(**inputs)
        self.function = function

    def instances(self, **values: Any) -> Tensor:
        """What the function returns."""
        found: Tensor = self.function(**values)
        return found
