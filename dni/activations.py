"""Networks that predict the activation of a site from the input of the whole network."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import CheckpointError
from .sites import SiteName, escape, unescape
from .synthesizers.base import start_at_zero
from .synthesizers.linear import PositionNorm

WIDEST = 1024
"""Most units in the hidden layer of a network that predicts an activation."""

MEMORY = 0.9
"""Weight of the past in the running mean and variance of an activation."""

EPSILON = 1e-5
"""Added to the variance of an activation, as batch normalization does."""

EXTRA = "._extra_state"


class ActivationNetwork(nn.Module):
    r"""Predicts a site's activation from the network's input.

    ``Linear -> BatchNorm -> ReLU -> Linear``, in units of the activation: with the running mean
    :math:`\mu` and standard deviation :math:`\sigma` of each of its entries, the prediction is
    :math:`\hat h = \mu + \sigma f(x)`, and :math:`f` learns :math:`(h - \mu) / \sigma` by its
    mean squared error. The last layer starts at zero, so the first prediction is the mean.

    Args:
        inputs: Number of features of the network's input, those of the context included.
        shape: Shape of the activation of one sample.

    Shapes:
        ``[B, inputs]`` -> ``[B, *shape]``.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343: synthetic inputs, in its complete unlock. The
        normalization of the target is ours.

    Example:
        >>> predictor = ActivationNetwork(4, (2, 3))
        >>> predictor(torch.randn(5, 4)).shape
        torch.Size([5, 2, 3])
    """

    mean: Tensor
    variance: Tensor
    is_known: Tensor

    def __init__(self, inputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs, self.shape = inputs, tuple(shape)
        entries = torch.Size(shape).numel()
        width = min(entries, WIDEST)
        self.hidden_layers = nn.Sequential(
            nn.Linear(inputs, width), PositionNorm(width), nn.ReLU(inplace=True)
        )
        self.final = nn.Linear(width, entries)
        start_at_zero(self.final)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("is_known", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Tensor) -> Tensor:
        """Predict the activation."""
        return self.mean + self._deviation() * self._normalized(features)

    def _normalized(self, features: Tensor) -> Tensor:
        out: Tensor = self.final(self.hidden_layers(features))
        return out.view(-1, *self.shape)

    def _deviation(self) -> Tensor:
        return (self.variance + EPSILON).sqrt()

    @torch.no_grad()
    def observe(self, activation: Tensor) -> None:
        """Bring the running mean and variance up to date. Shape ``[B, *shape]``."""
        variance, mean = torch.var_mean(activation, dim=0, correction=0)
        # The first batch counts in full; nothing here waits for the device.
        weight = torch.where(self.is_known, 1 - MEMORY, 1.0).to(mean.dtype)
        self.mean.lerp_(mean, weight)
        self.variance.lerp_(variance, weight)
        self.is_known.fill_(True)

    def learn(self, features: Tensor, activation: Tensor) -> Tensor:
        """Predict an activation, and add the gradient of the regression to the parameters'.

        Args:
            features: Input of the network, flattened, and context. Shape ``[B, inputs]``.
            activation: What the site really returned. Shape ``[B, *shape]``.

        Returns:
            The prediction. Shape ``[B, *shape]``.
        """
        self.observe(activation)
        deviation = self._deviation()
        with torch.enable_grad():
            predicted = self._normalized(features)
            F.mse_loss(predicted, (activation - self.mean) / deviation).backward()
        return self.mean + deviation * predicted.detach()

    def get_extra_state(self) -> dict[str, Any]:
        """What a wrapper needs to make this network again before any forward pass."""
        return {"inputs": self.inputs, "shape": list(self.shape)}

    def set_extra_state(self, state: Any) -> None:
        """Nothing to take over: the wrapper made this network from the same facts."""


class Activations(nn.Module):
    """The networks that predict activations, by the names of their interfaces."""

    def __contains__(self, name: SiteName) -> bool:
        return escape(name) in self._modules

    def __getitem__(self, name: SiteName) -> ActivationNetwork:
        found = self._modules[escape(name)]
        assert isinstance(found, ActivationNetwork)
        return found

    def __iter__(self) -> Iterator[SiteName]:
        return (unescape(key) for key in self._modules)

    def make(
        self, name: SiteName, inputs: int, shape: tuple[int, ...], like: Tensor
    ) -> ActivationNetwork:
        """Make one where a tensor is and of its type; torch's generator stays as it is."""
        with torch.random.fork_rng(devices=[]):
            seed = torch.initial_seed() ^ zlib.crc32(f"{name} activation".encode())
            torch.default_generator.manual_seed(seed)
            made = ActivationNetwork(inputs, shape)
        made.to(device=like.device, dtype=like.dtype)
        made.train(self.training)
        self.add_module(escape(name), made)
        return made

    def discard(self, name: SiteName) -> None:
        """Forget one."""
        del self._modules[escape(name)]


def missing_activations(
    state: Mapping[str, Any], prefix: str, activations: Activations
) -> list[tuple[SiteName, int, tuple[int, ...]]]:
    """The networks that a state has and a wrapper has not.

    Args:
        state: A ``state_dict`` with keys ``activations.<escaped name>.*``.
        prefix: What comes before ``activations`` in its keys.
        activations: Those of the wrapper.

    Returns:
        Name, inputs and shape of each.

    Raises:
        CheckpointError: One that both have is for another input or activation.
    """
    start = f"{prefix}activations."
    missing = []
    for key, saved in state.items():
        if not (key.startswith(start) and key.endswith(EXTRA)):
            continue
        name = unescape(key[len(start) : -len(EXTRA)])
        inputs, shape = int(saved["inputs"]), tuple(map(int, saved["shape"]))
        if name not in activations:
            missing.append((name, inputs, shape))
            continue
        here = activations[name]
        if (inputs, shape) != (here.inputs, here.shape):
            raise CheckpointError(
                f"The state predicts activations of shape {shape} at site {name!r} from {inputs} "
                f"features, this wrapper {here.shape} from {here.inputs}; nothing was loaded."
            )
    return missing
