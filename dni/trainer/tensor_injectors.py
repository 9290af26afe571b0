"""Injectors that make tensors from tensors: noise, joining, another shape, augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .injectors import Injector
from .registry import INJECTORS, Registry


@INJECTORS.register("constant")
class Constant(Injector):
    """A tensor of one value, of the device and dtype of ``in``.

    Args:
        value: The value.
        shape: Shape; ``None`` means that of ``in``. -1 in front stands for its batch size.
    """

    def __init__(self, value: float = 0.0, shape: list[int] | None = None) -> None:
        self.value, self.shape = value, shape

    def inject(self, like: Tensor) -> Tensor:
        """Shape as given."""
        return (
            torch.full_like(like, self.value)
            if self.shape is None
            else like.new_full(_shape(self.shape, like), self.value)
        )


@INJECTORS.register("noise")
class Noise(Injector):
    """Random numbers, of the device and batch size of ``in``.

    Args:
        shape: Shape; -1 in front stands for the batch size. ``None`` means that of ``in``.
        mode: ``"normal"`` (mean 0) or ``"uniform"`` (from ``-scale`` to ``scale``).
        scale: Standard deviation, or largest size.
    """

    def __init__(
        self, shape: list[int] | None = None, mode: str = "normal", scale: float = 1.0
    ) -> None:
        self.shape, self.mode, self.scale = shape, _mode(mode), scale

    def inject(self, like: Tensor) -> Tensor:
        """Shape as given."""
        shape = like.shape if self.shape is None else _shape(self.shape, like)
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        return _random(shape, self.mode, dtype, like.device) * self.scale


@INJECTORS.register("add_noise")
class AddNoise(Injector):
    """A value with random numbers added; a second key of ``in`` is its scale, if there is one.

    Args:
        mode: See `Noise`.
        scale: Standard deviation or largest size, where no key gives it.
    """

    def __init__(self, mode: str = "normal", scale: float = 1.0) -> None:
        self.mode, self.scale = _mode(mode), scale

    def inject(self, value: Tensor, scale: float | Tensor | None = None) -> Tensor:
        """Shape as that of the value; a scale ``[B]`` counts per sample."""
        size = self.scale if scale is None else scale
        if isinstance(size, Tensor) and size.dim() == 1:
            size = size.view(-1, *[1] * (value.dim() - 1))
        return value + _random(value.shape, self.mode, value.dtype, value.device) * size


@INJECTORS.register("concatenate")
class Concatenate(Injector):
    """The values of ``in``, joined along an axis.

    Args:
        dim: The axis.
    """

    def __init__(self, dim: int = 1) -> None:
        self.dim = dim

    def inject(self, *values: Tensor) -> Tensor:
        """Shapes ``[B, *]`` that differ along the axis alone."""
        return torch.cat(values, self.dim)


@INJECTORS.register("reshape")
def reshape(value: Tensor, *, shape: list[int]) -> Tensor:
    """Each sample in another shape: ``[B, *]`` -> ``[B, *shape]``; one size may be -1."""
    return value.reshape(value.shape[0], *shape)


@INJECTORS.register("flatten")
def flatten(value: Tensor, *, start: int = 1, end: int = -1) -> Tensor:
    """Axes from ``start`` to ``end`` as one."""
    return value.flatten(start, end)


@INJECTORS.register("squeeze")
def squeeze(value: Tensor, *, dim: int) -> Tensor:
    """Without an axis of length 1."""
    return value.squeeze(dim)


@INJECTORS.register("unsqueeze")
def unsqueeze(value: Tensor, *, dim: int) -> Tensor:
    """With an axis of length 1 more."""
    return value.unsqueeze(dim)


@INJECTORS.register("permute")
def permute(value: Tensor, *, dims: list[int]) -> Tensor:
    """Axes in another order."""
    return value.permute(dims)


@INJECTORS.register("slice")
def slice_(value: Tensor, *, dim: int, start: int = 0, stop: int | None = None) -> Tensor:
    """A part along an axis."""
    stop = value.shape[dim] if stop is None else stop
    return value.narrow(dim, start, stop - start)


@INJECTORS.register("pad_to_multiple")
def pad_to_multiple(value: Tensor, *, dim: int, of: int, fill: float = 0.0) -> Tensor:
    """Padded at the end of an axis to a multiple; what fits already stays as it is."""
    missing = -value.shape[dim] % of
    shape = [*value.shape]
    shape[dim] = missing
    return torch.cat((value, value.new_full(shape, fill)), dim) if missing else value


@INJECTORS.register("normalize")
def normalize(value: Tensor, *, mean: Any, std: Any) -> Tensor:
    """``(value - mean) / std``, both numbers or one per channel of ``[B, C, *]``."""
    return (value - _channels(mean, value)) / _channels(std, value)


@INJECTORS.register("denormalize")
def denormalize(value: Tensor, *, mean: Any, std: Any) -> Tensor:
    """``value * std + mean``: what undoes `normalize`."""
    return value * _channels(std, value) + _channels(mean, value)


@INJECTORS.register("augment")
class Augment(Injector):
    """Transforms of torchvision v2 on images ``[B, C, H, W]``; gradients go through them.

    Args:
        transforms: Their names with their arguments, in order, such as
            ``[{type: RandomHorizontalFlip, p: 0.5}]``.
        each: Whether each sample gets transforms of its own, instead of one for the batch.
    """

    def __init__(self, transforms: list[Mapping[str, Any]], each: bool = False) -> None:
        from ..vision import import_torchvision

        import_torchvision()
        from torchvision.transforms import v2

        known = Registry("transform of torchvision")
        for name, found in vars(v2).items():
            if isinstance(found, type) and issubclass(found, torch.nn.Module):
                known.register(name)(found)
        made = []
        for spec in transforms:
            options = {key: value for key, value in spec.items() if key != "type"}
            made.append(known.find(spec["type"])(**options))
        self.transform, self.each = torch.nn.Sequential(*made), each

    def inject(self, image: Tensor) -> Any:
        """Shape ``[B, C, H, W]`` -> the same, or another size."""
        if self.each:
            return torch.stack([self.transform(one) for one in image])
        return self.transform(image)


def _shape(shape: list[int], like: Tensor) -> list[int]:
    return [like.shape[0], *shape[1:]] if shape and shape[0] == -1 else shape


def _mode(mode: str) -> str:
    if mode not in ("normal", "uniform"):
        raise ConfigError(f"`mode` is {mode!r}; 'normal' or 'uniform' is needed.")
    return mode


def _random(shape: Any, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    if mode == "normal":
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.rand(shape, dtype=dtype, device=device) * 2 - 1


def _channels(number: Any, value: Tensor) -> Tensor:
    found = torch.as_tensor(number, dtype=value.dtype, device=value.device)
    return found.view(1, -1, *[1] * (value.dim() - 2)) if found.dim() else found
