"""Which checkpoints a run keeps: the best, the newest, and one when it is cut short."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ..checkpoint import Checkpoints
from ..events import Callback
from ..registry import CALLBACKS
from ..validation import is_awaited
from .stopping import StopOnNaN, check_mode

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer


@CALLBACKS.register("checkpoint")
class Checkpointing(Callback):
    """Saves everything whenever the trainer says ``checkpoint``, and when the run is cut short.

    Files are ``checkpoints/step-<updates>_<score>.pt`` in the folder of the run. A file has a
    score if the networks were validated as they are in it. Where a run goes on from an older one,
    its first save moves the later ones aside (`Checkpoints.leave`).

    Args:
        keep_best: How many with the best score are kept.
        keep_last: How many of the newest are kept, at least 1: runs resume from it.
        monitor: Name of the score, as it is reported: ``"validation/accuracy"``; ``None`` for
            the first loss of the validation.
        mode: ``"min"`` where less is better, ``"max"`` where more is.
        on_exception: Whether an error is a reason to save. Ctrl-C and SIGTERM always are.

    Raises:
        ConfigError: ``mode`` has no meaning; or, when the run saves after a validation, nothing
            of the name ``monitor`` was reported.
        CheckpointError: A number is out of its range; or a file cannot be written.
    """

    reads = ("record", "networks", "steps")
    run_after = ("StopOnNaN", "EMA")

    def __init__(
        self,
        *,
        keep_best: int = 1,
        keep_last: int = 1,
        monitor: str | None = None,
        mode: str = "min",
        on_exception: bool = True,
    ) -> None:
        self.keep_best, self.keep_last = keep_best, keep_last
        self.monitor, self.mode = monitor, check_mode(mode)
        self.saves_on_exception = on_exception
        self._validated_at: int | None = None
        self._saved_at: int | None = None
        self._goes_on_from: int | None = None
        self._files(Path())

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Note where the run begins: there is nothing new to save there."""
        self._validated_at = None
        self._saved_at = self._goes_on_from = trainer.counters.step

    def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
        """Note that there is a score, unless what was reported of it is of an earlier time."""
        name, record = self.monitor, trainer.record
        validated = name is not None and name.startswith((f"{phase.name}/", f"{phase.split}/"))
        is_old = name not in record.waiting() and (
            name in record.latest or is_awaited(trainer, name or "")
        )
        if not (validated and is_old):
            self._validated_at = trainer.counters.step

    def on_checkpoint(self, trainer: Trainer, phase: Phase) -> None:
        """Save."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, phase: Phase) -> None:
        """Save, unless saving is what failed."""
        is_error = isinstance(trainer.exception, Exception)
        if is_error and not self.saves_on_exception:
            return
        if not isinstance(trainer.exception, CheckpointError):
            self._save(trainer, anew=False)

    def on_fit_end(self, trainer: Trainer, phase: Phase) -> None:
        """Save what a callback ended, unless that was since a loss was not finite."""
        nan = trainer.callbacks.find(StopOnNaN)
        if trainer.exception is None and not (nan is not None and nan.has_stopped):
            self._save(trainer, anew=False)

    def _save(self, trainer: Trainer, *, anew: bool = True) -> None:
        step = trainer.counters.step
        if trainer.run is None or (not anew and step == self._saved_at):
            return
        files = self._files(Path(trainer.run.path) / "checkpoints")
        if self._goes_on_from is not None:
            files.leave(self._goes_on_from)
            self._goes_on_from = None
        files.add(trainer.state_dict(), step=step, score=self._score(trainer))
        self._saved_at = step

    def _files(self, folder: Path) -> Checkpoints:
        return Checkpoints(
            folder, keep_last=self.keep_last, keep_best=self.keep_best, mode=self.mode
        )

    def _score(self, trainer: Trainer) -> float | None:
        if self._validated_at != trainer.counters.step:
            return None
        name = self.monitor
        if name is None:
            names = (n for n in trainer.record.latest if n.startswith("validation/loss/"))
            name = next(names, None)
        if trainer.exception is not None and name not in trainer.record.latest:
            # A misspelt `monitor` ends the run, but must not cost what was trained.
            return None
        return None if name is None else trainer.record.value(name)
