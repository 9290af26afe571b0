"""The hooks of a wrapper: put on, run, taken off, and inert in copies."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from .errors import AttachmentError, named
from .sites import SiteName


class Listener(Protocol):
    """What an attachment reports to."""

    def at_site(self, site: SiteName, module: nn.Module, output: Any) -> Any:
        """Receive the output of a site; return what replaces it, or ``None``."""

    def before_site(self) -> None:
        """Note that a site is about to run."""


class SiteHook:
    """The only thing left on a user's module; it knows its owner weakly, and copies do nothing."""

    def __init__(self, owner: Listener | None, site: SiteName) -> None:
        self._owner = None if owner is None else weakref.ref(owner)
        self.site = site

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Called by torch after the module's forward."""
        owner = None if self._owner is None else self._owner()
        return None if owner is None else owner.at_site(self.site, module, output)

    @property
    def is_live(self) -> bool:
        """Whether a wrapper still listens."""
        return self._owner is not None and self._owner() is not None

    def __deepcopy__(self, memo: dict[int, Any]) -> SiteHook:
        return type(self)(None, self.site)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (None, self.site)


class BeforeSiteHook(SiteHook):
    """The same ahead of the module's forward."""

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        """Called by torch before the module's forward."""
        owner = None if self._owner is None else self._owner()
        if owner is not None:
            owner.before_site()


class Attachment:
    """Owns the hooks on the sites of one wrapper.

    Args:
        owner: Who is told about the outputs; kept weakly.
    """

    def __init__(self, owner: Listener) -> None:
        self._owner = weakref.ref(owner)
        self._handles: list[RemovableHandle] = []
        weakref.finalize(owner, remove_all, self._handles)

    def attach(self, sites: Mapping[SiteName, nn.Module], *, is_before: bool = False) -> None:
        """Put one forward hook on every site: all of them, or none if one fails.

        Args:
            sites: The modules.
            is_before: Whether the owner is to know before a site runs, too.

        Raises:
            AttachmentError: Another wrapper's hook is on one of the modules.
        """
        owner = self._owner()
        if owner is None or self._handles:
            raise AttachmentError("`attach` was called twice; call `detach` first.")
        for site, module in sites.items():
            if any(hook.is_live for hook in site_hooks(module).values()):
                raise AttachmentError(
                    f"The module at {named(site)} already carries the hook of another `DNI`; "
                    "call `detach()` on that wrapper first."
                )
        try:
            for site, module in sites.items():
                remove_copies(module)
                self._handles.append(module.register_forward_hook(SiteHook(owner, site)))
                if is_before:
                    hook = BeforeSiteHook(owner, site)
                    self._handles.append(module.register_forward_pre_hook(hook))
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Take every hook off; a second call does nothing."""
        remove_all(self._handles)


def remove_all(handles: list[RemovableHandle]) -> None:
    """Remove every hook of a list, and empty it."""
    while handles:
        handles.pop().remove()


def site_hooks(module: nn.Module) -> dict[int, SiteHook]:
    """The hooks of wrappers on a module, by handle id."""
    hooks = module._forward_hooks.items()
    return {key: hook for key, hook in hooks if isinstance(hook, SiteHook)}


def remove_copies(module: nn.Module) -> None:
    """Remove the inert hooks that a copied or unpickled module carries."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, SiteHook) and not hook.is_live:
                del hooks[key]
