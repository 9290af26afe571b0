"""Objects by name: what a config calls ``type`` is a registered name or an import path."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..errors import ConfigError, did_you_mean

T = TypeVar("T", bound=Callable[..., Any])


def import_path(path: str, *, what: str = "object") -> Any:
    """What an import path such as ``"package.module.Name"`` or ``"package.module:Name"`` names.

    Args:
        path: Module and attribute, joined by a dot or a colon; the attribute may be nested.
        what: What is looked for, for the message.

    Raises:
        ConfigError: The module is not there or fails while it is imported, or has no such
            attribute.

    Example:
        >>> import_path("torch.nn.ReLU").__name__
        'ReLU'
    """
    parts = path.replace(":", ".").split(".")
    for split in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as err:
            # A module that exists and itself imports a missing one must not be called missing.
            if err.name is None or not (name == err.name or name.startswith(err.name + ".")):
                raise ConfigError(
                    f"The {what} {path!r} needs the module {err.name!r}, which is not installed."
                ) from err
            continue
        except Exception as err:
            reason = f"{type(err).__name__}: {err}".partition("\n")[0]
            raise ConfigError(f"The {what} {path!r} cannot be imported: {reason}.") from err
        for depth, attribute in enumerate(parts[split:], split):
            if not hasattr(found, attribute):
                owner = ".".join(parts[:depth])
                raise ConfigError(
                    f"The {what} {path!r} was not found: {owner!r} has no {attribute!r}."
                    f"{did_you_mean(attribute, [n for n in dir(found) if n[0] != '_'])}"
                )
            found = getattr(found, attribute)
        return found
    raise ConfigError(
        f"The {what} {path!r} was not found: there is no module {parts[0]!r}. A file of your own "
        "is found if its folder is the current one or is in PYTHONPATH."
    )


class Registry(Mapping[str, Callable[..., Any]]):
    """Classes and functions by the names that a config may use for them.

    Args:
        what: What the entries are, in the singular, for messages: ``"loss"``.

    Example:
        >>> greetings = Registry("greeting")
        >>> @greetings.register("hello")
        ... def hello(name):
        ...     return f"hello {name}"
        >>> greetings.find("hello")("you")
        'hello you'
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a class or function under a name.

        Raises:
            ConfigError: Another object has that name already.
        """

        def enter(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise ConfigError(
                    f"The {self.what} {name!r} is registered already, as {_origin(known)!r}; "
                    f"choose another name for {_origin(entry)!r}."
                )
            self._entries[name] = entry
            return entry

        return enter

    def find(self, name: str) -> Callable[..., Any]:
        """The entry of that name, or what an import path leads to.

        Raises:
            ConfigError: Neither is there; the nearest names are given.
        """
        if name in self._entries:
            return self._entries[name]
        if "." not in name and ":" not in name:
            raise ConfigError(
                f"There is no {self.what} {name!r}.{did_you_mean(name, self._entries)} Known: "
                f"{', '.join(sorted(self._entries)) or 'none'}; or an import path such as "
                "'package.module.Name'."
            )
        found: Callable[..., Any] = import_path(name, what=self.what)
        if not callable(found):
            raise ConfigError(f"The {self.what} {name!r} is no class and no function.")
        return found

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _origin(entry: Callable[..., Any]) -> str:
    return f"{entry.__module__}.{getattr(entry, '__qualname__', entry)}"


CALLBACKS = Registry("callback")
DATA = Registry("data source")
EVALUATORS = Registry("evaluator")
INJECTORS = Registry("injector")
LOSSES = Registry("loss")
METRICS = Registry("metric")
NETWORKS = Registry("network")
PHASES = Registry("phase")
SCHEDULES = Registry("schedule")
STRATEGIES = Registry("optimizer strategy")
