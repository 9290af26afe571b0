"""Any function of the trainer, recorded over the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import ConfigError
from ..events import Callback
from ..record import Scalar, read
from ..registry import CALLBACKS, import_path
from ..when import When

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer


@CALLBACKS.register("traces")
class Traces(Callback):
    """Records functions of the trainer at the end of steps.

    Reported as ``trace/<name>`` whenever the run logs, and kept in
    ``trainer.shared["traces"][name]`` as a list of (step, value). A value may be a tensor of one
    element: it is copied, and read when the run logs.

    Args:
        functions: By name, a function of the trainer that returns a number, or its import path.
        when: At which steps, see `When.of`.
        training: Whether in phases that train, or in those that do not.

    Raises:
        ConfigError: There is no function, or an import path leads to none; when it is called, a
            function returns something other than one number.

    Example:
        >>> Traces({"step": lambda trainer: trainer.counters.step}).functions.keys()
        dict_keys(['step'])
    """

    reads = ("step",)
    writes = ("record/traces", "shared/traces")

    def __init__(
        self,
        functions: Mapping[str, str | Callable[[Any], Scalar]],
        *,
        when: int | Mapping[str, Any] | When = 1,
        training: bool = True,
    ) -> None:
        if not functions:
            raise ConfigError("`functions` of the traces is empty; give at least one by name.")
        self.functions: dict[str, Callable[[Any], Scalar]] = {
            name: import_path(f, what="trace") if isinstance(f, str) else f
            for name, f in functions.items()
        }
        self.when = When.of(when)
        self.training = training
        self.history: dict[str, list[tuple[int, float]]] = {name: [] for name in self.functions}
        self._waiting: dict[str, list[tuple[int, Scalar]]] = {name: [] for name in self.functions}

    def on_fit_begin(self, trainer: Trainer, phase: Phase | None) -> None:
        """Show where the values are kept."""
        trainer.shared["traces"] = self.history

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Call the functions, if it is time."""
        step = trainer.counters.step
        if phase.training and not trainer.ends_step:
            return
        if phase.training != self.training or not self.when.fires(step):
            return
        for name, function in self.functions.items():
            value = function(trainer)
            if isinstance(value, Tensor) and value.numel() == 1:
                value = value.detach().clone()
            elif not isinstance(value, int | float):
                raise ConfigError(f"The trace {name!r} is to return one number, not {value!r}.")
            self._waiting[name].append((step, value))

    def on_log(self, trainer: Trainer, phase: Phase) -> None:
        """Report the last values."""
        self._read()
        for name, points in self.history.items():
            if points:
                trainer.record.scalar(f"trace/{name}", points[-1][1])

    def on_fit_end(self, trainer: Trainer, phase: Phase | None) -> None:
        """Read what is left."""
        self._read()

    def _read(self) -> None:
        for name, waiting in self._waiting.items():
            values = read({str(i): value for i, (_, value) in enumerate(waiting)})
            steps = (step for step, _ in waiting)
            self.history[name] += zip(steps, values.values(), strict=True)
            waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """All values so far."""
        self._read()
        return {"history": {name: list(points) for name, points in self.history.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, points in state["history"].items():
            if name in self.history:
                self._waiting[name].clear()
                self.history[name][:] = [(step, value) for step, value in points]
