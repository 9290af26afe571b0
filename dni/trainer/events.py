"""Events of a run, the exceptions that cut it short, and the callbacks that listen, in order."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DNIWarning, did_you_mean
from .when import When

if TYPE_CHECKING:
    from .phases import Phase
    from .trainer import Trainer

FIT_BEGIN = "fit_begin"
EPOCH_BEGIN = "epoch_begin"
STEP_BEGIN = "step_begin"
LOSS_BEGIN = "loss_begin"
BACKWARD_BEGIN = "backward_begin"
BACKWARD_END = "backward_end"
OPTIMIZER_BEGIN = "optimizer_begin"
OPTIMIZER_END = "optimizer_end"
UPDATE = "update"
STEP_END = "step_end"
STEP_CANCELLED = "step_cancelled"
LOG = "log"
VALIDATE_BEGIN = "validate_begin"
VALIDATE_END = "validate_end"
CHECKPOINT = "checkpoint"
EPOCH_END = "epoch_end"
EXCEPTION = "exception"
FIT_END = "fit_end"

EVENTS = (
    FIT_BEGIN,
    EPOCH_BEGIN,
    STEP_BEGIN,
    LOSS_BEGIN,
    BACKWARD_BEGIN,
    BACKWARD_END,
    OPTIMIZER_BEGIN,
    OPTIMIZER_END,
    UPDATE,
    STEP_END,
    STEP_CANCELLED,
    LOG,
    VALIDATE_BEGIN,
    VALIDATE_END,
    CHECKPOINT,
    EPOCH_END,
    EXCEPTION,
    FIT_END,
)
"""The trainer's own events, in the order in which they happen; any other string is a user's, which
the callbacks that hear it name in their `events`.

``loss_begin`` is where the forward pass ends; ``update`` tells of a network that updates itself.
"""

Handler = Callable[..., None]


class Cancel(Exception):
    """Base of the exceptions by which a callback or a step cuts something short.

    Args:
        reason: Why, in words; `Trainer.stop_reason` shows it where it ends the run.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason or type(self).__name__


class CancelStep(Cancel):
    """Skips the rest of the step: ``step_cancelled`` instead of ``step_end``, and no count."""


class CancelEpoch(Cancel):
    """Skips the rest of the epoch, or of the validation; its end is still announced."""


class CancelFit(Cancel):
    """Ends the run; `Trainer.fit` catches it and returns."""


class Callback:
    """Listens to events: a method ``on_<event>(trainer, phase)`` for each that it wants to hear.

    An event that nobody has a method for costs nothing. Names in ``reads`` and ``writes`` are
    paths: ``step/<key>`` for a value of the current batch, ``shared/<key>`` for one that
    callbacks hand one another, ``networks``, ``record``, …. Callbacks are ordered by them, a
    writer before a reader, whatever order they are passed in; one path concerns another if it is
    the beginning of it.

    Attributes:
        reads: What the callback reads.
        writes: What it writes.
        run_after: Classes, or names of classes, whose callbacks run before this one.
        events: Events of your own that it hears; a method ``on_<event>`` for any other event that
            is none of `EVENTS` draws a warning.

    Example:
        >>> class Hello(Callback):
        ...     def on_fit_begin(self, trainer, phase):
        ...         print("hello")
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    run_after: tuple[type | str, ...] = ()
    events: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What messages and checkpoints call it."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""


class Throttled(Callback):
    """A callback that hears one of its events only now and then, starting with the first.

    Args:
        callback: The callback.
        event: The event; all others reach it as ever.
        when: At which occurrences of the event, counted from 0 over all phases.

    Raises:
        ConfigError: The callback does not listen to the event.
    """

    def __init__(self, callback: Callback, event: str, when: When) -> None:
        heard = _heard(callback)
        if event not in heard:
            raise ConfigError(
                f"`{callback.name}` does not listen to {event!r}.{did_you_mean(event, heard)}"
            )
        self.callback, self.event, self.when = callback, event, when
        self.count = 0
        self.reads, self.writes = callback.reads, callback.writes
        self.run_after, self.events = callback.run_after, callback.events
        for other in heard:
            setattr(self, f"on_{other}", getattr(callback, f"on_{other}"))
        handler: Handler = getattr(callback, f"on_{event}")

        def now_and_then(trainer: Trainer, phase: Phase, **values: Any) -> None:
            self.count += 1
            if self.when.fires(self.count - 1):
                handler(trainer, phase, **values)

        setattr(self, f"on_{event}", now_and_then)

    @property
    def name(self) -> str:
        """The name of the callback."""
        return self.callback.name

    def state_dict(self) -> dict[str, Any]:
        """The callback's state and the number of events so far."""
        return {"count": self.count, "callback": self.callback.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.count = state["count"]
        self.callback.load_state_dict(state["callback"])


def throttle(
    callback: Callback, event: str, *, every: int | None = None, seconds: float | None = None
) -> Throttled:
    """Let a callback hear an event only every so many times, or only every so many seconds.

    Args:
        callback: The callback.
        event: The event.
        every: Hear the first and then every ``every``-th.
        seconds: Hear the first, and another when so many seconds went by since the last heard.

    Raises:
        ConfigError: Neither or both of ``every`` and ``seconds``, or the event is not heard.
    """
    if (every is None) == (seconds is None):
        raise ConfigError("Throttling goes by `every` or by `seconds`: give one of the two.")
    when = When(seconds=seconds) if every is None else When(every=every)
    return Throttled(callback, event, when)


def warn_of_unknown(callback: Callback) -> None:
    """Warn of methods that no event will ever call.

    Warns:
        DNIWarning: A method ``on_<event>`` is for none of `EVENTS` nor of the callback's own.
    """
    for event in _heard(callback):
        if event not in EVENTS and event not in callback.events:
            warnings.warn(
                f"The callback `{callback.name}` has a method `on_{event}`, and the trainer has no "
                f"event {event!r}.{did_you_mean(event, EVENTS)} An event of your own goes into "
                "its `events`.",
                DNIWarning,
                stacklevel=2,
            )


def _heard(callback: Callback) -> list[str]:
    return [
        name[3:]
        for name in dir(callback)
        if name.startswith("on_") and callable(inspect.getattr_static(callback, name))
    ]


def announce(trainer: Trainer, event: str, phase: Phase) -> dict[str, float]:
    """Tell all callbacks of an end, whatever one of them cancels, and flush the record.

    Returns:
        The scalars that were reported until then.

    Raises:
        Cancel: What the first of them raised, unless it is a `CancelEpoch`: that is over.
    """
    cancelled: Cancel | None = None
    for handler in trainer.callbacks.handlers[event]:
        try:
            handler(trainer, phase)
        except Cancel as cancel:
            cancelled = cancelled or cancel
    entries = trainer.record.flush(step=trainer.counters.step, epoch=trainer.counters.epoch)
    if cancelled is not None and not isinstance(cancelled, CancelEpoch):
        raise cancelled
    return entries.scalars
