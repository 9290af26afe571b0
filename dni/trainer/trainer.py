"""`Trainer`: the loop over epochs and batches, and everything that a run consists of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import CheckpointError, ConfigError, did_you_mean
from . import checkpoint
from .base_step import check_averaging
from .counters import Counters
from .data import Source
from .events import Callback
from .loop import Loop
from .ordering import Callbacks
from .phases import Phase, TrainingPhase, ValidationPhase
from .record import Record
from .schedules import Schedule, make_schedule
from .state import State
from .strategies import Strategy
from .when import When

StepLike = Callable[["Trainer", State, Phase], object]
"""A step, or a plain function with the same arguments."""


_LASTING = ("EMA", "Evaluators")
# Callbacks that go on where a run begins anew from the networks of another.


class Run(Protocol):
    """The folder of a run."""

    @property
    def path(self) -> os.PathLike[str]:
        """The folder."""
        ...


class Trainer:
    """Trains networks by steps on the batches of a data source, and tells callbacks about it.

    Args:
        networks: The networks by name; they are moved to the device.
        steps: What is done with each batch, one after the other: `Step` objects, or functions
            ``(trainer, batch, phase)``.
        data: Sources by split; ``"train"`` is what networks learn from, ``"validation"`` what
            they are validated on.
        callbacks: Who listens; the order does not matter.
        schedules: Schedules by the path of what they set (see `Target`). At step k that is
            ``schedule(k)``.
        phases: Phases of an epoch; ``None``: training, and validation if there is data for it.
        seed: Seed of everything random, set when a fit begins at step 0; ``None`` sets none.
        max_steps: Updates after which a fit ends.
        max_epochs: Epochs after which it ends.
        batches_per_step: Batches of which an update takes the mean gradient. Everything that
            counts steps counts updates; a step that is left unfinished at the end of an epoch
            goes on in the next.
        device: Where networks and batches live.
        run: The folder of the run; ``None``: nothing is written.
        log: When the event ``log`` happens, by the number of the step.
        validate_epochs: Validate every so many epochs; ``None``: not by epochs.
        validate_steps: Validate every so many updates; ``None``: not by updates.
        checkpoint_epochs: The event ``checkpoint`` happens every so many epochs.
        checkpoint_steps: And every so many updates.
        strict_callbacks: Whether a callback that reads or writes a value of the batch or of
            ``shared`` without declaring it is an error.
        raise_on_cancel: Whether `fit` raises a `CancelFit` instead of returning its reason.
        config: What checkpoints keep beside the state, to tell what changed.

    Attributes:
        step: Values of the current batch.
        shared: Values that outlive a batch, for callbacks.
        counters: How far the run has come.
        record: What the run reports.
        phase: The phase that runs.
        current: The step that runs, ``None`` between steps.
        batch: Number of the batch in the phase that runs, from 0.
        batches: How many batches that phase has, ``None`` where that is not known.
        batch_size: Samples in the current batch.
        stop_reason: Why the last fit ended.
        exception: The error that the event ``exception`` is about.

    Raises:
        ConfigError: An argument has a value that cannot work.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> def regress(trainer, batch, phase):
        ...     loss = (trainer.networks["net"](batch.x) - batch.x).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> from dni.trainer.data import Tensors
        >>> data = {"train": Source(Tensors(x=torch.ones(8, 1)), batch_size=4)}
        >>> trainer = Trainer({"net": net}, {"regress": regress}, data, max_epochs=3)
        >>> trainer.fit()
        'max_epochs'
        >>> trainer.counters.step
        6
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        steps: Mapping[str, StepLike],
        data: Mapping[str, Source],
        callbacks: Iterable[Callback] = (),
        schedules: Mapping[str, Any] | None = None,
        *,
        phases: Sequence[Phase] | None = None,
        seed: int | None = 0,
        max_steps: int | None = None,
        max_epochs: int | None = None,
        batches_per_step: int = 1,
        device: str | torch.device = "cpu",
        run: Run | None = None,
        log: int | Mapping[str, Any] | When = 50,
        validate_epochs: int | None = 1,
        validate_steps: int | None = None,
        checkpoint_epochs: int | None = 1,
        checkpoint_steps: int | None = None,
        strict_callbacks: bool = False,
        raise_on_cancel: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.networks = {name: network.to(self.device) for name, network in networks.items()}
        self.steps = dict(steps)
        self.data = dict(data)
        for source in self.data.values():
            source.seed = seed if source.seed is None else source.seed
        if phases is None:
            phases = [TrainingPhase(), *([ValidationPhase()] if "validation" in data else [])]
        self.phases = list(phases)
        self.batches_per_step = batches_per_step
        check_averaging(self.steps, batches_per_step)
        self.seed, self.max_steps, self.max_epochs = seed, max_steps, max_epochs
        self.validate_epochs, self.validate_steps = validate_epochs, validate_steps
        self.checkpoint_epochs, self.checkpoint_steps = checkpoint_epochs, checkpoint_steps
        self.run = run
        self.raise_on_cancel = raise_on_cancel
        self.config = config
        self.log = When.of(log)
        self.record = Record()
        self.shared: dict[str, Any] = {}
        self.counters = Counters()
        self.step = State()
        self.phase: Phase = self.phases[0] if self.phases else TrainingPhase()
        self.current: StepLike | None = None
        self.batch = 0
        self.batches: int | None = None
        self.batch_size = 0
        self.stop_reason: str | None = None
        self.exception: BaseException | None = None
        self.callbacks = Callbacks(callbacks, strict=strict_callbacks)
        self.schedules: dict[str, Schedule] = {
            path: make_schedule(spec, hears=True) for path, spec in (schedules or {}).items()
        }
        self._loop = Loop(self)

    # -- what steps and callbacks use --------------------------------------------------------

    def handle(self, event: str, phase: Phase | None = None, **values: Any) -> None:
        """Tell the callbacks of an event.

        Args:
            event: One of `dni.trainer.events.EVENTS`, or any other name; callbacks hear it in
                ``on_<event>``.
            phase: The phase it is about; ``None``: the one that runs.
            **values: Further arguments of the callbacks' methods, for events of your own.
        """
        for handler in self.callbacks.handlers[event]:
            handler(self, phase or self.phase, **values)

    def call(self, name: str) -> nn.Module:
        """What a step calls for a network: in training what the strategy made of it.

        Args:
            name: Name of the network.

        Raises:
            ConfigError: There is no such network.
        """
        network = self.networks.get(name)
        if network is None:
            raise ConfigError(f"There is no network {name!r}.{did_you_mean(name, self.networks)}")
        if self.phase.training:
            for step in [self.current] if self.current is not None else self.steps.values():
                strategy = getattr(step, "strategy", None)
                if strategy is not None and name in getattr(step, "training", ()):
                    wrapped: nn.Module = strategy.wrap(name)
                    return wrapped
        return network

    @property
    def ends_step(self) -> bool:
        """Whether the update is due with the batch that runs (see ``batches_per_step``)."""
        return self.counters.part + 1 >= self.batches_per_step

    def cancel(self, reason: str = "cancelled") -> None:
        """End the fit after the current step, or after the end of the epoch if that is near."""
        self._loop.interruption.cancel(reason)

    # -- running -----------------------------------------------------------------------------

    def fit(self) -> str:
        """Train until ``max_steps`` or ``max_epochs``, or until a callback ends it.

        Ctrl-C and SIGTERM let the current step finish; the event ``exception`` follows, upon
        which a checkpoint may be saved, and ``KeyboardInterrupt`` or ``SystemExit(143)``. A
        second one interrupts at once.

        Returns:
            Why it ended: ``"max_steps"``, ``"max_epochs"`` or the reason of a `CancelFit`.

        Raises:
            ConfigError: Neither limit is set, or a schedule leads nowhere.
            CancelFit: A callback or step ended it, under ``raise_on_cancel``.
        """
        if self.max_steps is None and self.max_epochs is None:
            raise ConfigError("`fit` would not end: set `max_steps` or `max_epochs`.")
        return self._loop.fit()

    def run_phase(self, phase: Phase) -> None:
        """Run one phase over its data: what is left of an epoch of training, or a validation.

        Raises:
            CancelFit: A callback or step ended it.
        """
        self._loop.begin()
        if phase.training:
            self._loop.train(phase)
            self.counters.phase, self.counters.epoch = 0, self.counters.epoch + 1
        else:
            self._loop.validation.run(phase)

    def evaluate(self, split: str = "validation") -> dict[str, float]:
        """Validate on a split, by all phases for it that do not train.

        Returns:
            The scalars reported about it, by name without the split.
        """
        phases = [phase for phase in self.phases if not phase.training and phase.split == split]
        for phase in phases or [ValidationPhase(split)]:
            self.run_phase(phase)
        start = f"{split}/"
        latest = self.record.latest.items()
        return {name[len(start) :]: v for name, v in latest if name.startswith(start)}

    # -- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything it takes to go on bit for bit; tensors are the live ones, not copies.

        Complete at the events ``checkpoint``, ``exception`` and ``fit_end`` and outside a fit.
        """
        return {
            "version": checkpoint.VERSION,
            "config": self.config,
            "counters": asdict(self.counters),
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "steps": {
                name: step.state_dict()
                for name, step in self.steps.items()
                if hasattr(step, "state_dict")
            },
            "callbacks": self.callbacks.state_dict(),
            "record": self.record.state_dict(),
            "data": {split: source.state_dict() for split, source in self.data.items()},
            "loop": self._loop.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, restart: bool = False) -> None:
        """Go on from what `state_dict` gave.

        Args:
            state: The state.
            restart: Whether to begin at step 0 with the networks, optimizers and averages of the
                state, and nothing else of it.

        Raises:
            CheckpointError: It belongs to another config; nothing is loaded then, and the
                message lists what differs.
        """
        if restart:
            state = {**state, "counters": asdict(Counters())}
        self._check(state)
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, saved in state["steps"].items():
            self.steps[name].load_state_dict(saved)  # type: ignore[attr-defined]
        if restart:
            lasting = {k: v for k, v in state["callbacks"].items() if k in _LASTING}
            self.callbacks.load_state_dict(lasting)
            return
        self.callbacks.load_state_dict(state["callbacks"])
        self.record.load_state_dict(state["record"])
        self.counters = Counters(**state["counters"])
        self._loop.load_state_dict(state["loop"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint; see `dni.trainer.checkpoint.save`."""
        checkpoint.save(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: The file cannot be read, or belongs to another config.
        """
        self.load_state_dict(checkpoint.load(path))

    def _check(self, state: Mapping[str, Any]) -> None:
        faults = checkpoint.differences(
            {
                "networks": {n: checkpoint.shapes(s) for n, s in state["networks"].items()},
                "steps": {name: "saved" for name in state["steps"]},
            },
            {
                "networks": {
                    n: checkpoint.shapes(s.state_dict()) for n, s in self.networks.items()
                },
                "steps": {n: "saved" for n, s in self.steps.items() if hasattr(s, "state_dict")},
            },
        )
        if state["counters"]["batch"] and not faults:
            now = {split: source.state_dict() for split, source in self.data.items()}
            faults = checkpoint.differences(
                {"data": {"train": state["data"].get("train")}},
                {"data": {"train": now.get("train")}},
            )
        if not faults:
            for name, saved in state["steps"].items():
                strategy = getattr(self.steps[name], "strategy", None)
                if "strategy" in saved and isinstance(strategy, Strategy):
                    strategy.check_state_dict(saved["strategy"])
        if faults:
            config = checkpoint.differences(state["config"] or {}, self.config or {})
            shown = [f"  {line}" for line in [*faults[:12], *(f"config {c}" for c in config[:12])]]
            raise CheckpointError(
                "The checkpoint is of another config and nothing was loaded:\n" + "\n".join(shown)
            )
