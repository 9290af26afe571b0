"""Which modules become sites, and the names of sites on disk."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import nn
from torch.nn.utils import parametrize

from .errors import ConfigError, SiteError, did_you_mean

SiteName: TypeAlias = str
SiteSpec: TypeAlias = (
    str
    | type[nn.Module]
    | Iterable["str | type[nn.Module]"]
    | Callable[[str, nn.Module], bool]
    | None
)
"""What ``sites`` may be: names, module types, or a predicate on name and module."""


def find_sites(
    network: nn.Module, *, recursive: bool = True, sites: SiteSpec = None
) -> dict[SiteName, nn.Module]:
    """Choose the modules whose outputs carry an interface.

    Args:
        network: The user's network.
        recursive: Every leaf module with trainable parameters (``True``), or the network itself
            (``False``; its name is the empty string).
        sites: Names, types or a predicate that choose instead; blocks may be named as well as
            leaves. In a name ``*``, ``?`` and ``[...]`` stand for any characters but a dot. A
            shared module is one site, under its first name.

    Returns:
        Modules by dotted name, in the order of ``network.named_modules()``.

    Raises:
        SiteError: No module qualifies, or a name or type occurs nowhere.
        ConfigError: ``sites`` together with ``recursive=False``, or of another kind.

    Example:
        >>> list(find_sites(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))))
        ['0', '2']
    """
    if sites is not None:
        if not recursive:
            raise ConfigError(
                "`sites` was given together with `recursive=False`, which makes the network "
                "itself the only site; leave one of them out."
            )
        return _chosen_sites(network, sites)
    if not recursive:
        found = {"": network} if _is_trainable(network) else {}
    else:
        found = {name: m for name, m in _leaves(network) if _is_trainable(m)}
    if not found:
        raise SiteError(
            f"`{type(network).__name__}` has no module with trainable parameters; a site needs "
            "one. Check `requires_grad`, or name blocks in `sites=`."
        )
    return found


def _leaves(network: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Modules without children, by name; a parametrized module counts as one of them."""
    seen: set[nn.Module] = set()
    found: list[tuple[str, nn.Module]] = []

    def visit(module: nn.Module, name: str) -> None:
        if module in seen:
            return
        seen.add(module)
        children = [] if parametrize.is_parametrized(module) else list(module.named_children())
        if not children:
            found.append((name, module))
        for child, inner in children:
            visit(inner, f"{name}.{child}" if name else child)

    visit(network, prefix)
    return found


def _is_trainable(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _chosen_sites(network: nn.Module, sites: SiteSpec) -> dict[SiteName, nn.Module]:
    modules = dict(network.named_modules())
    if isinstance(sites, str | type):
        sites = [sites]
    if isinstance(sites, Iterable):
        chosen: set[str] = set()
        for wanted in sites:
            chosen |= _named(modules, wanted)
        if not chosen:
            raise SiteError("`sites` is empty; name at least one module, or leave it out.")
        return {name: m for name, m in modules.items() if name in chosen}
    if not callable(sites):
        raise ConfigError(
            f"`sites` is {sites!r}; names, module types, or a predicate on name and module are "
            "needed."
        )
    found = {name: m for name, m in modules.items() if sites(name, m)}
    if not found:
        raise SiteError("The predicate given as `sites` chose none of the modules.")
    return found


def _named(modules: dict[str, nn.Module], wanted: object) -> set[str]:
    """Names of the modules that one entry of ``sites`` chooses; it must choose at least one."""
    if isinstance(wanted, str):
        found = {wanted} & set(modules) or {name for name in modules if _fits(name, wanted)}
        if not found:
            hint = did_you_mean(wanted, (name for name in modules if name))
            raise SiteError(f"`sites` names {wanted!r}, which is no module of the network.{hint}")
        return found
    if isinstance(wanted, type) and issubclass(wanted, nn.Module):
        found = {name for name, m in modules.items() if isinstance(m, wanted)}
        if not found:
            hint = did_you_mean(wanted.__name__, (type(m).__name__ for m in modules.values()))
            raise SiteError(f"`sites` names {wanted.__name__}, but the network has none.{hint}")
        return found
    raise ConfigError(f"`sites` contains {wanted!r}; a dotted name or a module type is needed.")


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return name != "" and len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def escape(site: SiteName) -> str:
    """The name of a site as a key of ``state_dict``: a path, whose dots have become slashes.

    It starts with a slash, so that it never equals an attribute of a module (attention has
    children called ``keys`` and ``values``). ``~`` becomes ``~0`` and ``/`` becomes ``~1``.

    Example:
        >>> escape("layer1.0.conv1"), escape("")
        ('/layer1/0/conv1', '/')
    """
    return "/" + site.replace("~", "~0").replace("/", "~1").replace(".", "/")


def unescape(key: str) -> SiteName:
    """The site that a key of ``state_dict`` belongs to.

    Example:
        >>> unescape("/layer1/0/conv1"), unescape("/")
        ('layer1.0.conv1', '')
    """
    return key[1:].replace("/", ".").replace("~1", "/").replace("~0", "~")
