"""Data: batches in an order that seed and epoch alone decide, from any position on."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from ..errors import ConfigError, did_you_mean
from .datasets import Tensors
from .randomness import seed_all
from .registry import DATA

Batch = dict[str, Any]


class Source:
    """Batches of a data set, each a dictionary of tensors.

    The order of an epoch is a function of seed and epoch, so a run can go on from any batch.

    Args:
        dataset: A torch ``Dataset``, a sequence of samples, a ``DataLoader``, or any iterable of
            ready batches (which is shuffled by whoever made it).
        batch_size: Samples in a batch.
        shuffle: Whether to shuffle; ``None``: in training phases only.
        keys: Names of the parts of a sample that is a tuple.
        drop_last: Whether to leave out a last batch that is not full; ``None``: in training
            phases only, unless it is the only batch.
        workers: Processes that prepare samples; 0: the trainer's own.
        seed: Seed of the order; ``None``: the trainer's.
        num_classes: Number of classes of the labels; ``None``: as the data set says.

    Raises:
        ConfigError: An argument has a value that cannot work.

    Example:
        >>> source = Source(Tensors(x=torch.arange(6)), batch_size=4)
        >>> [batch["x"].tolist() for batch in source.batches(epoch=0)]
        [[0, 1, 2, 3], [4, 5]]
    """

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int = 64,
        shuffle: bool | None = None,
        keys: Sequence[str] = ("image", "label"),
        drop_last: bool | None = None,
        workers: int = 0,
        seed: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        collate: Callable[[Any], Any] = default_collate
        if isinstance(dataset, DataLoader) and _is_plain(dataset):
            shuffle = isinstance(dataset.sampler, RandomSampler) if shuffle is None else shuffle
            batch_size, workers = dataset.batch_size or 1, dataset.num_workers
            drop_last, collate = dataset.drop_last, dataset.collate_fn
            dataset = dataset.dataset
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"`batch_size` is {batch_size!r}; a whole number from 1 is needed.")
        if isinstance(dataset, Iterator):
            raise ConfigError(
                f"The data is a {type(dataset).__name__}, which can be read only once; give "
                "something that can be iterated over again for every epoch, such as a list."
            )
        self.is_map = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if not self.is_map and not isinstance(dataset, Iterable):
            raise ConfigError(
                f"The data is a {type(dataset).__name__}; a torch Dataset, a sequence of samples "
                "or an iterable of batches is needed."
            )
        if isinstance(dataset, TensorDataset):
            _check_keys(len(dataset.tensors), keys)
            tensors: Any = dict(zip(keys, dataset.tensors, strict=True))
            dataset = Tensors(**tensors)
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.keys, self.drop_last, self.workers, self.seed = tuple(keys), drop_last, workers, seed
        classes = getattr(dataset, "classes", None)
        of_dataset = getattr(dataset, "num_classes", None) or (len(classes) if classes else None)
        self.num_classes: int | None = num_classes or of_dataset
        self._collate = collate

    def count(self, *, training: bool = False) -> int | None:
        """Number of batches in an epoch; ``None`` where it is not known."""
        if not self.is_map:
            return len(self.dataset) if hasattr(self.dataset, "__len__") else None
        return len(range(0, self._end(training), self.batch_size))

    def batches(self, epoch: int, *, start: int = 0, training: bool = False) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: Which epoch, from 0.
            start: Number of batches to leave out at its start.
            training: Whether they are for a phase that trains.

        Yields:
            Batches; tensors ``[B, *]`` under the keys of the samples.

        Raises:
            ConfigError: A sample or batch is neither a dictionary nor a tuple that fits `keys`.
        """
        if not self.is_map:
            yield from map(self._named, itertools.islice(self.dataset, start, None))
            return
        order = self._order(epoch, training)[start * self.batch_size : self._end(training)]
        parts = order.split(self.batch_size) if len(order) else ()
        if isinstance(self.dataset, Tensors):
            tensors = self.dataset.tensors
            for part in parts:
                yield {key: value[part] for key, value in tensors.items()}
        elif self.workers == 0:
            for part in parts:
                yield self._named(self._collated([self.dataset[i] for i in part.tolist()]))
        else:
            yield from map(self._named, self._loader(epoch, [p.tolist() for p in parts]))

    def order(self, epoch: int, *, training: bool = False) -> Tensor | None:
        """Which samples an epoch consists of, in their order.

        Returns:
            Numbers of samples ``[N]``; ``None`` for an iterable of batches, which has none.

        Example:
            >>> Source(Tensors(x=torch.zeros(3))).order(0)
            tensor([0, 1, 2])
        """
        return self._order(epoch, training)[: self._end(training)] if self.is_map else None

    def peek(self) -> Batch:
        """The first batch of the first epoch, for checks before a run.

        Raises:
            ConfigError: There is none.
        """
        for batch in self.batches(0):
            return batch
        raise ConfigError(
            "There is not one batch in the data: it is empty, or smaller than one (`drop_last`)."
        )

    def state_dict(self) -> dict[str, Any]:
        """What the order of batches depends on."""
        size = len(self.dataset) if self.is_map else None
        return {"seed": self.seed, "batch_size": self.batch_size, "samples": size}

    def _order(self, epoch: int, training: bool) -> Tensor:
        count = len(self.dataset)
        if not (training if self.shuffle is None else self.shuffle):
            return torch.arange(count)
        # Another stream than the global one: the order then depends on nothing that was drawn.
        generator = torch.Generator().manual_seed(_mixed(self.seed or 0, epoch))
        return torch.randperm(count, generator=generator)

    def _end(self, training: bool) -> int:
        count = len(self.dataset)
        drops = training if self.drop_last is None else self.drop_last
        full = count - count % self.batch_size
        return full if drops and (full or self.drop_last) else count

    def _collated(self, samples: list[Any]) -> Any:
        try:
            return self._collate(samples)
        except TypeError as err:
            raise ConfigError(
                f"A sample holds something that no batch can be made of: {err}. Turn it into a "
                "tensor in the data set, for example with a transform."
            ) from err

    def _named(self, batch: Any) -> Batch:
        if isinstance(batch, dict):
            return batch
        if isinstance(batch, Tensor) and len(self.keys) == 1:
            return {self.keys[0]: batch}
        if not isinstance(batch, tuple | list):
            raise ConfigError(
                f"A batch is a {type(batch).__name__}; a dictionary is needed, or a tuple with "
                "one part for each of `keys`."
            )
        _check_keys(len(batch), self.keys)
        return dict(zip(self.keys, batch, strict=True))

    def _loader(self, epoch: int, parts: list[list[int]]) -> Iterator[Any]:
        # A generator of its own: a loader draws a number from the global one otherwise.
        return iter(
            DataLoader(
                _Seeded(self.dataset, _mixed(self.seed or 0, epoch)),
                batch_sampler=parts,
                num_workers=self.workers,
                collate_fn=self._collate,
                generator=torch.Generator(),
            )
        )


