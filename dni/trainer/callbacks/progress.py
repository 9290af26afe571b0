"""How far the run is, on the terminal."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from ...errors import ConfigError
from ..events import Callback
from ..registry import CALLBACKS

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer


@CALLBACKS.register("progress")
class Progress(Callback):
    """A bar by tqdm while an epoch runs, and a line with its results at the end of each.

    The bar is redrawn by the clock, not by the step, and shows what was reported last: it neither
    waits for a device nor costs more than a look at the clock. Where the output is no terminal
    there is only the line per epoch.

    Args:
        seconds: Time between two redraws.
        show: How many values the bar shows.
        file: Where to write; ``None`` for the standard error at that time.
        bar: Whether there is a bar; ``None`` for: if the file is a terminal.
    """

    reads = ("record",)

    def __init__(
        self,
        *,
        seconds: float = 0.1,
        show: int = 3,
        file: TextIO | None = None,
        bar: bool | None = None,
    ) -> None:
        self.seconds = seconds
        self.show = show
        self.file = file
        self.bar = bar
        self._bar: Any = None
        self._due = math.inf
        self._phase: Phase | None = None

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Find out whether there is a terminal."""
        file = self.file or sys.stderr
        is_on = file.isatty() if self.bar is None else self.bar
        self._due = 0.0 if is_on else math.inf

    def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
        """End the bar and show the results; the bar of the epoch comes back by itself."""
        self._close()
        self._line(trainer, phase, f"{phase.name}/")

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Redraw, if it is time."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self.seconds
        if self._bar is None or self._phase is not phase:
            self._open(trainer, phase)
        self._bar.n = trainer.batch + 1
        self._bar.set_postfix_str(self._values(trainer, phase), refresh=False)
        self._bar.refresh()

    def on_epoch_end(self, trainer: Trainer, phase: Phase) -> None:
        """End the bar and show the results."""
        self._close()
        if phase.training:
            self._line(trainer, phase, f"{phase.name}/epoch/")

    def on_exception(self, trainer: Trainer, phase: Phase | None) -> None:
        """Leave the terminal as it was."""
        self._close()

    def on_fit_end(self, trainer: Trainer, phase: Phase | None) -> None:
        """Leave the terminal as it was."""
        self._close()

    def _open(self, trainer: Trainer, phase: Phase) -> None:
        self._close()
        try:
            from tqdm import tqdm
        except ImportError as err:
            raise ConfigError(
                "The progress bar needs the package tqdm: `pip install 'torch-dni[tasks]'`, or "
                "say `progress: false` under `log`."
            ) from err
        self._phase = phase
        self._bar = tqdm(
            total=trainer.batches,
            initial=trainer.batch,
            desc=f"epoch {trainer.counters.epoch} {phase.name}",
            file=self.file or sys.stderr,
            leave=False,
            dynamic_ncols=True,
            mininterval=0,
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _values(self, trainer: Trainer, phase: Phase) -> str:
        prefix = f"{phase.name}/"
        names = [n for n in trainer.record.latest if n.startswith(prefix) and "/epoch/" not in n]
        return _text({n.removeprefix(prefix): trainer.record.latest[n] for n in names[: self.show]})

    def _line(self, trainer: Trainer, phase: Phase, prefix: str) -> None:
        reported = {**trainer.shared.get("metrics", {}), **trainer.record.waiting()}
        values = {
            name.removeprefix(prefix): float(value)
            for name, value in reported.items()
            if name.startswith(prefix)
        }
        # A step of Python code has no mean over the epoch: what it reported last has to do.
        shown = _text(values) or (self._values(trainer, phase) if phase.training else "")
        if shown:
            counters = trainer.counters
            where = f"epoch {counters.epoch:>3}  step {counters.step:>6}  {phase.name:<10}"
            print(f"{where}  {shown}", file=self.file or sys.stderr, flush=True)


def _text(values: dict[str, float]) -> str:
    shown = (name for name in values if not _is_repeated(name, values))
    return "  ".join(f"{n.removeprefix('loss/')} {values[n]:.4g}" for n in shown)


def _is_repeated(name: str, values: dict[str, float]) -> bool:
    """Whether it is the total of a step that has one loss only."""
    step, _, last = name.rpartition("/")
    terms = sum(other.startswith(f"{step}/") for other in values)
    return last == "total" and name.startswith("loss/") and terms == 2
