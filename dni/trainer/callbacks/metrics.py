"""Reports losses and metrics: in training since the last report, in validation over everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ConfigError
from ..events import Callback
from ..phases import Phase
from ..registry import CALLBACKS
from ..state import State, shown
from .tally import FunctionTally, Metric, Tally

if TYPE_CHECKING:
    from ..trainer import Trainer

LOSS = "loss/"
"""What the keys of losses in the state begin with."""


@CALLBACKS.register("metrics")
class Metrics(Callback):
    """Reports losses and metrics: at ``log`` while training, over all samples in validation.

    Reported are, for a phase called ``train`` and a metric ``accuracy``: ``train/accuracy``, the
    mean since the last report (of a class with its own sums: over the epoch so far), and at the
    end of the epoch ``train/epoch/accuracy``; for a phase that does not train,
    ``validation/accuracy``. All means are weighted by the number of samples. A metric is left out
    of a phase that does not write its keys.

    Args:
        metrics: By name, a `Metric` or its arguments as a mapping.
        losses: Whether everything in the state under ``loss/`` is reported too.

    Raises:
        ConfigError: At a step: no phase writes what a metric reads, or it cannot be computed.

    Example:
        >>> callback = Metrics({"accuracy": {"type": "accuracy", "input": "y", "target": "t"}})
        >>> list(callback.metrics)
        ['accuracy']
    """

    reads = ("step",)
    writes = ("record/metrics", "shared/metrics")

    def __init__(
        self,
        metrics: Mapping[str, Metric | Mapping[str, Any]] | None = None,
        *,
        losses: bool = True,
    ) -> None:
        self.metrics = {
            name: spec if isinstance(spec, Metric) else Metric(name, **spec)
            for name, spec in (metrics or {}).items()
        }
        self.losses = losses
        self._tallies: dict[str, dict[str, Tally]] = {}
        self._measured: set[str] = set()
        self._absent: dict[str, set[str]] = {}

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Take in the batch."""
        state, size = trainer.step, trainer.batch_size
        tallies = self._tallies.setdefault(phase.name, {})
        if self.losses:
            for key, value in state.items():
                if key.startswith(LOSS):
                    tally = tallies.get(key)
                    if tally is None:
                        tally = tallies[key] = FunctionTally(_same)
                    tally.update([value], size)
        for name, metric in self.metrics.items():
            if metric.train or not phase.training:
                if (missing := metric.missing(state)) is not None:
                    self._pass_over(trainer, phase, metric, missing)
                    continue
                if name not in tallies:
                    tallies[name] = metric.tally()
                    self._measured.add(name)
                _measure(metric, tallies[name], state, size)

    def _pass_over(self, trainer: Trainer, phase: Phase, metric: Metric, missing: str) -> None:
        """Leave a metric out of a step that does not write its keys, if another step or phase may.

        Raises:
            ConfigError: None of the phases that ran writes them, and there is no other.
        """
        if metric.name in self._measured:
            return
        if any(type(other).step is Phase.step for other in trainer.phases) and any(
            missing in (getattr(step, "writes", None) or ()) for step in trainer.steps.values()
        ):
            return
        absent = self._absent.setdefault(metric.name, set())
        absent.add(phase.name)
        if all(p.name in absent for p in trainer.phases if metric.train or not p.training):
            metric.values(trainer.step)

    def on_log(self, trainer: Trainer, phase: Phase) -> None:
        """Report what was measured since the last time."""
        for name, tally in self._tallies.get(phase.name, {}).items():
            if tally.is_fresh:
                trainer.record.scalar(f"{phase.name}/{name}", tally.window())

    def on_validate_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Forget a validation that was broken off."""
        self._reset(phase)

    def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
        """Report the means over all samples."""
        self._report(trainer, phase, f"{phase.name}/")

    def on_epoch_end(self, trainer: Trainer, phase: Phase) -> None:
        """Report the means over the epoch."""
        if phase.training:
            self._report(trainer, phase, f"{phase.name}/epoch/")

    def _report(self, trainer: Trainer, phase: Phase, prefix: str) -> None:
        values = trainer.shared.setdefault("metrics", {})
        for name in [name for name in values if name.startswith(prefix)]:
            del values[name]
        for name, tally in self._tallies.get(phase.name, {}).items():
            values[prefix + name] = tally.epoch()
            trainer.record.scalar(prefix + name, values[prefix + name])
        self._reset(phase)

    def _reset(self, phase: Phase) -> None:
        # Losses come and go with their windows: those of the last epoch are not reported again.
        self._tallies.pop(phase.name, None)

    def state_dict(self) -> dict[str, Any]:
        """The sums of every phase."""
        return {
            phase: {name: tally.state_dict() for name, tally in tallies.items()}
            for phase, tallies in self._tallies.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; metrics that the config no longer has are left out."""
        self._tallies = {}
        for phase, saved in state.items():
            for name, sums in saved.items():
                if name not in self.metrics and not name.startswith(LOSS):
                    continue
                metric = self.metrics.get(name)
                tally = FunctionTally(_same) if metric is None else metric.tally()
                tally.load_state_dict(sums)
                self._tallies.setdefault(phase, {})[name] = tally
                self._measured.add(name)


def _measure(metric: Metric, tally: Tally, state: State, size: int) -> None:
    values = metric.values(state)
    try:
        tally.update(values, size)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as err:
        given = ", ".join(
            f"{key!r} {shown(value)}" for key, value in zip(metric.keys, values, strict=True)
        )
        raise ConfigError(
            f"The metric {metric.name!r} cannot be computed of {given}: {type(err).__name__}: {err}"
        ) from err


def _same(value: Tensor) -> Tensor:
    return value
