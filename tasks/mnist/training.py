"""The training loop that both scripts and the demo share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data import ImageDataset, batches
from history import Epoch, History
from learners import Learner

_TEST_BATCH = 2048


@dataclass(kw_only=True)
class Progress:
    """How far a run has come; with the learner's state, all it needs to go on.

    Attributes:
        epoch: Number of complete epochs.
        step: Number of batches done in the epoch that is not complete.
        loss: Sum of these batches' losses.
        seconds: Time they took.
        history: The complete epochs, and a last incomplete one when the run ended within it.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: History = field(default_factory=History)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        complete = History(self.history.epochs[: self.epoch])
        counts = {"epoch": self.epoch, "step": self.step, "loss": self.loss}
        return {**counts, "seconds": self.seconds, "history": complete.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """The progress that `state` was called on."""
        return cls(**{**state, "history": History.from_state(state["history"])})


def train(
    learner: Learner,
    dataset: ImageDataset,
    progress: Progress,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    max_steps: int | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> None:
    """Train until `epochs` epochs are complete or `max_steps` more batches are seen.

    Args:
        learner: What learns; changed in place.
        dataset: Images on the learner's device.
        progress: Where to go on from; changed in place.
        epochs: Epochs in all, those before a resume included.
        batch_size: Images in a batch.
        seed: Decides, with the number of the epoch, the order of the images.
        max_steps: Batches to see in this call; None for no limit.
        on_epoch: Called with each epoch's figures, when `progress` is up to date.
    """
    count = len(dataset.images)
    steps_per_epoch = count // batch_size
    steps_left = max_steps if max_steps is not None else epochs * steps_per_epoch

    while progress.epoch < epochs and steps_left > 0:
        learner.net.train()
        start = time.perf_counter()
        total = torch.tensor(progress.loss, dtype=torch.float64, device=dataset.images.device)
        order = batches(
            count, batch_size=batch_size, seed=seed, epoch=progress.epoch, skip=progress.step
        )
        title = f"epoch {progress.epoch + 1}/{epochs}"
        with tqdm(
            total=steps_per_epoch,
            initial=progress.step,
            desc=title,
            unit="batch",
            leave=False,
            disable=not sys.stderr.isatty(),
        ) as bar:
            for indices in order:
                total += learner.learn(dataset.images[indices], dataset.labels[indices])
                progress.step += 1
                steps_left -= 1
                bar.update()
                if not steps_left:
                    break
        progress.loss = total.item()
        progress.seconds += time.perf_counter() - start

        epoch = Epoch(
            number=progress.epoch + 1,
            loss=progress.loss / progress.step,
            error=test_error(learner, dataset),
            seconds=progress.seconds,
            cosines=learner.cosines(),
        )
        progress.history.epochs[progress.epoch :] = [epoch]
        if progress.step == steps_per_epoch:
            progress.epoch, progress.step = progress.epoch + 1, 0
            progress.loss = progress.seconds = 0.0
        on_epoch(epoch)


@torch.no_grad()
def test_error(learner: Learner, dataset: ImageDataset) -> float:
    """Share of the test images that are classified wrongly, in percent."""
    learner.net.eval()
    wrong = 0
    images, labels = dataset.test_images, dataset.test_labels
    for some, answers in zip(images.split(_TEST_BATCH), labels.split(_TEST_BATCH), strict=True):
        guesses: Tensor = learner.net(some).argmax(1)
        wrong += int((guesses != answers).sum())
    return 100 * wrong / len(images)
