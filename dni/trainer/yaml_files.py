"""YAML files as configs: read with the lines of their keys, and merged in order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError
from .places import Places

REFERENCE = re.compile(r"\{([\w\-.]+(?:/[\w\-.]+)*)\}")
_REPLACE = "__replace__"


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
        place = Places.read(text, str(file)).say(keys_in(err.full_key or ""), first_line(err))
        raise ConfigError(place) from err
    except OSError as err:  # what OmegaConf says about a text that is a single value
        raise ConfigError(f"{file}: a config is a mapping of keys to values.") from err
    if isinstance(node := yaml.compose(text, Loader=yaml.SafeLoader), yaml.ScalarNode):
        # OmegaConf takes a word for a key without a value.
        raise ConfigError(
            f"{file}: a config is a mapping of keys to values, not the text {node.value!r}; a key "
            "and its value are `key: value`, with a space."
        )
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{file}: a config is a mapping of keys to values, not a list.")
    raw = OmegaConf.to_container(loaded, resolve=False)
    return OmegaConf.create(resolve_braces(raw)), Places.read(text, str(file))


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


def resolve_braces(value: Any) -> Any:
    """Write ``"{a/b}"`` as OmegaConf has it, ``"${a.b}"``, in a value and all below it."""
    if isinstance(value, dict):
        return {key: resolve_braces(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [resolve_braces(entry) for entry in value]
    if isinstance(value, str) and (found := REFERENCE.fullmatch(value)):
        return "${" + found[1].replace("/", ".") + "}"
    return value


def _yaml_message(file: str | Path, err: yaml.YAMLError) -> str:
    mark = getattr(err, "problem_mark", None)
    problem = getattr(err, "problem", None) or first_line(err)
    context = getattr(err, "context", None)
    place = f"{file}:{mark.line + 1}" if mark is not None else str(file)
    return f"{place}: this is no valid YAML: {problem}{f' ({context})' if context else ''}."


def first_line(err: Exception) -> str:
    """The first line of what an error says."""
    return str(err).partition("\n")[0].strip()


def keys_in(full_key: str) -> list[str]:
    """The keys of a path as OmegaConf writes it: ``"a.b[0]"``."""
    return [key for key in re.split(r"[.\[\]]+", full_key) if key]
