"""Where each key of a config was written, and what keys the models know: for error messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

Path = tuple[str, ...]
_UNIONS = (Union, type(int | None))

COMMAND_LINE = "the command line"


class Places(dict[Path, str]):
    r"""Where keys were written: ``"base.yaml:12"``, or the command line.

    Example:
        >>> places = Places.read("a:\n  b: 1\n", "base.yaml")
        >>> places.find(["a", "b"]), places.find(["a", "c"]), places.find(["z"])
        ('base.yaml:2', 'base.yaml:1', '')
    """

    @classmethod
    def read(cls, text: str, name: str) -> Places:
        """The lines of all keys of a YAML text, which has been parsed without error before.

        Args:
            text: The YAML.
            name: What its file is called.
        """
        places = cls()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            places._visit(node, (), name)
        return places

    def _visit(self, node: yaml.Node, path: Path, name: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*path, str(key.value))
                self[inner] = f"{name}:{key.start_mark.line + 1}"
                self._visit(value, inner, name)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                inner = (*path, str(index))
                self[inner] = f"{name}:{value.start_mark.line + 1}"
                self._visit(value, inner, name)

    def find(self, path: Iterable[object]) -> str:
        """Where a key was written, else the nearest one around it; ``""`` if nowhere."""
        parts = tuple(map(str, path))
        while parts:
            if parts in self:
                return self[parts]
            parts = parts[:-1]
        return ""

    def say(self, path: Iterable[object], message: str) -> str:
        """A message about a key, led by where it was written and what it is called.

        Example:
            >>> places = Places({("a",): "base.yaml:1", ("a", "b"): COMMAND_LINE})
            >>> places.say(["a"], "it cannot be made.")
            'base.yaml:1 and the command line: a: it cannot be made.'
        """
        parts = [str(part) for part in path]
        where, depth = self.find(parts), len(parts)
        # What is wrong with a block may be what the command line put into it.
        is_changed = any(
            place == COMMAND_LINE and list(key[:depth]) == parts for key, place in self.items()
        )
        if where and where != COMMAND_LINE and is_changed:
            where = f"{where} and {COMMAND_LINE}"
        return ": ".join(part for part in (where, "/".join(parts), message) if part)


def plain(annotation: Any) -> Any:
    """An annotation without ``Annotated`` and without ``None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in _UNIONS:
            others = [a for a in get_args(annotation) if a is not type(None)]
            if len(others) != 1:
                return annotation
            annotation = others[0]
        else:
            return annotation


def annotation_at(model: type[BaseModel], path: Iterable[object]) -> Any:
    """What the models say a key holds.

    Args:
        model: Model of the whole.
        path: The key.

    Returns:
        A model, ``dict[str, ...]``, ``list[...]`` or the type of a value; ``Any`` for what belongs
        to the user; ``None`` for a key that cannot be.

    Example:
        >>> from dni.trainer.schema import Config
        >>> annotation_at(Config, ["log", "every"]), annotation_at(Config, ["log", "evry"])
        (<class 'int'>, None)
    """
    found: Any = model
    for part in path:
        if found is Any:
            return Any
        if isinstance(found, type) and issubclass(found, BaseModel):
            fields = keys_of(found)
            if str(part) in fields:
                found = plain(fields[str(part)])
            else:
                found = Any if found.model_config.get("extra") == "allow" else None
        elif get_origin(found) is dict:
            found = plain(get_args(found)[1])
        elif get_origin(found) is list and str(part).isdigit():
            found = plain(get_args(found)[0])
        else:
            found = None
        if found is None:
            return None
    return found


def keys_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """The keys of a block as a config writes them, with their annotations."""
    return {f.alias or name: f.annotation for name, f in model.model_fields.items()}
