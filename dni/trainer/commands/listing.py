"""``dni list``: what a config can name, with arguments; and every key of a config."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from ...errors import ConfigError, did_you_mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("kind", nargs="?", metavar="KIND", help="only these, e.g. `losses`")
    parser.add_argument(
        "--config", action="store_true", help="explain every key of a config, as Markdown"
    )
    parser.set_defaults(call=main)


def main(options: argparse.Namespace) -> int:
    """Carry out the command.

    Raises:
        ConfigError: There is no such kind.
    """
    if options.config:
        from ..reference import config_reference

        print(config_reference(), end="")
        return 0
    kinds = registered()
    if options.kind is not None and options.kind not in kinds:
        hint = did_you_mean(options.kind, kinds)
        raise ConfigError(f"There is no kind {options.kind!r} of things to list.{hint}")
    for kind in [options.kind] if options.kind else kinds:
        print(f"{kind}:")
        for line in _lines(kinds[kind]):
            print(f"  {line}")
        print()
    return 0


def registered() -> dict[str, dict[str, Callable[..., Any]]]:
    """What is registered, by kind and name; torch's optimizers are among the strategies."""
    from ...optimizers import OPTIMIZERS
    from .. import build, registry  # noqa: F401  (importing `build` registers everything)

    kinds: dict[str, dict[str, Callable[..., Any]]] = {
        "networks": dict(registry.NETWORKS),
        "data": dict(registry.DATA),
        "injectors": dict(registry.INJECTORS),
        "losses": dict(registry.LOSSES),
        "optimizers": {**registry.STRATEGIES, **OPTIMIZERS},
        "schedules": dict(registry.SCHEDULES),
        "metrics": dict(registry.METRICS),
        "callbacks": dict(registry.CALLBACKS),
        "phases": dict(registry.PHASES),
        "evaluators": dict(registry.EVALUATORS),
    }
    return {kind: entries for kind, entries in kinds.items() if entries}


def _lines(entries: dict[str, Callable[..., Any]]) -> Iterator[str]:
    for name, entry in sorted(entries.items()):
        summary = (inspect.getdoc(entry) or "").partition("\n")[0]
        yield f"{name}({', '.join(arguments(entry))})"
        if summary:
            yield f"    {summary}"


def arguments(entry: Callable[..., Any]) -> list[str]:
    """The arguments of a class or function that a config may give: ``"lr=0.001"``.

    Example:
        >>> arguments(lambda networks, lr=0.1, *, clip=None, **more: None)
        ['lr=0.1', 'clip=None', '…']
    """
    shown = []
    try:
        parameters = inspect.signature(entry).parameters
    except (TypeError, ValueError):
        return ["…"]
    for name, parameter in parameters.items():
        if name in ("networks", "params"):
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            shown.append("…")
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            has_default = parameter.default is not parameter.empty
            shown.append(f"{name}={parameter.default!r}" if has_default else name)
    return shown
