"""An episode cut into windows, and the answers that are due after each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Window:
    """Some steps of an episode; shapes as there.

    Attributes:
        inputs: Shape ``[T, B, inputs]``.
        targets: Shape ``[T, B, outputs]``.
        asked: Shape ``[T]``.
        due: What the synthesizer may see at the window's end, see `answers_due`.
        is_last: Whether the episode ends with it.
    """

    inputs: Tensor
    targets: Tensor
    asked: Tensor
    due: Tensor | None
    is_last: bool


def cut(
    episode: tuple[Tensor, Tensor, Tensor],
    size: int | None,
    *,
    offset: int = 0,
    foresight: int = 0,
) -> Iterator[Window]:
    """Cut an episode into windows.

    Args:
        episode: An `Episode`: inputs, targets, and which steps are asked for.
        size: Steps of a window; None for the whole episode at once.
        offset: Steps by which the first window is shorter.
        foresight: Number of steps after a window whose answers `Window.due` tells.

    Example:
        >>> from episodes import TASKS, Length
        >>> episode = TASKS["copy"].make(Length(pattern=3), 2, torch.Generator())
        >>> [len(window.inputs) for window in cut(episode, 4, offset=1)]
        [3, 4, 1]
    """
    inputs, targets, asked = episode
    steps = len(inputs)
    start, end = 0, steps if size is None else size - offset
    while start < steps:
        end = min(end, steps)
        yield Window(
            inputs=inputs[start:end],
            targets=targets[start:end],
            asked=asked[start:end],
            due=answers_due(targets, asked, end, foresight) if foresight else None,
            is_last=end == steps,
        )
        start, end = end, end + (size or steps)


def due_size(outputs: int, foresight: int) -> int:
    """Number of features of `answers_due`."""
    return (outputs + 1) * foresight


def answers_due(targets: Tensor, asked: Tensor, step: int, count: int) -> Tensor:
    """The answers of the steps from `step` on: twice the target less one, and whether it is asked.

    Steps that are not asked for and those after the end are zeros.

    Args:
        targets: Of an episode. Shape ``[T, B, outputs]``.
        asked: Of which steps it asks for an answer. Shape ``[T]``.
        step: The first of the steps.
        count: How many.

    Returns:
        Shape ``[B, (outputs + 1) * count]``.
    """
    targets, asked = targets[step : step + count], asked[step : step + count]
    signed = (2 * targets - 1) * asked[:, None, None]
    marks = asked[:, None, None].expand(-1, targets.shape[1], 1)
    features = F.pad(torch.cat([signed, marks], 2), (0, 0, 0, 0, 0, count - len(asked)))
    return features.transpose(0, 1).flatten(1)
