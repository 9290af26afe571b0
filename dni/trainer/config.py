"""Reads configs: YAML files merged in order, overrides by path, references, checked values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import ConfigError, did_you_mean
from .places import Places, annotation_at, keys_of
from .schema import Config

COMMAND_LINE = "the command line"
_REFERENCE = re.compile(r"\{([\w\-.]+(?:/[\w\-.]+)*)\}")
_REPLACE = "__replace__"

Override = tuple[str, str]
"""A path and the words of its value: ``("train/max_epochs", "3")``."""


@dataclass(frozen=True)
class Loaded:
    """A config that was read.

    Attributes:
        config: Its values, checked.
        resolved: The same as plain containers, complete: every default filled in, references
            resolved; but for what comes from the environment, which stays ``${oc.env:NAME}``.
        places: Where each key was written.
    """

    config: Config
    resolved: dict[str, Any]
    places: Places

    def yaml(self) -> str:
        """What is shown, and saved with the run; reading it again gives the same config."""
        return OmegaConf.to_yaml(OmegaConf.create(self.resolved), sort_keys=False)


def load_config(files: Iterable[str | Path], overrides: Iterable[Override] = ()) -> Loaded:
    """Read files, merge them in order, apply overrides, resolve references, check everything.

    Mappings merge, lists and values replace. A mapping whose ``type`` changes replaces the old
    one, as does one with ``__replace__: true``. ``${a.b}`` and ``"{a/b}"`` stand for the value at
    another key, ``${oc.env:NAME}`` for a variable of the environment.

    Args:
        files: YAML files.
        overrides: Paths and values, as from the command line; in order, but outer before inner.

    Raises:
        ConfigError: Anything that is wrong, with the file and line, the key, and the nearest name.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "base.yaml"
        >>> _ = file.write_text('''
        ... data: {train: digits}
        ... networks: {net: fcn}
        ... steps: {classify: {training: net}}
        ... ''')
        >>> load_config([file], [("train/max_steps", "5")]).config.train.max_steps
        5
    """
    tree, places = OmegaConf.create(_defaults()), Places()
    for file in files:
        new, found = read_file(file)
        places.update(found)
        tree = merge(tree, new)
    for path, text in sorted(overrides, key=lambda override: override[0].count("/")):
        override(tree, places, path, text)
    return check(tree, places)


def _defaults() -> dict[str, Any]:
    """What there is before the first file, so that references find the defaults too."""
    values = {
        field.alias or name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in Config.model_fields.items()
        if not field.is_required()
    }
    return {
        key: value.model_dump(by_alias=True) if isinstance(value, BaseModel) else value
        for key, value in values.items()
    }


def read_file(file: str | Path) -> tuple[DictConfig, Places]:
    """Read one YAML file.

    Raises:
        ConfigError: It cannot be read, or is not a YAML mapping; with the line.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "it is not text in UTF-8"
        raise ConfigError(f"{file}: the config cannot be read: {reason}.") from err
    try:
        loaded = OmegaConf.load(file)
    except yaml.YAMLError as err:
        raise ConfigError(_yaml_message(file, err)) from err
    except OmegaConfBaseException as err:
        place = Places.read(text, str(file)).say(_keys(err.full_key or ""), _first_line(err))
        raise ConfigError(place) from err
    except OSError as err:  # what OmegaConf says about a text that is a single value
        raise ConfigError(f"{file}: a config is a mapping of keys to values.") from err
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{file}: a config is a mapping of keys to values, not a list.")
    raw = OmegaConf.to_container(loaded, resolve=False)
    return OmegaConf.create(_references(raw)), Places.read(text, str(file))


def merge(base: DictConfig, new: DictConfig) -> DictConfig:
    """Merge a config into another; see `load_config`.

    Returns:
        The merged config; both arguments stay as they are.

    Example:
        >>> base = OmegaConf.create({"o": {"type": "sgd", "lr": 1, "momentum": 0.9}})
        >>> merge(base, OmegaConf.create({"o": {"lr": 2}}))
        {'o': {'type': 'sgd', 'lr': 2, 'momentum': 0.9}}
        >>> merge(base, OmegaConf.create({"o": {"type": "adamw"}}))
        {'o': {'type': 'adamw'}}
    """
    old: Any = OmegaConf.to_container(base, resolve=False)
    added: Any = OmegaConf.to_container(new, resolve=False)
    _forget_replaced(old, added)
    return OmegaConf.merge(OmegaConf.create(old), OmegaConf.create(added))  # type: ignore[return-value]


def _forget_replaced(old: dict[Any, Any], new: dict[Any, Any]) -> None:
    for key, value in new.items():
        before = old.get(key)
        if not isinstance(value, dict):
            if isinstance(before, dict):
                del old[key]
            continue
        if isinstance(before, str) and "type" not in value:
            old[key] = before = {"type": before}  # a bare name that gets arguments
        if not isinstance(before, dict):
            before = old.pop(key, None) and None
        elif value.get(_REPLACE) or before.get("type") != value.get("type", before.get("type")):
            before = old.pop(key) and None
        _forget_replaced(before or {}, value)
        value.pop(_REPLACE, None)


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


