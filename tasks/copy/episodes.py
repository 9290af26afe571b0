"""The four tasks: what an episode shows, what it asks for, and how long it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BITS = 6
SYMBOLS = 5  # numbers 0 to 4, as the adding and argmax tasks of pytorch-dnc have


@dataclass(frozen=True, kw_only=True)
class Length:
    """How hard an episode is.

    Attributes:
        pattern: Symbols or numbers to remember, N.
        repeats: How often the pattern is asked for, R.
    """

    pattern: int = 1
    repeats: int = 1


class Episode(NamedTuple):
    """A batch of sequences of one length; ``T`` steps, ``B`` sequences.

    Attributes:
        inputs: What the network sees. Shape ``[T, B, inputs]``.
        targets: What it is to answer. Shape ``[T, B, outputs]``.
        asked: 1 at the steps that are asked for, 0 at the others. Shape ``[T]``.
    """

    inputs: Tensor
    targets: Tensor
    asked: Tensor


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a task consists of.

    Attributes:
        name: As on the command line.
        inputs: Features of a step's input.
        outputs: Features of a step's answer.
        unit: What its error is measured in.
        is_binary: Whether answers are bits, with cross-entropy in bits for each, or numbers,
            with the squared error.
        make: Draws an episode of a length for a batch.
        steps: Steps of an episode of a length.
        repeats: Whether the curriculum lengthens the number of repeats too.
    """

    name: str
    inputs: int
    outputs: int
    unit: str
    is_binary: bool
    make: Callable[[Length, int, torch.Generator], Episode]
    steps: Callable[[Length], int]
    repeats: bool = False

    def losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The loss of each step, averaged over the batch: nats for each bit, or squared error.

        Args:
            answers: Logits, or numbers. Shape ``[T, B, outputs]``.
            targets: Shape ``[T, B, outputs]``.

        Returns:
            Shape ``[T]``.
        """
        if self.is_binary:
            each = F.binary_cross_entropy_with_logits(answers, targets, reduction="none")
        else:
            each = F.mse_loss(answers, targets, reduction="none")
        return each.mean((1, 2))

    def error(self, loss: float) -> float:
        """A loss in the task's unit."""
        return loss / math.log(2) if self.is_binary else loss

    def longer(self, length: Length) -> Length:
        """The next length of the curriculum: N + 1, or R up to N and then N + 1.

        Example:
            >>> length, lengths = Length(), []
            >>> for _ in range(4):
            ...     length = TASKS["repeat_copy"].longer(length)
            ...     lengths.append((length.pattern, length.repeats))
            >>> lengths
            [(2, 1), (2, 2), (3, 2), (3, 3)]
        """
        if self.repeats and length.repeats < length.pattern:
            return replace(length, repeats=length.repeats + 1)
        return replace(length, pattern=length.pattern + 1)


def copy(length: Length, batch: int, generator: torch.Generator) -> Episode:
    """Start mark, N random symbols, end mark; then the N symbols are asked for."""
    pattern = _pattern(length, batch, generator)
    return _asked_again(pattern, pattern, end_mark=1.0)


def repeat_copy(length: Length, batch: int, generator: torch.Generator) -> Episode:
    """The same with the number of repeats, R / 10, as the end mark; N R symbols and an end bit."""
    pattern = _pattern(length, batch, generator)
    answer = F.pad(pattern.repeat(length.repeats, 1, 1), (0, 1))
    end = torch.zeros(1, batch, BITS + 1)
    end[..., BITS] = 1
    return _asked_again(pattern, torch.cat([answer, end]), end_mark=length.repeats / 10)


def adding(length: Length, batch: int, generator: torch.Generator) -> Episode:
    """N numbers, then a mark; the sum is asked for with the mark."""
    numbers = torch.randint(SYMBOLS, (length.pattern, batch), generator=generator)
    return _asked_once(numbers, numbers.sum(0))


def argmax(length: Length, batch: int, generator: torch.Generator) -> Episode:
    """N numbers, then a mark; with it the place of the largest is asked for, the last of equals."""
    numbers = torch.randint(SYMBOLS, (length.pattern, batch), generator=generator)
    places = torch.arange(length.pattern)[:, None]
    return _asked_once(numbers, (numbers * length.pattern + places).argmax(0))


def _pattern(length: Length, batch: int, generator: torch.Generator) -> Tensor:
    shape = (length.pattern, batch, BITS)
    return torch.randint(2, shape, generator=generator).float()


def _asked_again(pattern: Tensor, answer: Tensor, *, end_mark: float) -> Episode:
    seen, batch, bits = pattern.shape
    inputs = torch.zeros(seen + 2 + len(answer), batch, bits + 2)
    inputs[0, :, bits] = 1
    inputs[1 : seen + 1, :, :bits] = pattern
    inputs[seen + 1, :, bits + 1] = end_mark
    targets = F.pad(answer, (0, 0, 0, 0, seen + 2, 0))
    return Episode(inputs=inputs, targets=targets, asked=_last(len(inputs), len(answer)))


def _asked_once(numbers: Tensor, answer: Tensor) -> Episode:
    seen, batch = numbers.shape
    symbols = F.pad(numbers, (0, 0, 0, 1), value=SYMBOLS)
    targets = torch.zeros(seen + 1, batch, 1)
    targets[-1, :, 0] = answer
    inputs = F.one_hot(symbols, SYMBOLS + 1).float()
    return Episode(inputs=inputs, targets=targets, asked=_last(seen + 1, 1))


def _last(steps: int, count: int) -> Tensor:
    return (torch.arange(steps) >= steps - count).float()


TASKS = {
    task.name: task
    for task in [
        Task(
            name="copy",
            inputs=BITS + 2,
            outputs=BITS,
            unit="bits",
            is_binary=True,
            make=copy,
            steps=lambda length: 2 * length.pattern + 2,
        ),
        Task(
            name="repeat_copy",
            inputs=BITS + 2,
            outputs=BITS + 1,
            unit="bits",
            is_binary=True,
            make=repeat_copy,
            steps=lambda length: (length.repeats + 1) * length.pattern + 3,
            repeats=True,
        ),
        Task(
            name="adding",
            inputs=SYMBOLS + 1,
            outputs=1,
            unit="squared error",
            is_binary=False,
            make=adding,
            steps=lambda length: length.pattern + 1,
        ),
        Task(
            name="argmax",
            inputs=SYMBOLS + 1,
            outputs=1,
            unit="squared error",
            is_binary=False,
            make=argmax,
            steps=lambda length: length.pattern + 1,
        ),
    ]
}
