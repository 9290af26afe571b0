"""Reads configs: YAML files merged in order, overrides by path, references, checked values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import ConfigError, did_you_mean
from .overrides import Override, override
from .places import Places, annotation_at, keys_of
from .schema import Config
from .yaml_files import first_line, keys_in, merge, read_file


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


def _resolve(tree: DictConfig, places: Places) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as err:
        message = first_line(err)
        if found := re.search(r"Interpolation key '(.*)' not found", message):
            name = found[1].rpartition(".")[2]
            message = (
                f"it refers to '{found[1].replace('.', '/')}', which does not exist."
                f"{did_you_mean(name, _leaves(tree))}"
            )
        elif found := re.search(r"Environment variable '(.*)' not found", message):
            message = f"the environment has no variable {found[1]!r}; set it, or give a default: "
            message += f"${{oc.env:{found[1]},value}}."
        raise ConfigError(places.say(keys_in(err.full_key or ""), message)) from err


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
