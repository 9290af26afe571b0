"""The reference of a config's keys, written from the models that check them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .places import plain
from .schema import Config, Typed

_HEAD = """\
# Keys of a config

Written by `dni list --config` from the models that check configs; a test compares the two.
`<name>` stands for a name of your own. Where a block has `type`, its other keys are arguments of
what `type` names (`dni list` shows them), and a bare name is short for `{type: name}`. An entry set
to `null` is taken out. A key without a default must be given.

Files given to `-b` merge deeply and in order; lists and values replace, and so does a mapping whose
`type` changes or that says `__replace__: true`. On the command line `--steps/classify/clip 1.0`
sets one key. `${seed}` and `"{run/name}"` are the value of another key, `${oc.env:TOKEN}` a
variable of the environment, which is neither shown nor saved. `1e-4` is a number.

| key | value | default | meaning |
|---|---|---|---|
"""


def config_reference() -> str:
    """All keys of a config as a table in Markdown."""
    return _HEAD + "".join(f"{line}\n" for line in _rows(Config, ""))


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        annotation = plain(field.annotation)
        inner = _model_of(annotation)
        yield f"| `{key}` | {_value(annotation)} | {_default(field)} | {field.description or ''} |"
        if inner is not None:
            below = {dict: f"{key}/<name>/", list: f"{key}/<place>/"}
            yield from _rows(inner, below.get(get_origin(annotation), f"{key}/"))
    if issubclass(model, Typed):
        yield f"| `{prefix}…` | | | arguments of what `type` names |"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) in (dict, list):
        annotation = plain(get_args(annotation)[-1])
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def _value(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    if origin is tuple:
        return "list of " + " and ".join(_value(plain(part)) for part in get_args(annotation))
    if origin is list:
        inner = plain(get_args(annotation)[0])
        return "text or list" if inner is str else "list"
    if origin is dict or _model_of(annotation) is not None:
        return "mapping"
    words = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return words.get(annotation, "")


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return ""
    if isinstance(default, BaseModel):
        return "as below"
    if isinstance(default, bool) or default is None:
        return f"`{ {True: 'true', False: 'false', None: 'null'}[default] }`".replace(" ", "")
    if isinstance(default, tuple):
        default = list(default)
    return f"`{default}`" if default != "" else ""