def check(tree: DictConfig, places: Places) -> Loaded:
    """Resolve references and check a merged config.

    Raises:
        ConfigError: All that is wrong, a line each.
    """
    values = _resolve(tree, places)
    try:
        config = Config.model_validate(values)
    except ValidationError as err:
        lines = [_say(details, places) for details in err.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from err
    shown = _resolve(_without_environment(tree), places)
    resolved = _masked(config.model_dump(by_alias=True), values, shown)
    return Loaded(config, resolved, places)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """What two configs differ in.

    Returns:
        A line for each key: ``"seed: 0 → 1"``.

    Example:
        >>> differences({"seed": 0, "log": {"every": 2}}, {"seed": 1, "log": {}})
        ['seed: 0 → 1', 'log/every: 2 → nothing']
    """
    lines = []
    for key in dict.fromkeys((*old, *new)):
        one, two = old.get(key, "nothing"), new.get(key, "nothing")
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            lines += differences(one, two, f"{path}{key}/")
        elif one != two:
            lines.append(f"{path}{key}: {one} → {two}")
    return lines


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _references(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_references(entry) for entry in value]
    if isinstance(value, str) and (found := _REFERENCE.fullmatch(value)):
        return "${" + found[1].replace("/", ".") + "}"
    return value


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
        raise ConfigError(f"--{path}: the value {text!r} is no YAML: {_first_line(err)}.") from err
    raw = text if parsed is None else OmegaConf.to_container(parsed, resolve=False)["value"]  # type: ignore[index, call-overload]
    return _references(raw)


def _is_reference(text: str) -> bool:
    return _REFERENCE.fullmatch(text) is not None and "/" in text


def _resolve(tree: DictConfig, places: Places) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as err:
        message = _first_line(err)
        if found := re.search(r"Interpolation key '(.*)' not found", message):
            name = found[1].rpartition(".")[2]
            message = (
                f"it refers to '{found[1].replace('.', '/')}', which does not exist."
                f"{did_you_mean(name, _leaves(tree))}"
            )
        elif found := re.search(r"Environment variable '(.*)' not found", message):
            message = f"the environment has no variable {found[1]!r}; set it, or give a default: "
            message += f"${{oc.env:{found[1]},value}}."
        raise ConfigError(places.say(_keys(err.full_key or ""), message)) from err


def _leaves(tree: DictConfig) -> set[str]:
    """Names of all keys, at every level."""
    names: set[str] = set()
    stack: list[Any] = [OmegaConf.to_container(tree, resolve=False)]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            names.update(map(str, value))
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return names


def _without_environment(tree: DictConfig) -> DictConfig:
    def mask(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: mask(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [mask(entry) for entry in value]
        if isinstance(value, str) and "oc.env:" in value:
            return value.replace("${", r"\${")
        return value

    masked: DictConfig = OmegaConf.create(mask(OmegaConf.to_container(tree, resolve=False)))
    return masked


def _masked(checked: Any, values: Any, shown: Any) -> Any:
    """The checked values, each that differs from what may be shown replaced by the latter."""
    if isinstance(shown, str) and shown != values:
        return shown
    if isinstance(checked, dict) and isinstance(values, dict):
        return {
            key: _masked(entry, values[key], shown[key]) if key in values else entry
            for key, entry in checked.items()
        }
    if isinstance(checked, list) and isinstance(values, list):
        return [_masked(*entries) for entries in zip(checked, values, shown, strict=True)]
    return checked


def _say(details: ErrorDetails, places: Places) -> str:
    path = [part for part in details["loc"] if part != "[key]"]
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        block = annotation_at(Config, path[:-1])
        message = f"there is no such key here.{did_you_mean(str(path[-1]), keys_of(block))}"
    elif kind == "missing":
        message = "this key is missing; the block needs it."
    elif kind == "literal_error":
        known = re.findall(r"'([^']*)'", details["msg"])
        message = f"it is {given!r}.{did_you_mean(str(given), known)}"
    elif kind == "value_error":
        message = f"it {details['msg'].removeprefix('Value error, ')}."
    elif kind == "too_short":
        message = "it is empty; at least one entry is needed."
    elif kind == "invalid_key":
        message = "this key is no text; put it into quotes."
    elif kind in ("model_type", "dict_type"):
        message = f"it is {given!r}; a mapping of keys to values is needed."
    else:
        message = f"it is {given!r}; {details['msg'].replace('Input should be', 'it should be')}."
    return places.say(path, message)


def _yaml_message(file: str | Path, err: yaml.YAMLError) -> str:
    mark = getattr(err, "problem_mark", None)
    problem = getattr(err, "problem", None) or _first_line(err)
    context = getattr(err, "context", None)
    place = f"{file}:{mark.line + 1}" if mark is not None else str(file)
    return f"{place}: this is no valid YAML: {problem}{f' ({context})' if context else ''}."


def _first_line(err: Exception) -> str:
    return str(err).partition("\n")[0].strip()


def _keys(full_key: str) -> list[str]:
    return [key for key in re.split(r"[.\[\]]+", full_key) if key]
