"""An evaluator: how far the generator's images are from real ones, and what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.trainer.callbacks.images import tile, to_bytes
from dni.trainer.evaluators import Evaluator

from .distance import Features, frechet, train_features

if TYPE_CHECKING:
    from dni.trainer.data import Source
    from dni.trainer.trainer import Trainer

CACHE = "features.pt"
SHOWN = 64


class Frechet(Evaluator):
    """Fréchet distance of generated to real images, in the features of a classifier trained here.

    The classifier learns from the training data in a few seconds, once per run, and is kept as
    ``features.pt`` in the run's folder. The images come from the same noise every time. Reported:

    * ``distance``: to the training images, 0 at best; comparable within one data set only;
    * ``held_out``: that of the real images held out, which is as near as one may hope to come;
    * ``classes``: how many classes the images are spread over, the exponential of the entropy
      of the mean prediction: 1 where all are of one class, 10 for balanced digits;
    * ``confidence``: the classifier's mean largest probability, low for what looks like no digit;
    * ``samples``: the first 64 images, as a picture.

    Args:
        network: Name of the generator, called with noise ``[B, latent]``.
        latent: Numbers of noise for an image.
        range: Values of black and white.
        samples: How many images are generated.
        reference: How many real images at most they are compared to.
        updates: Updates of the classifier, of 64 images each.
        enlarge: Pixels of the picture for a pixel of an image, each way.
        seed: Of the noise, and of the classifier.
    """

    needs_data = False

    def __init__(
        self,
        *,
        network: str = "gen",
        latent: int = 32,
        range: Sequence[float] = (-1.0, 1.0),
        samples: int = 1000,
        reference: int = 5000,
        updates: int = 400,
        enlarge: int = 4,
        seed: int = 0,
    ) -> None:
        if samples < 2:
            raise ConfigError(f"`samples` is {samples}; a covariance needs 2 or more.")
        self.network = self.calls = network
        self.latent = latent
        self.low, self.high = range
        self.samples, self.reference, self.updates = samples, reference, updates
        self.enlarge, self.seed = enlarge, seed
        self._features: Features | None = None
        self._real = self._held_out = torch.empty(0)

    def begin(self, trainer: Trainer) -> None:
        """Train the classifier, or read what an earlier evaluation of the run kept."""
        if self._features is not None:
            return
        images, labels = _gather(trainer.data["train"], self.reference)
        held_out, _ = _gather(trainer.data["validation"], self.reference)
        classes = trainer.data["train"].num_classes or int(labels.max()) + 1
        file = None if trainer.run is None else Path(trainer.run.path) / CACHE
        if file is not None and file.exists():
            features = Features(images.shape[1], classes)
            features.load_state_dict(torch.load(file, weights_only=True))
            features.eval().requires_grad_(False)
        else:
            features = train_features(images, labels, classes, updates=self.updates, seed=self.seed)
            if file is not None:
                torch.save(features.state_dict(), file)
        self._features = features
        self._real, self._held_out = features.features(images), features.features(held_out)

    @torch.no_grad()
    def result(self, trainer: Trainer) -> dict[str, Any]:
        """Draw images and compare."""
        assert self._features is not None
        images = self.draw(trainer.networks[self.network], trainer.device)
        shares = self._features(images).softmax(1)
        mean = shares.mean(0)
        picture = tile(to_bytes(images[:SHOWN], name="samples", low=self.low, high=self.high))
        return {
            "distance": frechet(self._real, self._features.features(images)),
            "held_out": frechet(self._real, self._held_out),
            "classes": float(torch.special.entr(mean).sum().exp()),
            "confidence": float(shares.amax(1).mean()),
            "samples": picture.repeat_interleave(self.enlarge, 1).repeat_interleave(
                self.enlarge, 2
            ),
        }

    @torch.no_grad()
    def draw(self, network: nn.Module, device: torch.device) -> Tensor:
        """Images from the same noise every time. Shape ``[samples, C, H, W]``, on the CPU."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.samples, self.latent, generator=generator)
        parts: list[Tensor] = [network(part.to(device)).cpu() for part in noise.split(256)]
        return torch.cat(parts)


def _gather(source: Source, count: int) -> tuple[Tensor, Tensor]:
    """The first images of a split in the order of the data set, and their labels."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    found = 0
    for batch in source.batches(0):
        images.append(batch["image"])
        labels.append(batch["label"])
        found += len(batch["image"])
        if found >= count:
            break
    return torch.cat(images)[:count], torch.cat(labels)[:count]
