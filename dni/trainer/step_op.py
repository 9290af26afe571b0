"""A class with edflow's ``step_op`` as a step: one forward, three functions of what came out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .state import State
from .steps import BaseStep, Window


class StepOp(BaseStep):
    """Runs ``step_op(model, **batch) -> {"train_op": f, "log_op": f, "eval_op": f}``.

    In a training phase ``train_op`` is called, which updates by itself; ``log_op`` when its turn
    is, after the update and on the same forward pass; in other phases ``eval_op``, if there.
    ``log_op`` gives ``{"scalars": {...}, "images": {...}}``, which go to ``trainer.record``;
    what ``eval_op`` gives is in the state under ``eval/<name>``.

    Args:
        name: Its name.
        step_op: The function, or an object with that method.
        model: Name of the network, what ``step_op`` is given first.
        training: Names of the networks it trains; ``None``: ``model``.
        log_every: ``log_op`` is called every so many steps, from step 0; ``None``: whenever the
            trainer logs.
        on_state: ``state_dict`` and ``load_state_dict`` of what it owns (optimizers), if any.
    """

    def __init__(
        self,
        name: str,
        step_op: Any,
        *,
        model: str,
        training: Iterable[str] | None = None,
        log_every: int | None = None,
        on_state: Any = None,
    ) -> None:
        super().__init__(name, (), None)
        self.training = (model,) if training is None else tuple(training)
        self.step_op: Callable[..., Mapping[str, Any]] = getattr(step_op, "step_op", step_op)
        self.owner = on_state if on_state is not None else step_op
        self.model = model
        self.log = None if log_every is None else Window(every=log_every)
        taken = inspect.signature(self.step_op).parameters.values()
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken)
        self.keys = None if takes_all else {parameter.name for parameter in taken}

    def __call__(self, trainer: Any, state: State, phase: Any) -> None:
        """Run on a batch."""
        with self.frozen(trainer):
            given = {k: v for k, v in state.items() if self.keys is None or k in self.keys}
            found = self.step_op(trainer.networks[self.model], **given)
            if phase.training:
                trainer.handle("optimizer_begin", phase)
                found["train_op"]()
                trainer.handle("optimizer_end", phase)
                if found.get("log_op") is not None and self._logs(trainer):
                    self._record(trainer, phase, found["log_op"]())
            elif found.get("eval_op") is not None:
                values = found["eval_op"]() or {}
                for key, value in values.items():
                    state[f"eval/{key}"] = value
        state.detach(list(state))

    def _logs(self, trainer: Any) -> bool:
        step = trainer.counters.step
        return bool(trainer.log.fires(step) if self.log is None else self.log.is_open(step))

    def _record(self, trainer: Any, phase: Any, log: Mapping[str, Mapping[str, Any]]) -> None:
        kinds = {"scalars": trainer.record.scalar}
        for kind in ("images", "figures"):
            if log.get(kind):
                kinds[kind] = getattr(trainer.record, kind[:-1])
        for kind, write in kinds.items():
            for key, value in log.get(kind, {}).items():
                write(f"{phase.name}/log_op/{key}", value)

    def state_dict(self) -> dict[str, Any]:
        """What its owner keeps, if it can tell."""
        return {"owner": self.owner.state_dict()} if hasattr(self.owner, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if "owner" in state:
            self.owner.load_state_dict(state["owner"])
