"""Appearance transfer: persons in poses they were never seen in, beside what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.trainer.evaluators import Evaluator

from .figures import Figures, paint, skeleton

GAP = 2
"""Pixels between the images of a grid."""


class Transfer(Evaluator):
    """Dresses the skeletons of some test figures as the persons of others.

    Since figures are drawn by the program, what every pair should look like is known. Reported:
    ``grid`` and ``truth``, pictures with poses from top to bottom and appearances from left to
    right; ``color_L1``, the mean absolute difference of the two; ``identified``, the share of
    images that are nearer to their own truth than to that of any other appearance in that pose.

    Args:
        network: Name of the network; called as ``network(pose, appearance)``, it returns the image
            first.
        poses: Rows.
        appearances: Columns, at least 2.
        size: Height and width of images.
        seed: Stream of the figures.

    Raises:
        ConfigError: Too few rows or columns.
    """

    needs_data = False

    def __init__(
        self,
        network: str = "vunet",
        *,
        poses: int = 6,
        appearances: int = 8,
        size: int = 32,
        seed: int = 1,
    ) -> None:
        if poses < 1 or appearances < 2:
            raise ConfigError(
                f"A grid of {poses} poses and {appearances} appearances was asked for; at least "
                "1 and 2 are needed."
            )
        self.network = self.calls = network
        self.rows, self.columns = poses, appearances
        figures = Figures("test", size=size, seed=seed)
        joints = [figures.parts(index)[0] for index in range(poses)]
        persons = [figures.parts(poses + index)[1:] for index in range(appearances)]
        self.poses = _stacked([skeleton(pose, size) for pose in joints])
        self.appearances = _stacked([paint(pose, palette, size) for pose, palette in persons])
        wanted = [
            _stacked([paint(pose, palette, size) for _, palette in persons]) for pose in joints
        ]
        self.truth = torch.stack(wanted)

    def result(self, trainer: Any) -> Mapping[str, Any]:
        """Both grids, and how far apart they are."""
        network = trainer.networks[self.network]
        device = next(network.parameters()).device
        poses = self.poses.repeat_interleave(self.columns, 0).to(device)
        appearances = self.appearances.repeat(self.rows, 1, 1, 1).to(device)
        made = network(poses, appearances)[0].cpu().view_as(self.truth)
        # Every image with every truth of its pose: [rows, columns made, columns true].
        apart = (made[:, :, None] - self.truth[:, None]).abs().flatten(3).mean(3)
        right = apart.argmin(2) == torch.arange(self.columns)
        return {
            "color_L1": apart.diagonal(dim1=1, dim2=2).mean(),
            "identified": right.float().mean(),
            "grid": grid(self.poses, self.appearances, made),
            "truth": grid(self.poses, self.appearances, self.truth),
        }


def grid(poses: Tensor, appearances: Tensor, images: Tensor) -> Tensor:
    """Poses down the left side, appearances along the top, images where they meet.

    Args:
        poses: Shape ``[R, 3, H, W]``, from 0 to 1.
        appearances: Shape ``[C, 3, H, W]``.
        images: Shape ``[R, C, 3, H, W]``.

    Returns:
        Bytes. Shape ``[3, (R + 1) (H + GAP) - GAP, (C + 1) (W + GAP) - GAP]``.
    """
    top = torch.cat((torch.ones_like(poses[:1]), appearances))[None]
    return tiled(torch.cat((top, torch.cat((poses[:, None], images), 1))))


def tiled(cells: Tensor) -> Tensor:
    """Images from 0 to 1 in rows: ``[R, C, 3, H, W]`` -> bytes, ``[3, R·(H+2)-2, C·(W+2)-2]``."""
    framed = torch.nn.functional.pad(cells, (0, GAP, 0, GAP), value=1.0)
    rows, columns, channels, height, width = framed.shape
    whole = framed.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    return (whole[:, :-GAP, :-GAP].clamp(0, 1) * 255).round().to(torch.uint8)


def _stacked(images: list[Any]) -> Tensor:
    return torch.from_numpy(numpy.stack(images))
