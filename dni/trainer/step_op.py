"""A class with edflow's ``step_op`` as a step: one forward, three functions of what came out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from .base_step import BaseStep
from .callbacks.images import save_png, tile, to_bytes
from .modes import evaluating
from .output_writer import as_rows
from .phases import ValidationPhase
from .randomness import random_state, set_random_state
from .state import State
from .strategies import Strategy
from .template_iterator import TemplateIterator
from .when import When

OPS = ("train_op", "log_op", "eval_op")
KINDS = ("scalars", "images", "figures", "histograms", "text")


class StepOp(BaseStep):
    """Runs ``step_op(model, **batch) -> {"train_op": f, "log_op": f, "eval_op": f}``.

    In a training phase ``train_op`` is called, which updates by itself; ``log_op`` when its turn
    is, after the update and on the same forward pass; in other phases ``eval_op``, if there.
    ``log_op`` gives ``{"scalars": {...}, "images": {...}}``, which are reported under
    ``<phase>/log_op/``; images also as PNG under ``images/`` of the run. What ``eval_op`` gives,
    one row for each example, is in the state under ``eval/<name>``.

    Args:
        name: Its name.
        step_op: The function, or an object with that method.
        model: Name of the network, what ``step_op`` is given first.
        training: Names of the networks it trains; ``None``: ``model``.
        strategy: What a `TemplateIterator` may use as its optimizer; ``step_op`` is then given
            what the strategy makes of the network.
        every: ``log_op`` is called every so many steps, from step 0; ``None``: whenever the
            trainer logs.
        layout: Axes of an image: ``"HWC"``, ``"CHW"`` or ``"HW"``.
        range: Values of black and white; bytes go from 0 to 255.
        count: Images of a batch, at most.
        validation_batch: Whether ``log_op`` is called for a batch of the validation data as well.
        on_state: ``state_dict`` and ``load_state_dict`` of what it owns (optimizers), if any.

    Attributes:
        updates_itself: Nobody can tell whether there is an optimizer.

    Raises:
        ConfigError: When it runs: ``step_op`` or an op returned what it must not.
    """

    updates_itself = True

    def __init__(
        self,
        name: str,
        step_op: Any,
        *,
        model: str,
        training: Iterable[str] | None = None,
        strategy: Strategy | None = None,
        every: int | None = None,
        layout: str = "HWC",
        range: tuple[float, float] = (-1.0, 1.0),
        count: int = 64,
        validation_batch: bool = False,
        on_state: Any = None,
    ) -> None:
        super().__init__(name, (), strategy)
        self.training = (model,) if training is None else tuple(training)
        self.step_op: Callable[..., Any] = getattr(step_op, "step_op", step_op)
        self.owner = on_state if on_state is not None else step_op
        self.model = model
        self.log = None if every is None else When(every=every)
        self.layout, self.range, self.count = layout, range, count
        self.validation_batch = validation_batch
        taken = inspect.signature(self.step_op).parameters.values()
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken)
        self.keys = None if takes_all else {parameter.name for parameter in taken}

    def __call__(self, trainer: Any, state: State, phase: Any) -> None:
        """Run on a batch."""
        with self.frozen(trainer):
            if phase.training:
                self._train(trainer, state, phase)
            elif (eval_op := self._ops(trainer, state, phase).get("eval_op")) is not None:
                self._evaluate(state, eval_op())
        state.detach(list(state))

    def _train(self, trainer: Any, state: State, phase: Any) -> None:
        logs = (trainer.log if self.log is None else self.log).fires(trainer.counters.step)
        with nullcontext() if self.strategy is None else self.strategy.context(state):
            ops = self._ops(trainer, state, phase)
            if "train_op" not in ops:
                raise ConfigError(
                    f"The `step_op` of step {self.name!r} returned no 'train_op', which is what "
                    f"trains; it returned {sorted(ops)}."
                )
            trainer.handle("optimizer_begin", phase)
            ops["train_op"]()
            trainer.handle("optimizer_end", phase)
            if logs and "log_op" in ops:
                self._record(trainer, phase, ops["log_op"]())
        if logs and self.validation_batch:
            self._log_validation(trainer)

    def _ops(self, trainer: Any, state: State, phase: Any) -> Mapping[str, Callable[[], Any]]:
        """Call ``step_op``, and check what it returned."""
        if isinstance(self.owner, TemplateIterator):
            self.owner.enter(trainer, phase)
        model = trainer.networks[self.model]
        if phase.training and self.strategy is not None:
            model = self.strategy.wrap(self.model)
        given = {k: v for k, v in state.items() if self.keys is None or k in self.keys}
        found = self.step_op(model, **given)
        who = f"The `step_op` of step {self.name!r} returned"
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"{who} a {type(found).__name__}; a dictionary of 'train_op', 'log_op' and "
                "'eval_op' is needed."
            )
        for op, function in found.items():
            if op not in OPS:
                raise ConfigError(f"{who} {op!r}, which is no op.{did_you_mean(str(op), OPS)}")
            if function is not None and not callable(function):
                raise ConfigError(
                    f"{who} {op!r} as a {type(function).__name__}; a function is needed, which is "
                    "called when its turn is."
                )
        return {op: function for op, function in found.items() if function is not None}

    def _evaluate(self, state: State, values: Mapping[str, Any] | None) -> None:
        size, by = state.batch_size(), f"`eval_op` of step {self.name!r}"
        for key, value in _leaves(values or {}):
            shape = tuple(value.shape) if hasattr(value, "shape") else (len(value),)
            if shape[:1] != (size,):
                as_rows(key, value, size, by=by)
            state[f"eval/{key}"] = value

    def _record(self, trainer: Any, phase: Any, log: Mapping[str, Any] | None) -> None:
        who = f"The `log_op` of step {self.name!r} gave"
        for kind, values in (log or {}).items():
            if kind not in KINDS:
                raise ConfigError(
                    f"{who} {kind!r}, which nothing takes.{did_you_mean(kind, KINDS)}"
                )
            for key, value in values.items():
                name = f"{phase.name}/log_op/{key}"
                value = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
                if kind == "images":
                    self._record_images(trainer, name, value)
                elif kind == "text":
                    trainer.record.text(name, value)
                else:
                    getattr(trainer.record, kind[:-1])(name, value)

    def _record_images(self, trainer: Any, name: str, images: Tensor) -> None:
        low, high = (0, 255) if images.dtype == torch.uint8 else self.range
        shown = images[: self.count]
        picture = tile(to_bytes(shown, name=name, layout=self.layout, low=low, high=high))
        trainer.record.image(name, picture)
        if trainer.run is not None:
            folder = Path(trainer.run.path) / "images" / name
            save_png(folder / f"{trainer.counters.step:07d}.png", picture)

    def _log_validation(self, trainer: Any) -> None:
        """Call ``log_op`` on a batch of the validation data: a different one each time."""
        source = trainer.data.get("validation")
        if source is None:
            raise ConfigError(
                f"`log_op/validation_batch` of step {self.name!r} needs the data 'validation'."
            )
        start = trainer.counters.step % (source.count() or 1)
        with _aside(trainer) as phase:
            batch = next(source.batches(0, start=start))
            state = State({k: _moved(v, trainer.device) for k, v in batch.items()})
            ops = self._ops(trainer, state, phase)
            if "log_op" in ops:
                self._record(trainer, phase, ops["log_op"]())

    def state_dict(self) -> dict[str, Any]:
        """What its owner keeps, if it can tell."""
        state = super().state_dict()
        if hasattr(self.owner, "state_dict"):
            state["owner"] = self.owner.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state)
        if "owner" in state:
            self.owner.load_state_dict(state["owner"])


@contextmanager
def _aside(trainer: Any) -> Iterator[ValidationPhase]:
    """A validation amid a step: without grad, and everything is as before afterwards."""
    phase, outer, random = ValidationPhase(), trainer.phase, random_state()
    trainer.phase = phase
    try:
        with evaluating(trainer.networks):
            yield phase
    finally:
        set_random_state(random)
        trainer.phase = outer


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
