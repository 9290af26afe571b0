"""Losses of images: differences of neighbours, and features of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError, did_you_mean
from .losses import Distance, Pair, per_sample
from .registry import LOSSES


@LOSSES.register("image_gradient")
class ImageGradient(Distance):
    """Mean absolute difference of the horizontal and of the vertical differences of two images."""

    def distance(self, input: Tensor, target: Tensor) -> Tensor:
        """Shapes ``[B, C, H, W]`` -> ``[B]``."""
        difference = input - target
        across = per_sample(difference.diff(dim=-1).abs())
        return across + per_sample(difference.diff(dim=-2).abs())


@LOSSES.register("perceptual")
class Perceptual(Pair):
    """Distance of the features that a network of the user's gives to two images.

    Args:
        input: Key of the image that learns, ``[B, *]``.
        target: Key of the image it should look like.
        network: Name of the network; it does not learn from this, the image does.
        layers: Names of the modules whose outputs count; ``None`` means the network's output.
        distance: ``"l1"`` or ``"l2"``; the mean over all features of a layer, summed over layers.
    """

    def __init__(
        self,
        input: str,
        target: str,
        network: str,
        layers: list[str] | None = None,
        distance: str = "l1",
    ) -> None:
        super().__init__(input, target)
        if distance not in ("l1", "l2"):
            raise ConfigError(f"`distance` is {distance!r}.{did_you_mean(distance, ['l1', 'l2'])}")
        self.network, self.layers, self.distance = network, layers, distance

    def instances(  # type: ignore[override]
        self, *, input: Tensor, target: Tensor, network: nn.Module
    ) -> Tensor:
        """Shapes ``[B, *]`` -> ``[B]``."""
        features = self._features(network, input)
        with torch.no_grad():
            wanted = self._features(network, target)
        gaps = (f - w for f, w in zip(features, wanted, strict=True))
        each = [per_sample(g.abs() if self.distance == "l1" else g.square()) for g in gaps]
        return torch.stack(each).sum(0)

    def _features(self, network: nn.Module, image: Tensor) -> list[Tensor]:
        if self.layers is None:
            return [network(image)]
        known = dict(network.named_modules())
        found: list[Tensor] = []
        handles = []
        for layer in self.layers:
            if layer not in known:
                raise ConfigError(
                    f"`layers` names {layer!r}, no module of network {self.network!r}."
                    f"{did_you_mean(layer, known)}"
                )
        try:
            for layer in self.layers:
                hook = lambda _m, _i, output: found.append(output)  # noqa: E731
                handles.append(known[layer].register_forward_hook(hook))
            network(image)
        finally:
            for handle in handles:
                handle.remove()
        return found
