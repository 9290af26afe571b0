"""The values of the current batch: what the data brought and what the steps wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..errors import ConfigError, did_you_mean


class State(dict[str, Any]):
    """A dictionary whose entries are attributes as well, and which knows who wrote them.

    Example:
        >>> state = State(image=1)
        >>> state.write("logits", 2, by="injector 'forward'")
        >>> state.logits + state["image"]
        3
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "_writers", {})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The state has no {name!r}.{did_you_mean(name, self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def read(self, key: str, *, by: str) -> Any:
        """The value of a key.

        Args:
            key: What to read.
            by: Who reads, for the message.

        Raises:
            ConfigError: Nothing has written it.
        """
        try:
            return self[key]
        except KeyError:
            raise ConfigError(
                f"The {by} reads {key!r}, which neither the data nor anything before it writes."
                f"{did_you_mean(key, self)}"
            ) from None

    def write(self, key: str, value: Any, *, by: str, overwrite: bool = False) -> None:
        """Write a key that is not there yet.

        Args:
            key: Where to write.
            value: What to write.
            by: Who writes, for the message.
            overwrite: Whether a value that is there may be replaced.

        Raises:
            ConfigError: The key is there already.
        """
        writers: dict[str, str] = self.__dict__["_writers"]
        if key in self and not overwrite:
            raise ConfigError(
                f"The {by} writes {key!r}, which {writers.get(key, 'the data')} has written "
                "already; choose another `out`, or say `overwrite: true`."
            )
        writers[key] = f"the {by}"
        self[key] = value

    def detach(self, keys: Iterable[str], *, keep: Collection[str] = ()) -> None:
        """Cut values from their graphs; tensors inside lists and dictionaries too.

        Args:
            keys: Which; a key that is not there is passed over.
            keep: Those that stay connected.
        """
        for key in keys:
            if key in self and key not in keep:
                self[key] = detached(self[key])

    def chunk(self, keys: Iterable[str], rows: slice, size: int) -> State:
        """A part of the batch.

        Args:
            keys: Keys to take over.
            rows: Samples of the part.
            size: Samples of the whole batch; what has another first axis is taken whole.

        Returns:
            A new state, with the same writers.
        """
        part = State({key: _rows(self[key], rows, size) for key in keys})
        part.__dict__["_writers"].update(self.__dict__["_writers"])
        return part

    def batch_size(self) -> int:
        """Length of the first tensor with an axis; 0 where there is none."""
        sizes = (v.shape[0] for v in self.values() if isinstance(v, Tensor) and v.dim() > 0)
        return next(sizes, 0)


def detached(value: Any) -> Any:
    """The same value, each tensor in it cut from its graph; nothing is copied."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, list | tuple | dict):
        return tree_map_only(Tensor, Tensor.detach, value)
    return value


def shown(value: Any) -> str:
    """A value as messages show it.

    Example:
        >>> shown(torch.zeros(4, 2)), shown("text")
        ('of shape (4, 2)', '(a str)')
    """
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)}"
    return f"(a {type(value).__name__})"


def joined(values: list[Any], counts: list[int]) -> Any:
    """The values of all chunks of a batch as one.

    Args:
        values: A value for each chunk: tensors with the samples first are put after one another,
            numbers become their weighted mean; of anything else the first one counts.
        counts: Samples in each chunk.

    Example:
        >>> joined([torch.zeros(1), torch.ones(2)], [1, 2])
        tensor([0., 1., 1.])
        >>> joined([torch.tensor(0.0), torch.tensor(3.0)], [1, 2])
        tensor(2.)
    """
    first = values[0]
    if isinstance(first, Tensor) and first.dim() > 0:
        return torch.cat(values) if first.shape[0] == counts[0] else first
    if isinstance(first, Tensor) and first.is_floating_point():
        weights = torch.tensor(counts, dtype=first.dtype, device=first.device) / sum(counts)
        return (torch.stack(values) * weights).sum()
    if isinstance(first, list | tuple):
        return type(first)(joined(list(parts), counts) for parts in zip(*values, strict=True))
    if isinstance(first, dict):
        return {key: joined([value[key] for value in values], counts) for key in first}
    return first


def _rows(value: Any, rows: slice, size: int) -> Any:
    if isinstance(value, Tensor):
        return value[rows] if value.dim() > 0 and value.shape[0] == size else value
    if isinstance(value, list) and len(value) == size:
        return value[rows]
    return value
