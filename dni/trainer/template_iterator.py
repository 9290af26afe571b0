"""What a class written for edflow expects around its ``step_op``: config, model, split, step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import ConfigError, did_you_mean
from .curves import Ramp

if TYPE_CHECKING:
    from .phases import Phase
    from .strategies import Strategy
    from .trainer import Trainer

_RAMP = ("start_ramp_it", "start_ramp_val", "end_ramp_it", "end_ramp_val")


class TemplateIterator:
    """Base of a class with ``step_op(self, model, **batch)``, as edflow has it.

    A config names it as ``steps/<name>/type``; what the config says under ``arguments`` of that
    step is ``self.config``. Batches are tensors on the device of the run, not numpy arrays.

    Optimizers, schedulers and trained modules among its attributes are in every checkpoint, so
    ``save`` and ``restore`` are not needed.

    Args:
        config: Keys of its own.
        root: Not used: the folder of the run is `root`.
        model: The network.
        datasets: Not used: the data sets are `datasets`.
        strategy: What the config has as the step's ``optimizer``, with ``zero_grad()`` and
            ``step()``; ``None``: nothing, the class makes its own.
        **kwargs: Whatever else edflow would give.

    Attributes:
        config: Keys of its own; may be changed.
        model: The network.
        strategy: See above.
        logger: Writes to the run's log.

    Example:
        >>> class Iterator(TemplateIterator):
        ...     def __init__(self, *args, **kwargs):
        ...         super().__init__(*args, **kwargs)
        ...         self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config["lr"])
        ...
        ...     def step_op(self, model, image, **rest):
        ...         losses = (model(image) - image).square().flatten(1).mean(1)
        ...
        ...         def train_op():
        ...             self.optimizer.zero_grad()
        ...             losses.mean().backward()
        ...             self.optimizer.step()
        ...
        ...         return {"train_op": train_op, "eval_op": lambda: {"labels": {"loss": losses}}}
        >>> import torch
        >>> iterator = Iterator({"lr": 1e-3}, model=nn.Linear(2, 2))
        >>> list(iterator.state_dict()), iterator.get_split(), iterator.get_global_step()
        (['optimizer'], 'train', 0)
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        root: Any = None,
        model: nn.Module | None = None,
        datasets: Any = None,
        *,
        strategy: Strategy | None = None,
        **kwargs: Any,
    ) -> None:
        self.config, self.model, self.strategy = config, model, strategy
        self.logger = logging.getLogger("dni.trainer")
        self._trainer: Trainer | None = None
        self._phase: Phase | None = None

    def enter(self, trainer: Trainer, phase: Phase) -> None:
        """Take note of where the run is; the step calls it before ``step_op``."""
        self._trainer, self._phase = trainer, phase

    def step_op(self, model: nn.Module, **batch: Any) -> Mapping[str, Any]:
        """What is done with a batch, a function for each occasion.

        Args:
            model: The network.
            **batch: Values of the batch, tensors ``[B, *]``.

        Returns:
            ``train_op``, which updates; ``log_op``, which gives ``{"scalars": {...}, "images":
            {...}}``; ``eval_op``, which gives arrays ``[B, *]``.
        """
        raise NotImplementedError

    def get_split(self) -> str:
        """The data that the batch is of: ``"train"``, ``"validation"``, …."""
        return "train" if self._phase is None else self._phase.split

    def get_global_step(self) -> int:
        """Updates made so far."""
        return 0 if self._trainer is None else self._trainer.counters.step

    @property
    def root(self) -> Path | None:
        """The folder of the run, if it has one."""
        run = None if self._trainer is None else self._trainer.run
        return None if run is None else Path(run.path)

    @property
    def datasets(self) -> dict[str, Any]:
        """The data sets by split; empty before the run begins."""
        data = {} if self._trainer is None else self._trainer.data
        return {split: source.dataset for split, source in data.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizers, schedulers and trained modules among the attributes."""
        return {name: value.state_dict() for name, value in self._stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, value in self._stateful().items():
            if name in state:
                value.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        found = {}
        for name, value in vars(self).items():
            if name.startswith("_") or value is self.model or value is self.strategy:
                continue
            if isinstance(value, nn.Module) and not any(
                parameter.requires_grad for parameter in value.parameters()
            ):
                continue
            if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
                found[name] = value
        return found


def update_loss_weights_inplace(losses: MutableMapping[str, Any], step: int) -> None:
    """Set the ``weight`` of each loss that has a ramp to its value at a step.

    Args:
        losses: By name ``{weight}``, or ``{start_ramp_it, start_ramp_val, end_ramp_it,
            end_ramp_val}``: from the first step and value in a line to the last.
        step: The step.

    Raises:
        ConfigError: A ramp is not complete, or ends before it starts.

    Example:
        >>> kl = dict(start_ramp_it=2000, start_ramp_val=0, end_ramp_it=3000, end_ramp_val=1)
        >>> losses = {"color_L1": {"weight": 0.5}, "KL": kl}
        >>> update_loss_weights_inplace(losses, 2250)
        >>> losses["color_L1"]["weight"], losses["KL"]["weight"]
        (0.5, 0.25)
    """
    for name, loss in losses.items():
        if not any(key in loss for key in _RAMP):
            continue
        missing = [key for key in _RAMP if key not in loss]
        if missing:
            raise ConfigError(f"The ramp of the loss {name!r} has no {', '.join(missing)}.")
        start, end = loss["start_ramp_it"], loss["end_ramp_it"]
        try:
            ramp = Ramp(start, loss["start_ramp_val"], end, loss["end_ramp_val"])
        except ConfigError as err:
            raise ConfigError(f"The loss {name!r}: {err}") from err
        loss["weight"] = ramp(step)


_REQUIRED = object()


def retrieve(values: Any, path: str, default: Any = _REQUIRED) -> Any:
    """The value at a path of nested mappings and lists.

    Args:
        values: Mappings and lists.
        path: Keys, and places in lists, joined by ``/``.
        default: What is given where nothing is there; without it that is an error.

    Raises:
        ConfigError: Nothing is there.

    Example:
        >>> retrieve({"a": {"b": [1, 2]}}, "a/b/1"), retrieve({}, "debug", default=False)
        (2, False)
    """
    found = values
    for key in path.split("/"):
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list | tuple) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif default is not _REQUIRED:
            return default
        else:
            known = map(str, found) if isinstance(found, Mapping) else ()
            raise ConfigError(f"There is no {key!r} of {path!r}.{did_you_mean(key, known)}")
    return found
