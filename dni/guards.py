"""What compiled code checks before every call: what may change, and not the program itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

CODE = {
    "BUILTIN_MATCH",
    "CLASS_MATCH",
    "CLOSURE_MATCH",
    "MODULE_MATCH",
    "NOT_PRESENT_IN_GENERIC_DICT",
}
"""Kinds of guards on functions, classes and modules, and on a method that no object overrides."""

GLOBAL_CODE = {"CONSTANT_MATCH", "DUPLICATE_INPUT", "EQUALS_MATCH", "ID_MATCH"}
"""Kinds that are so where they look at what a Python module defines."""

PROGRAM = (
    "G['__import_dni_",
    "G['__import_torch_",
    "G['__builtins_dict__",
    "G['___unnamed_scope",
    "self._crossing",
    "dict(type(self._crossing",
    "type(self._crossing",
)
"""How the names begin of what this package, torch and Python define, and of a wrapper's parts."""

CAN_FILTER = hasattr(torch.compiler, "skip_guard_on_globals_unsafe")
"""Whether `torch.compile` takes a choice of guards; older ones do not."""


class Guard(Protocol):
    """What `torch.compile` says of a guard, see its option ``guard_filter_fn``."""

    name: str
    guard_type: str
    is_global: bool


def keeps(guard: Guard) -> bool:
    """Whether a guard is checked before every call of compiled code.

    Of those that `torch.compile` makes for a wrapped network, a quarter is on functions of this
    package and of torch: that they are still the same. At three layers of 256 they take 3 % of a
    step, and only who patches a program while it runs would see them fail: torch, this package, or
    the methods of one synthesizer. Everything of the user's network, every tensor and every value
    is still checked.

    Args:
        guard: The guard.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = "G['__import_dni_dot_interface'].rows"
        >>> keeps(SimpleNamespace(name=rows, guard_type="CLOSURE_MATCH", is_global=True))
        False
        >>> mine = "G['activate']"
        >>> keeps(SimpleNamespace(name=mine, guard_type="CLOSURE_MATCH", is_global=True))
        True
    """
    is_code = guard.guard_type in CODE or (guard.is_global and guard.guard_type in GLOBAL_CODE)
    return not (is_code and guard.name.startswith(PROGRAM))


def filtered(guards: Sequence[Any]) -> list[bool]:
    """Which guards are checked, see `keeps`."""
    return [keeps(guard) for guard in guards]


def with_filter(options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``torch.compile`` with this choice of guards, where they leave the choice.

    Args:
        options: Keyword arguments; not changed, nor what they hold.

    Example:
        >>> with_filter({"mode": "max-autotune"})  # torch takes a mode or options, not both
        {'mode': 'max-autotune'}
        >>> sorted(with_filter({"options": {"cpp_wrapper": True}})["options"])
        ['cpp_wrapper', 'guard_filter_fn']
    """
    if options.get("mode") is not None or not CAN_FILTER:
        return options
    return {**options, "options": {"guard_filter_fn": filtered, **(options.get("options") or {})}}
