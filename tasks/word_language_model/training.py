"""The training loop, and the loss on a text that is not learnt from."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from data import Corpus, Window, streams, windows
from history import Row, rows_from
from learners import Learner
from model import LanguageModel
from schedule import Schedule

_READERS = 16  # streams of an evaluation
_READ = 128  # steps of its windows


@dataclass(kw_only=True)
class Progress:
    """How far a run has come; with the learner's state, all it needs to go on.

    Attributes:
        epoch: How often the text was gone through.
        windows: Windows seen since.
        symbols: Symbols seen in all.
        loss: Sum of the windows' losses since the last evaluation.
        counted: Number of these windows.
        seconds: Time spent training.
        rows: The evaluations.
        best: The model with the lowest validation loss.
        test: Its mean cross-entropy on the test text, once the run is over.
    """

    epoch: int = 0
    windows: int = 0
    symbols: int = 0
    loss: float = 0.0
    counted: int = 0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    test: float | None = None

    def saved(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        return {**vars(self), "rows": [row.saved() for row in self.rows]}

    @classmethod
    def loaded(cls, saved: dict[str, Any]) -> Progress:
        """The progress that `saved` was called on."""
        return cls(**{**saved, "rows": rows_from(saved["rows"])})


def train(
    learner: Learner,
    corpus: Corpus,
    schedule: Schedule,
    progress: Progress,
    *,
    updates: int,
    batch_size: int,
    steps: int,
    evaluate_every: int,
    seed: int,
    max_steps: int | None = None,
) -> Iterator[Row]:
    """Train until there are ``updates`` of them or the schedule says stop.

    Args:
        learner: What learns; changed in place.
        corpus: Texts on the learner's device.
        schedule: Learning rates and early stopping; changed in place.
        progress: Where to go on from; changed in place.
        updates: Updates in all, those before a resume included.
        batch_size: Streams that are read side by side.
        steps: Steps of a window.
        evaluate_every: Updates between evaluations.
        seed: Decides, with the number of the epoch, where the first window begins.
        max_steps: Updates to make in this call; ``None`` for no limit.

    Yields:
        Each evaluation; ``progress`` is up to date then. Where ``max_steps`` ends the call between
        two of them, a last one that ``progress`` does not have.
    """
    text = streams(corpus.train, batch_size)
    end = updates if max_steps is None else min(updates, learner.updates + max_steps)
    ahead = 0 if learner.synthesis is None else learner.synthesis.ahead
    with tqdm(
        total=updates,
        initial=learner.updates,
        unit="update",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        span = steps * learner.accumulate
        reader = _endless(text, progress, steps=steps, span=span, ahead=ahead, seed=seed)
        while learner.updates < end and not schedule.is_over:
            target = min(end, (learner.updates // evaluate_every + 1) * evaluate_every)
            _advance(learner, schedule, progress, reader, target, bar)
            is_due = learner.updates % evaluate_every == 0 or learner.updates == updates
            row = _measure(learner, corpus, schedule, progress)
            if is_due:
                progress.loss, progress.counted = 0.0, 0
                progress.rows.append(row)
                if schedule.hear(row.valid):
                    weights = learner.model.state_dict()
                    progress.best = {name: w.clone() for name, w in weights.items()}
            yield row


def _advance(
    learner: Learner,
    schedule: Schedule,
    progress: Progress,
    reader: Iterator[Window],
    target: int,
    bar: Any,
) -> None:
    """Learn until the learner has made ``target`` updates."""
    learner.model.train()
    start, before = time.perf_counter(), learner.updates
    total = torch.tensor(progress.loss, dtype=torch.float64)
    total = total.to(learner.model.scores.weight.device)
    while learner.updates < target:
        window = next(reader)
        total += learner.learn(window, schedule.factor(learner.updates))
        progress.counted += 1
        progress.symbols += window.inputs.numel()
        if learner.updates > before:
            bar.update()
            before = learner.updates
    progress.loss = total.item()
    progress.seconds += time.perf_counter() - start


def _endless(
    text: Tensor, progress: Progress, *, steps: int, span: int, ahead: int, seed: int
) -> Iterator[Window]:
    """The windows of one epoch after the other, each epoch begun somewhere in the first span.

    Runs whose updates are made of equally many steps read the same, whatever their window.
    """
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + progress.epoch)
        offset = int(torch.randint(span, (), generator=generator))
        start = offset + progress.windows * steps
        for window in windows(text, steps, ahead=ahead, start=start):
            progress.windows += 1
            if window.is_last:
                progress.epoch, progress.windows = progress.epoch + 1, 0
            yield window


def _measure(learner: Learner, corpus: Corpus, schedule: Schedule, progress: Progress) -> Row:
    lr = learner.optimizer.param_groups[0]["lr"]
    return Row(
        update=learner.updates,
        symbols=progress.symbols,
        train=progress.loss / progress.counted,
        valid=mean_loss(learner.model, corpus.valid),
        lr=lr,
        seconds=progress.seconds,
        cosine=learner.cosine(),
    )


@torch.no_grad()
def mean_loss(model: LanguageModel, numbers: Tensor) -> float:
    """Mean cross-entropy of a text's symbols, in nats, the state carried through.

    Args:
        model: The model.
        numbers: The text. Shape ``[N]``.
    """
    model.eval()
    text = streams(numbers, min(_READERS, len(numbers) // 2))
    total, count, state = 0.0, 0, None
    for first in range(0, len(text) - 1, _READ):
        inputs, targets = text[:-1][first : first + _READ], text[1:][first : first + _READ]
        scores, state = model(inputs, state)
        loss = cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")
        total, count = total + loss.item(), count + targets.numel()
    return total / count
