"""How far generated images are from real ones: the Fréchet distance of their features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 32


def frechet(a: Tensor, b: Tensor) -> float:
    r"""Squared Fréchet distance of two Gaussians fitted to two sets of features.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}\left(C_a + C_b
              - 2 (C_a^{1/2} C_b \, C_a^{1/2})^{1/2}\right)

    Args:
        a: Features of one set. Shape ``[N, D]``, ``N`` at least 2.
        b: Features of the other. Shape ``[M, D]``.

    Returns:
        The distance, in squared units of the features; 0 for equal means and covariances.

    Source:
        Heusel et al. 2017, arXiv:1706.08500 (FID), there with Inception's features.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet(x, x + 3), 6), round(frechet(x, 2 * x - 1), 6)
        (9.0, 2.0)
    """
    a, b = a.double(), b.double()
    root = _root(_covariance(a))
    both = torch.linalg.eigvalsh(root @ _covariance(b) @ root).clamp(min=0).sqrt().sum()
    trace = a.var(0).sum() + b.var(0).sum() - 2 * both
    return float((a.mean(0) - b.mean(0)).square().sum() + trace)


def _covariance(features: Tensor) -> Tensor:
    """Shape ``[N, D]`` -> ``[D, D]``."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric matrix without negative eigenvalues. Shape ``[D, D]``."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


class Features(nn.Module):
    """A small classifier whose last hidden layer is what images are compared by.

    Args:
        channels: Channels of an image.
        classes: Classes it tells apart.

    Shapes:
        ``[B, C, H, W]`` -> logits ``[B, classes]``; `features` gives ``[B, 32]``.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(32 * 9, FEATURES),
            nn.Tanh(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the classes."""
        logits: Tensor = self.head(self.features(image))
        return logits


def train_features(
    images: Tensor, labels: Tensor, classes: int, *, updates: int = 400, seed: int = 0
) -> Features:
    """Train the classifier, without touching the random state of the caller.

    Args:
        images: Shape ``[N, C, H, W]``.
        labels: Shape ``[N]``.
        classes: Number of classes.
        updates: Updates of 64 images each.
        seed: Of its weights and of the order of the images.

    Returns:
        The classifier, frozen, in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = Features(images.shape[1], classes)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for _ in range(updates):
            rows = torch.randint(len(images), (64,))
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval().requires_grad_(False)
