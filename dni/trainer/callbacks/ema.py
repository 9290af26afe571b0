"""A moving average of the parameters, which validation can use in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...errors import ConfigError, did_you_mean
from ..events import Callback
from ..registry import CALLBACKS
from ..when import When

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer


@CALLBACKS.register("ema")
class EMA(Callback):
    r"""Keeps :math:`\bar\theta \leftarrow r \bar\theta + (1 - r) \theta` after every step.

    Parameters are averaged, buffers (running statistics) copied. Once per update, however many
    steps a batch has; where `every` is above 1 the rate is raised to that power.

    Args:
        rate: :math:`r`, from 0 to below 1.
        networks: Names of the networks; ``None`` for all.
        every: Steps between two of its updates.
        validate: Whether phases that do not train use the average in the network's place.

    Raises:
        ConfigError: The rate is out of range; or, when the run begins, a network is unknown.
    """

    def __init__(
        self,
        rate: float = 0.999,
        *,
        networks: Sequence[str] | None = None,
        every: int = 1,
        validate: bool = True,
    ) -> None:
        if not 0 <= rate < 1:
            raise ConfigError(f"The `rate` of the EMA is {rate}; it must be from 0 to below 1.")
        self.rate, self.networks, self.validate = rate, networks, validate
        self.when = When(every=every)
        self.every = every
        self.averages: dict[str, AveragedModel] = {}
        self._loaded: Mapping[str, Any] = {}
        self._is_swapped = False

    def on_fit_begin(self, trainer: Trainer, phase: Phase | None) -> None:
        """Copy the networks, if that was not done."""
        self._prepare(trainer)

    def _prepare(self, trainer: Trainer) -> None:
        for name in self.networks if self.networks is not None else trainer.networks:
            if name not in trainer.networks:
                raise ConfigError(
                    f"The EMA is to average the network {name!r}, which is not there."
                    f"{did_you_mean(name, trainer.networks)}"
                )
            if name not in self.averages:
                average = get_ema_multi_avg_fn(self.rate**self.every)
                self.averages[name] = AveragedModel(trainer.networks[name], multi_avg_fn=average)
        if self._loaded:
            self.load_state_dict(self._loaded)
            self._loaded = {}

    @torch.no_grad()
    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Move the averages, if it is time."""
        if phase.training and trainer.ends_step and self.when.fires(trainer.counters.step):
            for name, average in self.averages.items():
                average.update_parameters(trainer.networks[name])

    def on_validate_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Put the averages into the networks."""
        if self._loaded:  # evaluation of a checkpoint, without a fit
            self._prepare(trainer)
        if self.validate and not self._is_swapped:
            self._swap(trainer)

    def on_validate_end(self, trainer: Trainer, phase: Phase) -> None:
        """Put the parameters back."""
        if self._is_swapped:
            self._swap(trainer)

    def on_exception(self, trainer: Trainer, phase: Phase | None) -> None:
        """Put the parameters back before anything saves them."""
        if self._is_swapped:
            self._swap(trainer)

    @torch.no_grad()
    def _swap(self, trainer: Trainer) -> None:
        for name, average in self.averages.items():
            for ours, theirs in zip(
                _tensors(average.module), _tensors(trainer.networks[name]), strict=True
            ):
                kept = ours.clone()
                ours.copy_(theirs)
                theirs.copy_(kept)
        self._is_swapped = not self._is_swapped

    def state_dict(self) -> dict[str, Any]:
        """The averages, by network: ``average`` has the keys of the network itself."""
        return {
            name: {"average": a.module.state_dict(), "count": int(a.n_averaged)}
            for name, a in self.averages.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if not self.averages:
            self._loaded = state
        for name, average in self.averages.items():
            if name in state:
                average.module.load_state_dict(state[name]["average"])
                average.n_averaged.fill_(state[name]["count"])


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
