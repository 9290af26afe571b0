"""Tensors as pictures: layout and range are declared, never guessed from the values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import ConfigError, did_you_mean
from ..events import Callback
from ..registry import CALLBACKS
from ..when import When

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer

LAYOUTS = ("CHW", "HWC", "HW")


def to_bytes(
    images: Tensor, *, name: str, layout: str = "CHW", low: float = 0.0, high: float = 1.0
) -> Tensor:
    r"""A batch of images as bytes, :math:`255 (x - low) / (high - low)`, rounded and clipped.

    Args:
        images: The batch, its axes as ``layout`` says after the first. Shape ``[B, ...]``.
        name: Key of the batch, for messages.
        layout: ``"CHW"``, ``"HWC"`` or ``"HW"``; ``C`` is 1 or 3.
        low: Value that is black.
        high: Value that is white.

    Returns:
        Bytes; what is not a number is black. Shape ``[B, C, H, W]``.

    Raises:
        ConfigError: The layout is unknown, or the batch has other axes; or the range is empty.

    Example:
        >>> to_bytes(torch.tensor([[[-1.0, 0.0, 1.0]]]), name="x", layout="HW", low=-1.0)
        tensor([[[[  0, 128, 255]]]], dtype=torch.uint8)
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"The layout {layout!r} of image {name!r} must be one of {LAYOUTS}.")
    if not low < high:
        raise ConfigError(f"The range of image {name!r} is from {low} to {high}, which is empty.")
    if images.dim() != len(layout) + 1:
        raise ConfigError(
            f"The image {name!r} has shape {tuple(images.shape)}; layout {layout!r} needs "
            f"{len(layout) + 1} axes, the samples first. Say `layout` of the image."
        )
    batch = images.detach()
    if layout == "HW":
        batch = batch.unsqueeze(1)
    elif layout == "HWC":
        batch = batch.movedim(-1, 1)
    if batch.shape[1] not in (1, 3):
        raise ConfigError(
            f"The image {name!r} of shape {tuple(images.shape)} has {batch.shape[1]} channels in "
            f"layout {layout!r}; a picture has 1 or 3."
        )
    scaled = (batch.float() - low) * (255 / (high - low))
    return scaled.nan_to_num(0.0, 255.0, 0.0).round_().clamp_(0, 255).to(torch.uint8)


def tile(images: Tensor, *, columns: int | None = None, gap: int = 1, grey: int = 64) -> Tensor:
    """Many images in one, row by row, on a ground of grey.

    Args:
        images: Bytes. Shape ``[B, C, H, W]``, ``B`` at least 1.
        columns: Images in a row; ``None`` for about as many as there are rows.
        gap: Pixels between images.
        grey: Value of the ground.

    Returns:
        One image. Shape ``[C, rows · (H + gap) - gap, columns · (W + gap) - gap]``.

    Example:
        >>> tile(torch.full((3, 1, 1, 1), 9, dtype=torch.uint8), columns=2)
        tensor([[[ 9, 64,  9],
                 [64, 64, 64],
                 [ 9, 64, 64]]], dtype=torch.uint8)
    """
    count, channels, height, width = images.shape
    across = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / across)
    framed = functional.pad(images, (0, gap, 0, gap), value=grey)
    empty = rows * across - count
    framed = functional.pad(framed, (0, 0, 0, 0, 0, 0, 0, empty), value=grey)
    grid = framed.reshape(rows, across, channels, height + gap, width + gap)
    whole = grid.permute(2, 0, 3, 1, 4).reshape(
        channels, rows * (height + gap), across * (width + gap)
    )
    return whole[:, : whole.shape[1] - gap, : whole.shape[2] - gap]


def save_png(path: Path, image: Tensor) -> None:
    """Write an image of bytes. Shape ``[1, H, W]`` or ``[3, H, W]``; folders are made."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    array = image.cpu().movedim(0, -1).numpy()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(path)


@CALLBACKS.register("images")
class ImageDump(Callback):
    """Every so many steps, writes keys of the state as ``images/<key>/<step>.png`` of the run.

    The images of a batch are tiled into one picture, which the record gets too.

    Args:
        keys: Keys of the state.
        every: Steps between two dumps, counted from step 0 on.
        layout: Axes of one image: ``"CHW"``, ``"HWC"`` or ``"HW"``.
        range: Values that are black and white; never guessed.
        count: At most so many images of a batch.
        columns: Images in a row; ``None`` for about as many as there are rows.
    """

    reads = ("step",)
    writes = ("record/images",)

    def __init__(
        self,
        keys: Sequence[str],
        *,
        every: int = 500,
        layout: str = "CHW",
        range: tuple[float, float] = (0.0, 1.0),
        count: int = 64,
        columns: int | None = None,
    ) -> None:
        self.keys = list(keys)
        self.when = When(every=every)
        self.layout, self.count, self.columns = layout, count, columns
        self.low, self.high = range

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Write the pictures of this batch, if it is time."""
        step = trainer.counters.step
        if not (phase.training and trainer.ends_step and self.when.fires(step)):
            return
        for key in self.keys:
            if key not in trainer.step:
                raise ConfigError(
                    f"The image dump reads {key!r}, which neither the data nor a step writes."
                    f"{did_you_mean(key, trainer.step)}"
                )
            images = trainer.step[key][: self.count]
            pictures = to_bytes(images, name=key, layout=self.layout, low=self.low, high=self.high)
            picture = tile(pictures, columns=self.columns)
            trainer.record.image(key, picture)
            if trainer.run is not None:
                save_png(Path(trainer.run.path) / "images" / key / f"{step:07d}.png", picture)
