"""Where the time of a run goes: operators by torch.profiler, and each callback by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import ConfigError
from ..events import EVENTS, Callback
from ..registry import CALLBACKS

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer


@CALLBACKS.register("profiler")
class Profiler(Callback):
    """Records some steps with torch's profiler and times every callback over the whole run.

    Written into ``profile/`` of the run: ``trace.json`` (open it at ui.perfetto.dev),
    ``operators.txt`` and ``callbacks.txt`` with calls, seconds, and microseconds a call.

    Args:
        skip: Steps before the recording begins.
        warmup: Steps that the profiler runs without keeping.
        steps: Steps that are recorded; 0 for none.
        rows: Operators in the table.

    Raises:
        ConfigError: A number is negative.
    """

    def __init__(self, *, skip: int = 10, warmup: int = 2, steps: int = 5, rows: int = 30) -> None:
        if min(skip, warmup, steps, rows) < 0:
            raise ConfigError(
                f"skip={skip}, warmup={warmup}, steps={steps}, rows={rows}: none may be negative."
            )
        self.skip, self.warmup, self.steps, self.rows = skip, warmup, steps, rows
        self.times: dict[str, list[float]] = {}
        self._profile: Any = None
        self._left = 0

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Put a clock on every callback, and get the profiler ready."""
        self.times = {}
        handlers = trainer.callbacks.handlers
        for event in {*EVENTS, *handlers}:
            handlers[event] = tuple(map(self._timed, handlers[event]))
        if self.steps:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if trainer.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            plan = torch.profiler.schedule(
                skip_first=self.skip, wait=0, warmup=self.warmup, active=self.steps, repeat=1
            )
            self._left = self.skip + self.warmup + self.steps
            self._profile = torch.profiler.profile(activities=activities, schedule=plan)
            self._profile.start()

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Count the step."""
        if self._profile is not None and phase.training:
            self._left -= 1
            self._profile.step()
            if self._left <= 0:
                self._write(trainer)

    def on_fit_end(self, trainer: Trainer, phase: Phase) -> None:
        """Write what was found, and take the clocks off."""
        trainer.callbacks.handlers.clear()
        self._write(trainer)
        if trainer.run is not None:
            path = self._folder(trainer) / "callbacks.txt"
            path.write_text(self.table() + "\n", encoding="utf-8")

    def table(self) -> str:
        """Calls, seconds and microseconds a call of every callback, the dearest first."""
        lines = [f"{'callback':<40}{'calls':>9}{'seconds':>10}{'µs a call':>11}"]
        for name, (calls, seconds) in sorted(self.times.items(), key=lambda t: -t[1][1]):
            each = seconds / calls * 1e6
            lines.append(f"{name:<40}{int(calls):>9}{seconds:>10.3f}{each:>11.1f}")
        return "\n".join(lines)

    def _timed(self, handler: Callable[..., None]) -> Callable[..., None]:
        owner = getattr(handler, "__self__", None)
        name = f"{getattr(owner, 'name', '?')}.{getattr(handler, '__name__', handler)}"
        clock = time.perf_counter

        def timed(*args: Any, **values: Any) -> None:
            begin = clock()
            try:
                handler(*args, **values)
            finally:
                entry = self.times.setdefault(name, [0, 0.0])
                entry[0] += 1
                entry[1] += clock() - begin

        return timed

    def _folder(self, trainer: Trainer) -> Path:
        assert trainer.run is not None
        folder = Path(trainer.run.path) / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, trainer: Trainer) -> None:
        profile, self._profile = self._profile, None
        if profile is None:
            return
        profile.stop()
        if trainer.run is not None and self._left <= 0:
            folder = self._folder(trainer)
            table = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=self.rows)
            (folder / "operators.txt").write_text(table, encoding="utf-8")
            profile.export_chrome_trace(str(folder / "trace.json"))
