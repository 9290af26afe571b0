"""The kinds of values that keys of a config hold: what is accepted, and what is said otherwise."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo


def _named(value: Any) -> Any:
    """A bare name stands for ``{type: name}``."""
    return {"type": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """A single name stands for a list of one."""
    return [value] if isinstance(value, str) else value


def _without_nulls(value: Any) -> Any:
    """An entry set to null is an entry taken out."""
    if isinstance(value, dict):
        return {key: entry for key, entry in value.items() if entry is not None}
    return value


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"is {str(value).lower()}; a number is needed")
    return value


def _number_or_schedule(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not isinstance(value, dict):
        raise ValueError(
            f"is {value!r}; a number is needed, or a schedule such as {{ramp: [0, 0.0, 100, 1.0]}}"
        )
    return value


def _is_device(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError(f"is {value!r}; 'auto', 'cpu', 'cuda' or 'cuda:0' is needed")
    return value


def _names(value: Any) -> Any:
    names = value if isinstance(value, list) else [value]
    if value is not None and not all(isinstance(name, str) for name in names):
        raise ValueError(f"is {value!r}; the name of a key is needed, or a list of names")
    return value


def _is_folder_name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[^/\\\x00-\x1f]+", value):
        raise ValueError(f"is {value!r}; the name of a folder is needed, without / and \\")
    return value


def _follows(value: int | None, info: ValidationInfo) -> int | None:
    first = info.data.get("after", 0)
    if value is not None and value < first:
        raise ValueError(f"is {value}, and `after` is {first}: the end comes before the beginning")
    return value


BARE_NAME = BeforeValidator(_named)
NO_NULLS = BeforeValidator(_without_nulls)

Keys = Annotated[Any, BeforeValidator(_names)]
"""A key of the state, or a list of them."""
Names = Annotated[list[str], BeforeValidator(_listed)]
"""Names; a single one stands for a list of one."""
Number = Annotated[Any, BeforeValidator(_number_or_schedule)]
"""A number, or a schedule that gives one for every step."""
Whole = Annotated[int, BeforeValidator(_no_boolean)]
Real = Annotated[float, BeforeValidator(_no_boolean)]
Count = Annotated[Whole, Field(ge=1)]
StepIndex = Annotated[Whole, Field(ge=0)]
LastIndex = Annotated[StepIndex | None, AfterValidator(_follows)]
"""The last step of a window that begins at the key ``after`` of the same block."""
Device = Annotated[str, BeforeValidator(_is_device)]
FolderName = Annotated[str, BeforeValidator(_is_folder_name)]
