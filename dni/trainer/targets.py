"""Where in a trainer a schedule puts its number: a place by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, did_you_mean
from .schedules import Constant, Schedule

if TYPE_CHECKING:
    from .trainer import Trainer


def targets_of(trainer: Trainer) -> dict[str, Target]:
    """The places that the schedules of a trainer set, by the path of each.

    Raises:
        ConfigError: A path leads nowhere, or two schedules set one place.
    """
    found: dict[str, Target] = {}
    places: dict[tuple[int, str], str] = {}
    for path in trainer.schedules:
        target = found[path] = Target(trainer, path)
        first = places.setdefault(target.place, path)
        if first != path:
            raise ConfigError(
                f"The schedules {first!r} and {path!r} set the same; leave out one of the two."
            )
    return found


class Target:
    """A place in a trainer that a schedule sets, by path.

    ``optimizer/<step>/lr`` and ``dni/<step>/lambda`` are settings of that step's strategy,
    ``losses/<step>/<loss>/weight`` is the weight of a loss. Any other path goes from the trainer
    through attributes and dictionaries: ``networks/net/dropout/p``, ``shared/temperature``.

    Args:
        trainer: The trainer.
        path: The path.

    Raises:
        ConfigError: Something on the path does not exist (the nearest name is given), or another
            schedule, which the weight or the optimizer was made with, sets what it leads to.

    Attributes:
        place: What tells whether two paths lead to the same.
    """

    def __init__(self, trainer: Trainer, path: str) -> None:
        self.path = path
        parts = path.split("/")
        if parts[0] in ("optimizer", "dni") and len(parts) > 2:
            parts = ["steps", parts[1], "strategy", *parts[2:]]
        elif parts[0] == "losses" and len(parts) > 2:
            parts = ["steps", parts[1], "losses", *parts[2:]]
        owner: Any = trainer
        for depth, part in enumerate(parts[:-1]):
            owner = self._below(owner, part, "/".join(parts[:depth]) or "the trainer")
        self.place = id(owner), parts[-1]
        self._set = self._setter(owner, parts[-1], "/".join(parts[:-1]) or "the trainer")

    def set(self, value: float) -> None:
        """Put a value there."""
        self._set(value)

    def _below(self, owner: Any, part: str, where: str) -> Any:
        if isinstance(owner, Mapping):
            if part in owner:
                return owner[part]
            known = list(map(str, owner))
        else:
            if hasattr(owner, part):
                return getattr(owner, part)
            known = [name for name in dir(owner) if not name.startswith("_")]
        raise ConfigError(
            f"The schedule {self.path!r} leads nowhere: {where} has no {part!r}."
            f"{did_you_mean(part, known)}"
        )

    def _refuse_second(self, other: str) -> None:
        raise ConfigError(
            f"The schedule {self.path!r} sets what {other} sets too; leave out one of the two."
        )

    def _setter(self, owner: Any, name: str, where: str) -> Callable[[float], None]:
        if isinstance(owner, dict):
            return lambda value: owner.__setitem__(name, value)
        if callable(getattr(owner, "set", None)):
            if name == "lr" and getattr(owner, "schedulers", None):
                self._refuse_second(f"the `scheduler` of {where}")
            return lambda value: owner.set(name, value)
        held = self._below(owner, name, where)
        if callable(held):
            # A place that holds a schedule itself, such as the weight of a loss.
            if isinstance(held, Schedule) and not isinstance(held, Constant):
                self._refuse_second(f"the `{type(held).__name__}` at {where}/{name}")
            return lambda value: setattr(owner, name, Constant(value))
        return lambda value: setattr(owner, name, value)
