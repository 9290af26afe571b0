"""Every loss against torch's own or the closed form, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from dni.errors import ConfigError
from dni.trainer.gan_losses import DiscriminatorLoss, GeneratorLoss
from dni.trainer.image_losses import ImageGradient, Perceptual
from dni.trainer.losses import (
    L1,
    L2,
    Cosine,
    CrossEntropy,
    Direct,
    Distillation,
    KLGaussian,
)
from dni.trainer.terms import make_loss


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_l1_l2_and_cosine_are_those_of_torch() -> None:
    x, y = noise(5, 3, 2), noise(5, 3, 2)
    close(L1("x", "y")(input=x, target=y).mean(), F.l1_loss(x, y))
    close(L2("x", "y")(input=x, target=y).mean(), F.mse_loss(x, y))
    ones = torch.ones(5, dtype=torch.float64)
    expected = F.cosine_embedding_loss(x.flatten(1), y.flatten(1), ones)
    close(Cosine("x", "y")(input=x, target=y).mean(), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_labels_and_of_probabilities(smoothing: float) -> None:
    x, labels, soft = noise(6, 4), torch.arange(6) % 4, noise(6, 4).softmax(1)
    for kind, target in (("hard", labels), ("soft", soft)):
        found = CrossEntropy("x", "y", kind, smoothing)(input=x, target=target)
        assert found.shape == (6,)
        close(found.mean(), F.cross_entropy(x, target, label_smoothing=smoothing))


def test_binary_cross_entropy_is_that_of_torch() -> None:
    x, y = noise(6, 4), torch.rand(6, 4, dtype=torch.float64)
    found = CrossEntropy("x", "y", "binary")(input=x, target=y)
    close(found.mean(), F.binary_cross_entropy_with_logits(x, y))


def test_direct_and_inverted() -> None:
    x = noise(3, 2)
    close(Direct("x")(input=x), x.mean(1))
    close(Direct("x", inverted=True)(input=x.sum()), -x.sum())


def test_kl_of_gaussians_is_that_of_torch() -> None:
    m, v, n, w = (noise(4, 3) for _ in range(4))
    p, q = Normal(m, (v / 2).exp()), Normal(n, (w / 2).exp())
    found = KLGaussian("m", "v", "n", "w")(
        mean=m, log_variance=v, target_mean=n, target_log_variance=w
    )
    close(found, kl_divergence(p, q).sum(1))
    unit = Normal(torch.zeros_like(m), torch.ones_like(m))
    close(KLGaussian("m", "v")(mean=m, log_variance=v), kl_divergence(p, unit).sum(1))


def test_image_gradient_by_hand() -> None:
    x, y = noise(2, 1, 3, 4), noise(2, 1, 3, 4)
    d = x - y
    across = (d[..., 1:] - d[..., :-1]).abs().mean((1, 2, 3))
    down = (d[..., 1:, :] - d[..., :-1, :]).abs().mean((1, 2, 3))
    close(ImageGradient("x", "y")(input=x, target=y), across + down)


def test_distillation_is_the_divergence_from_the_teacher_at_a_temperature() -> None:
    x, y = noise(4, 5).requires_grad_(), noise(4, 5).requires_grad_()
    found = Distillation("x", "y", 3.0)(input=x, target=y)
    p, q = (y / 3).softmax(1), (x / 3).softmax(1)
    close(found, 9 * (p * (p.log() - q.log())).sum(1))
    found.sum().backward()
    assert x.grad is not None
    assert y.grad is None


def test_perceptual_features_reach_the_input_and_leave_no_hook() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = noise(5, 4).requires_grad_(), noise(5, 4)
    found = Perceptual("x", "y", "net", ["0", "2"], "l2")(input=x, target=y, network=net)
    first = (net[0](x) - net[0](y)).square().mean(1)
    close(found, first + (net(x) - net(y)).square().mean(1))
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0
    assert all(not m._forward_hooks for m in net.modules())
    with pytest.raises(ConfigError, match="no module of network"):
        Perceptual("x", "y", "net", ["7"])(input=x, target=y, network=net)


@pytest.mark.parametrize("kind", ["standard", "lsgan", "hinge", "relativistic"])
def test_the_gan_pair(kind: str) -> None:
    r, f = noise(5, 1), noise(5, 1)
    one, zero = torch.ones_like(r), torch.zeros_like(r)
    bce = F.binary_cross_entropy_with_logits
    generator, discriminator = {
        "standard": (bce(f, one), (bce(r, one) + bce(f, zero)) / 2),
        "lsgan": (F.mse_loss(f, one), (F.mse_loss(r, one) + F.mse_loss(f, zero)) / 2),
        "hinge": (-f.mean(), ((1 - r).clamp_min(0).mean() + (1 + f).clamp_min(0).mean()) / 2),
        "relativistic": (
            (bce(f - r.mean(), one) + bce(r - f.mean(), zero)) / 2,
            (bce(r - f.mean(), one) + bce(f - r.mean(), zero)) / 2,
        ),
    }[kind]
    real = {"real": r} if kind == "relativistic" else {}
    made = GeneratorLoss("f", "r" if real else None, kind)
    close(made(fake=f, **real).mean(), generator)
    close(DiscriminatorLoss("r", "f", kind)(real=r, fake=f).mean(), discriminator)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "cross_entrpy"}, "Did you mean 'cross_entropy'"),
        ({"type": "l1", "input": "x", "targt": "y"}, "Did you mean 'target'"),
        ({"type": "l1", "input": "x"}, "needs `target`"),
        ({"type": "gan_generator", "fake": "x", "kind": "hing"}, "Did you mean 'hinge'"),
        ({"type": "gan_generator", "fake": "x", "kind": "relativistic"}, "needs `real`"),
    ],
)
def test_bad_losses_are_explained(spec: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loss(spec)
