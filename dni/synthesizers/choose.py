"""Which synthesizer suits a module and its output, and synthesizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import activation, conv, dropout, pooling
from torch.nn.modules import batchnorm as batch_norm
from torch.nn.modules import instancenorm as instance_norm

from ..errors import ConfigError, did_you_mean
from .base import DNINetwork
from .conv import Conv2dDNI
from .critic import CriticDNI
from .label_free import LabelFreeCriticDNI
from .least_squares import LeastSquaresDNI
from .linear import LinearBatchNormDNI, LinearDNI, LinearSigmoidDNI
from .recurrent import RNNDNI

SynthesizerSpec = str | type[DNINetwork] | Mapping[Any, "str | type[DNINetwork]"] | None
"""What ``dni_network`` may be: a name, a class, a mapping from module type or site to either."""

SYNTHESIZERS: dict[str, type[DNINetwork]] = {
    "linear": LinearDNI,
    "linear_sigmoid": LinearSigmoidDNI,
    "linear_batchnorm": LinearBatchNormDNI,
    "rnn": RNNDNI,
    "conv2d": Conv2dDNI,
    "critic": CriticDNI,
    "label_free_critic": LabelFreeCriticDNI,
    "least_squares": LeastSquaresDNI,
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a site lays out its output.

    Attributes:
        features: Number of features of a position.
        axis: Axis of the features: -1 (last) or 1 (channels first).
        maps: Whether the output is a batch of two-dimensional feature maps, ``[B, C, H, W]``.
        batch_axis: Axis of the samples: 0, or 1 for sequences that come time first.
    """

    features: int
    axis: int = -1
    maps: bool = False
    batch_axis: int = 0


@singledispatch
def layout_of(module: nn.Module) -> Layout | None:
    """The layout of a module's output as far as the module itself tells it.

    Dispatches on the module's class and its bases, so subclasses are found.

    Args:
        module: Any module.

    Returns:
        The layout, or ``None`` if only a forward pass can tell.

    Example:
        >>> layout_of(nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU()))
        Layout(features=8, axis=1, maps=True, batch_axis=0)
    """
    return None


@layout_of.register(nn.Linear)
@layout_of.register(nn.Bilinear)
def _(module: nn.Linear | nn.Bilinear) -> Layout:
    return Layout(features=module.out_features)


@layout_of.register(nn.Embedding)
@layout_of.register(nn.EmbeddingBag)
def _(module: nn.Embedding | nn.EmbeddingBag) -> Layout:
    return Layout(features=module.embedding_dim)


@layout_of.register(nn.LayerNorm)
@layout_of.register(nn.RMSNorm)
def _(module: nn.LayerNorm | nn.RMSNorm) -> Layout | None:
    # LayerNorm2d of torchvision and its like permute to channels first around the norm.
    permutes = type(module).forward not in (nn.LayerNorm.forward, nn.RMSNorm.forward)
    return None if permutes else Layout(features=module.normalized_shape[-1])


@layout_of.register(conv._ConvNd)
def _(module: conv._ConvNd) -> Layout:
    maps = isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    return Layout(features=module.out_channels, axis=1, maps=maps)


@layout_of.register(batch_norm._NormBase)
def _(module: batch_norm._NormBase) -> Layout:
    maps = isinstance(module, nn.BatchNorm2d | instance_norm.InstanceNorm2d)
    return Layout(features=module.num_features, axis=1, maps=maps)


@layout_of.register(nn.RNNBase)
def _(module: nn.RNNBase) -> Layout:
    width = module.proj_size or module.hidden_size
    width *= 2 if module.bidirectional else 1
    return Layout(features=width, batch_axis=0 if module.batch_first else 1)


@layout_of.register(nn.RNNCellBase)
def _(module: nn.RNNCellBase) -> Layout:
    return Layout(features=module.hidden_size)


@layout_of.register(nn.Sequential)
def _(module: nn.Sequential) -> Layout | None:
    keep_layout = (activation.__name__, dropout.__name__, pooling.__name__)
    for child in reversed(module):
        known = layout_of(child)
        if known is not None or type(child).__module__ not in keep_layout:
            return known
    return None


def layout_from(module: nn.Module, output: Tensor) -> Layout:
    """The layout of an output that has been seen.

    Args:
        module: The module at the site.
        output: One of its outputs, with at least one axis.

    Returns:
        What the module tells if it fits the output; else channels first for ``[B, C, H, W]`` and
        ``[B, C, D, H, W]``, and features last for everything else.
    """
    told = layout_of(module)
    if told is None:  # a block: its last module that knows tells which axis is which
        inner = (layout_of(m) for m in reversed(list(module.modules())))
        told = next((layout for layout in inner if layout is not None), None)
    if (
        told is not None
        and output.dim() > abs(told.axis)
        and output.shape[told.axis] == told.features
    ):
        maps = told.axis == 1 and output.dim() == 4
        return replace(told, maps=maps)
    if output.dim() in (4, 5):
        return Layout(features=output.shape[1], axis=1, maps=output.dim() == 4)
    return Layout(features=output.shape[-1])


def choose(module: nn.Module, layout: Layout) -> type[DNINetwork]:
    """The synthesizer that suits a site: RNN, Conv2d or Linear.

    Args:
        module: The module at the site.
        layout: Layout of its output.

    Returns:
        `RNNDNI` for recurrent modules, `Conv2dDNI` for feature maps, else `LinearDNI`. A cell
        sees one time step at a call, so it gets a `LinearDNI`.
    """
    if isinstance(module, nn.RNNBase):
        return RNNDNI
    return Conv2dDNI if layout.maps else LinearDNI


def resolve(spec: SynthesizerSpec, site: str, module: nn.Module) -> type[DNINetwork] | None:
    """The synthesizer class that ``dni_network`` names for a site.

    Args:
        spec: The constructor's ``dni_network``.
        site: Dotted name of the site.
        module: The module there.

    Returns:
        The class, or ``None`` for the automatic choice. In a mapping a site's name comes before
        a type, and an exact type before its bases.

    Raises:
        ConfigError: An unknown name, or something that is no synthesizer.
    """
    if isinstance(spec, Mapping):
        found = [spec[key] for key in (site, *type(module).__mro__) if key in spec]
        return resolve(found[0], site, module) if found else None
    if spec is None:
        return None
    if isinstance(spec, str):
        if spec not in SYNTHESIZERS:
            hint = did_you_mean(spec, SYNTHESIZERS)
            raise ConfigError(f"`dni_network` is {spec!r}, no synthesizer.{hint}")
        return SYNTHESIZERS[spec]
    if isinstance(spec, type) and issubclass(spec, nn.Module):
        return spec
    raise ConfigError(
        f"`dni_network` is {spec!r}; a subclass of `DNINetwork`, a name "
        f"({', '.join(map(repr, SYNTHESIZERS))}) or a mapping to these is needed."
    )


def takes_context(synthesizer: type[nn.Module]) -> bool:
    """Whether a synthesizer's ``forward(input, hidden, context)`` wants the context apart."""
    return "context" in inspect.signature(synthesizer.forward).parameters
