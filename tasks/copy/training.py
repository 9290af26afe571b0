"""The training loop, and how a trained network does on episodes longer than those it saw."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from curriculum import Progress, Row
from episodes import Length
from learners import Learner
from windows import cut


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the loop needs to know.

    Attributes:
        window: Steps of a window; None for whole episodes.
        batch: Sequences in a batch.
        updates: After how many to stop, at the end of the episode then under way.
        row_every: Updates in a row of the table.
        threshold: Error below which a length is solved.
        longest: Largest pattern length; None for no limit.
        foresight: Steps after a window whose answers the synthesizer sees.
    """

    window: int | None
    batch: int
    updates: int
    row_every: int
    threshold: float
    longest: int | None
    foresight: int


def train(
    learner: Learner,
    progress: Progress,
    settings: Settings,
    generator: torch.Generator,
    on_row: Callable[[Row], None] = lambda row: None,
) -> None:
    """Train until the updates are made or every length is solved.

    The first window of an episode is shorter by a random number of steps, so that windows end at
    every place of an episode. The episodes come from `generator` alone.

    Args:
        learner: What learns; changed in place.
        progress: Where to go on from; changed in place.
        settings: Lengths and limits.
        generator: Draws the episodes.
        on_row: Called with each row, when `progress` is up to date.
    """
    task = learner.task
    start = time.perf_counter() - progress.seconds
    with tqdm(
        total=settings.updates,
        initial=progress.updates,
        unit="update",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        while progress.updates < settings.updates and not is_done(progress, settings):
            episode = task.make(progress.length, settings.batch, generator)
            offset = int(torch.randint(settings.window or 1, (1,), generator=generator))
            windows = cut(episode, settings.window, offset=offset, foresight=settings.foresight)
            error, updates = learner.learn(windows)
            before = progress.updates // settings.row_every
            solved = progress.record(task, error, updates, threshold=settings.threshold)
            bar.update(updates)
            if solved:
                bar.set_description(f"N = {progress.length.pattern}, R = {progress.length.repeats}")
            is_last = progress.updates >= settings.updates or is_done(progress, settings)
            if progress.updates // settings.row_every > before or is_last:
                progress.seconds = time.perf_counter() - start
                on_row(progress.end_row(learner.cosine()))


def is_done(progress: Progress, settings: Settings) -> bool:
    """Whether every length up to the largest is solved."""
    return settings.longest is not None and progress.length.pattern > settings.longest


def beyond(
    learner: Learner, length: Length, settings: Settings, generator: torch.Generator, *, limit: int
) -> list[tuple[int, float]]:
    """The error on whole episodes of longer and longer patterns, which were not trained.

    Args:
        learner: The network.
        length: The first of the lengths.
        settings: Number of sequences.
        generator: Draws the episodes.
        limit: How many lengths.

    Returns:
        Steps of an episode and error in the task's unit, for each length.
    """
    task, rows = learner.task, []
    for _ in range(limit):
        (window,) = cut(task.make(length, settings.batch, generator), None)
        rows.append((task.steps(length), learner.error(window)))
        length = task.longer(length)
    return rows
