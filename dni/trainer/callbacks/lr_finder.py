"""Looks for a learning rate: a few steps on copies of the networks, the rate growing each time."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, did_you_mean
from ..events import Callback
from ..registry import CALLBACKS
from ..state import State
from .sanity import rehearsal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..phases import Phase
    from ..trainer import Trainer

logger = logging.getLogger("dni.trainer")


@dataclass(frozen=True)
class LRCurve:
    """What the search saw.

    Attributes:
        rates: Learning rates, growing.
        losses: The loss at each, smoothed.
    """

    rates: list[float]
    losses: list[float]

    @property
    def suggestion(self) -> float:
        """The rate at which the loss falls fastest per factor of the rate.

        Raises:
            ConfigError: The loss never falls.
        """
        slopes = [b - a for a, b in itertools.pairwise(self.losses)]
        if not slopes or min(slopes) >= 0:
            raise ConfigError(
                "The loss falls at none of the learning rates tried, "
                f"{self.rates[0]:.3g} to {self.rates[-1]:.3g}: begin lower, or take more steps."
            )
        return self.rates[slopes.index(min(slopes))]

    def figure(self) -> Figure:
        """Loss over rate, with the suggestion."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses)
        axes.axvline(self.suggestion, color="C1", linestyle="--")
        axes.annotate(
            f" {self.suggestion:.2g}", (self.suggestion, max(self.losses)), color="C1", va="top"
        )
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
        axes.set_title("learning rate and loss; dashed: where the loss falls fastest")
        return figure


def find_lr(
    trainer: Trainer,
    step: str | None = None,
    *,
    start: float = 1e-6,
    end: float = 1.0,
    count: int = 100,
    smoothing: float = 0.9,
    diverged: float = 4.0,
) -> LRCurve:
    r"""Train copies of networks and optimizers with :math:`\eta_k = start (end/start)^{k/(n-1)}`.

    The trainer, its networks and the random state are as before afterwards.

    Args:
        trainer: The trainer, before or after a fit.
        step: Name of the step whose rate grows; ``None`` for the only one that trains.
        start: First rate.
        end: Last rate.
        count: Number of steps :math:`n`.
        smoothing: Weight of the past in the smoothed loss, corrected for its start.
        diverged: Ends early when the loss is so many times the least one.

    Raises:
        ConfigError: There is no such step, or a number is out of range.
    """
    training = {n: s for n, s in trainer.steps.items() if getattr(s, "strategy", None) is not None}
    name = next(iter(training), "") if step is None else step
    if name not in training or (step is None and len(training) > 1):
        raise ConfigError(
            f"`step` of the LR finder is {step!r}; it must be one that trains."
            f"{did_you_mean(str(step), training)}"
        )
    if not 0 < start < end or count < 3:
        raise ConfigError(
            f"The LR finder goes from {start} to {end} in {count} steps; 0 < start < end and at "
            "least 3 steps are needed."
        )
    phase = next(p for p in trainer.phases if p.training)
    kept = trainer.networks, trainer.steps, trainer.batches_per_step, trainer.counters.part
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    with rehearsal(trainer):
        try:
            trainer.networks, trainer.steps = copy.deepcopy(kept[:2])
            trainer.batches_per_step, trainer.counters.part = 1, 0
            trainer.phase = phase
            strategy: Any = getattr(trainer.steps[name], "strategy", None)
            for index, batch in enumerate(_endless(trainer, phase)):
                rate = start * (end / start) ** (index / (count - 1))
                strategy.set("lr", rate)
                trainer.step = State(batch)
                trainer.batch_size = trainer.step.batch_size()
                phase.step(trainer, trainer.step)
                mean = smoothing * mean + (1 - smoothing) * float(
                    trainer.step[f"loss/{name}/total"]
                )
                loss = mean / (1 - smoothing ** (index + 1))
                if not math.isfinite(loss) or loss > diverged * min([*losses, math.inf]):
                    break
                rates.append(rate)
                losses.append(loss)
                if len(rates) == count:
                    break
        finally:
            trainer.networks, trainer.steps, trainer.batches_per_step, trainer.counters.part = kept
    return LRCurve(rates, losses)


def _endless(trainer: Trainer, phase: Phase) -> Any:
    for epoch in itertools.count():
        for batch in trainer.data[phase.split].batches(epoch, training=True):
            yield {k: v.to(trainer.device) if hasattr(v, "to") else v for k, v in batch.items()}


@CALLBACKS.register("lr_finder")
class LRFinder(Callback):
    """Before the first step, looks for a learning rate and draws what it saw: ``lr_finder.png``.

    Args:
        step: See `find_lr`.
        apply: Whether the run takes the rate it found; if not it is only reported.
        options: Further arguments of `find_lr`.
    """

    reads = ("networks", "steps", "data")
    writes = ("record/lr_finder", "shared/lr_finder")
    run_after = ("SanityCheck",)

    def __init__(self, step: str | None = None, *, apply: bool = False, **options: Any) -> None:
        self.step, self.apply, self.options = step, apply, options

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Look for a rate, unless the run was resumed."""
        if trainer.counters.step:
            return
        curve = find_lr(trainer, self.step, **self.options)
        found = curve.suggestion
        trainer.shared["lr_finder"] = curve
        trainer.record.scalar("lr_finder/suggestion", found)
        figure = curve.figure()
        trainer.record.figure("lr_finder", figure)
        if trainer.run is not None:
            figure.savefig(Path(trainer.run.path) / "lr_finder.png", dpi=120)
        logger.info("The loss falls fastest at a learning rate of %.3g.", found)
        if self.apply:
            steps: dict[str, Any] = dict(trainer.steps)
            name = self.step or next(n for n, s in steps.items() if s.strategy is not None)
            steps[name].strategy.set("lr", found)
