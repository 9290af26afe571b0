"""Stores what an evaluation gives for each example, and runs functions on what was stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import ConfigError, did_you_mean
from .evaluation import FOLDER, ends_epochs
from .events import Callback
from .findings import Findings, run_function
from .fingerprint import describe
from .output_writer import OutputWriter

if TYPE_CHECKING:
    from .phases import Phase
    from .trainer import Trainer

logger = logging.getLogger("dni.trainer")
EVAL_OP = "eval/"
"""What the keys begin with that the ``eval_op`` of a class with ``step_op`` gives."""


class Outputs(Callback):
    """Writes keys of the state to ``evaluation/<split>_step-<updates>/``, row i for example i.

    See `dni.trainer.evaluation.StoredOutputs` for how they are read.

    Args:
        keys: Keys of the state; ``None``: what ``eval_op`` of a class with ``step_op`` gives.
        split: The data.
        every_epochs: While training, at the validations at the end of every so many epochs;
            ``None``: only when a run is evaluated.
        functions: By name, ``function(folder, outputs, data, config)``, called on what was stored;
            what they return is reported as ``<split>/<name>/<key>``.
        checkpoint: The file that is evaluated, for the index.

    Raises:
        ConfigError: A key is not there, or has another first axis than the batch.
    """

    reads = ("step",)
    writes = ("record/outputs",)

    def __init__(
        self,
        keys: Sequence[str] | None = None,
        *,
        split: str = "validation",
        every_epochs: int | None = None,
        functions: Mapping[str, Any] | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.keys = None if keys is None else list(keys)
        self.split, self.every_epochs, self.checkpoint = split, every_epochs, checkpoint
        self.functions = dict(functions or {})
        self.folder: Path | None = None
        self._is_fitting = False
        self._writer: OutputWriter | None = None
        self._order: Tensor | None = None
        self._count = 0

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Note that nothing is stored but at the end of epochs."""
        self._is_fitting = True

    def on_fit_end(self, trainer: Trainer, phase: Phase) -> None:
        """Note that it is over."""
        self._is_fitting = False

    def on_validate_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Open the folder, if it is time."""
        self._writer = None
        if phase.name != self.split or trainer.run is None:
            return
        every = self.every_epochs
        if self._is_fitting and (every is None or not ends_epochs(trainer, every)):
            return
        source = trainer.data[phase.split]
        if source.drop_last:
            raise ConfigError(
                f"The data {phase.split!r} has `drop_last: true`, so not every example would get "
                "its outputs; say `drop_last: false`."
            )
        self._order, self._count = source.order(0), 0
        self._writer = OutputWriter(
            Path(trainer.run.path) / FOLDER / f"{self.split}_step-{trainer.counters.step:08d}",
            data=describe(source, phase.split),
            about={"step": trainer.counters.step, "checkpoint": self.checkpoint},
        )

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Write a batch."""
        if self._writer is None or phase.name != self.split:
            return
        size, state = trainer.batch_size, trainer.step
        if self.keys is None:
            values = {k[len(EVAL_OP) :]: v for k, v in state.items() if k.startswith(EVAL_OP)}
        else:
            for key in self.keys:
                if key not in state:
                    raise ConfigError(
                        f"`evaluation/keys` names {key!r}, which nothing has written at step "
                        f"{trainer.counters.step}: neither the data, nor an injector or a loss "
                        f"whose window (`after`, `before`) is open.{did_you_mean(key, state)}"
                    )
            values = {key: state[key] for key in self.keys}
        if not values:
            return
        if self._order is None:
            rows = list(range(self._count, self._count + size))
        else:
            start = trainer.batch * trainer.data[phase.split].batch_size
            rows = self._order[start : start + size].tolist()
        self._count += size
        self._writer.write(rows, values, by="`eval_op`" if self.keys is None else "evaluation")

    def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
        """Complete what was stored, and run the functions on it."""
        writer = self._writer
        if writer is None or phase.name != self.split:
            return
        self._writer = None
        if writer.is_empty:
            return
        try:
            outputs = writer.finish()
        except ConfigError as err:
            if not self._is_fitting:
                raise
            logger.warning("%s", err)
            return
        self.folder = outputs.folder
        found: dict[str, Findings] = {}
        for name, function in self.functions.items():
            data = trainer.data[phase.split].dataset
            found[name] = run_function(name, function, outputs, data, trainer.config or {})
            found[name].report(trainer, f"{self.split}/{name}")
