"""Values by path, as the command line gives them, set in a config."""

from __future__ import annotations

from typing import Any, get_origin

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from ..errors import ConfigError, did_you_mean
from .places import COMMAND_LINE, Places, annotation_at, keys_of
from .schema import Config
from .yaml_files import REFERENCE, first_line, resolve_braces

Override = tuple[str, str]
"""A path and the words of its value: ``("train/max_epochs", "3")``."""


def override(tree: DictConfig, places: Places, path: str, text: str) -> None:
    """Set the value at a path, in place.

    Args:
        tree: The config.
        places: Where its keys were written; the key is added.
        path: Keys joined by ``/``; a number is the place in a list.
        text: The value, as YAML.

    Raises:
        ConfigError: There is no such key, and none can be.
    """
    keys = _split(tree, path)
    node: Any = tree
    for depth, key in enumerate(keys[:-1]):
        done = keys[: depth + 1]
        following = _get(node, key)
        if isinstance(following, str) and annotation_at(Config, [*done, "type"]) is str:
            following = {"type": following}  # a bare name that gets arguments
        if following is None and _is_block(done) and not _is_entry(done):
            following = {}
        if not isinstance(following, dict | list | DictConfig | ListConfig):
            _refuse(path, done, node, following)
        if isinstance(following, dict):
            _set(node, key, following, path, done)
            following = _get(node, key)
        node = following
    _set(node, keys[-1], _value(path, text), path, keys)
    for known in [known for known in places if known[: len(keys)] == keys]:
        del places[known]
    places[keys] = COMMAND_LINE


def _split(tree: DictConfig, path: str) -> tuple[str, ...]:
    """The keys of a path; the keys of `schedules` are paths themselves."""
    keys = tuple(path.split("/"))
    if "" in keys:
        raise ConfigError(f"--{path}: a path is keys joined by '/', none of them empty.")
    if keys[0] != "schedules" or len(keys) < 2:
        return keys
    known = _get(tree, "schedules") or {}
    for end in range(len(keys), 1, -1):
        if "/".join(keys[1:end]) in known:
            return (keys[0], "/".join(keys[1:end]), *keys[end:])
    return (keys[0], "/".join(keys[1:]))


def _is_block(keys: tuple[str, ...]) -> bool:
    kind = annotation_at(Config, keys)
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return is_model or kind is Any or get_origin(kind) in (dict, list)


def _is_entry(keys: tuple[str, ...]) -> bool:
    """Whether a key is a name the user chose: a network, a step, a loss."""
    return get_origin(annotation_at(Config, keys[:-1])) in (dict, list)


def _get(node: Any, key: str) -> Any:
    if isinstance(node, ListConfig):
        within = key.isdigit() and int(key) < len(node)
        return node._get_node(int(key)) and _raw(node, int(key)) if within else None
    return _raw(node, key) if key in node else None


def _raw(node: Any, key: Any) -> Any:
    """A value as it is written, references not resolved."""
    if OmegaConf.is_interpolation(node, key):
        return OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]
    return node[key]


def _set(node: Any, key: str, value: Any, path: str, keys: tuple[str, ...]) -> None:
    if isinstance(node, ListConfig):
        if not key.isdigit() or int(key) >= len(node):
            raise ConfigError(
                f"--{path}: '{'/'.join(keys[:-1])}' is a list of {len(node)}; a place from 0 to "
                f"{len(node) - 1} is needed, not {key!r}."
            )
        node[int(key)] = value
        return
    is_new_entry = _is_entry(keys) and key not in node and keys[0] != "schedules"
    is_bare = not isinstance(value, dict | str | None) or (value is None and is_new_entry)
    if annotation_at(Config, keys) is None or (is_new_entry and is_bare):
        _refuse(path, keys, node, None)
    node[key] = value


def _refuse(path: str, keys: tuple[str, ...], node: Any, found: Any) -> None:
    name = "/".join(keys)
    if found is not None:
        raise ConfigError(f"--{path}: {name!r} is {found!r}, which has no keys in it.")
    kind = annotation_at(Config, keys[:-1])
    known = [] if isinstance(node, ListConfig) else [str(key) for key in node]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        known += keys_of(kind)
    raise ConfigError(f"--{path}: there is no key {name!r}.{did_you_mean(keys[-1], known)}")


def _value(path: str, text: str) -> Any:
    try:
        parsed = OmegaConf.from_dotlist([f"value={text}"]) if not _is_reference(text) else None
    except (yaml.YAMLError, OmegaConfBaseException) as err:
        raise ConfigError(f"--{path}: the value {text!r} is no YAML: {first_line(err)}.") from err
    raw = text if parsed is None else OmegaConf.to_container(parsed, resolve=False)["value"]  # type: ignore[index, call-overload]
    return resolve_braces(raw)


def _is_reference(text: str) -> bool:
    return REFERENCE.fullmatch(text) is not None and "/" in text