class _Seeded(Dataset[Any]):
    """Samples whose random transforms depend on their number and the epoch, not on the worker."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, index: int) -> Any:
        seed_all(_mixed(self.seed, index))
        return self.dataset[index]


def make_source(type: Any, **options: Any) -> Source:
    """A source from a config: its own arguments, and those of the data set.

    Args:
        type: Registered name, import path, or class or function of a data set.
        **options: Arguments of `Source`; all others are the data set's.

    Raises:
        ConfigError: An argument that neither knows, or that a source of its own does not take.
    """
    make = DATA.find(type) if isinstance(type, str) else type
    own = {name for name in inspect.signature(Source).parameters if name != "dataset"}
    theirs = inspect.signature(make).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in theirs.values())
    of_source = {k: v for k, v in options.items() if k in own and k not in theirs}
    of_data = {k: v for k, v in options.items() if k not in of_source}
    for key in of_data:
        if key not in theirs and not takes_all:
            raise ConfigError(
                f"The data {type!r} has no argument {key!r}.{did_you_mean(key, [*theirs, *own])}"
            )
    dataset = make(**of_data)
    if not isinstance(dataset, Source):
        return Source(dataset, **of_source)
    for key in ("shuffle", "drop_last", "keys", "workers"):
        if of_source.get(key):
            raise ConfigError(
                f"The data {type!r} makes its batches itself and takes no `{key}`; leave it out."
            )
    return dataset


def _check_keys(parts: int, keys: Sequence[str]) -> None:
    if parts != len(keys):
        raise ConfigError(
            f"A sample has {parts} parts and `keys` names {len(keys)}: {list(keys)}; name each."
        )


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether a loader's order can be remade: its sampler is one of torch's two simple ones."""
    simple = type(loader.sampler) in (RandomSampler, SequentialSampler)
    return simple and loader.batch_size is not None


def _mixed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**63
