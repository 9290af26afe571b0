"""A text as data of the trainer: windows of its streams in order, the model, the figure."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dni.errors import ConfigError, did_you_mean
from dni.trainer.data import Batch, Source
from dni.trainer.evaluators import Evaluator

from .data import PARTS, Corpus, DataError, check_length, load_corpus, streams, windows
from .history import figure, unit
from .model import CELLS, LanguageModel

if TYPE_CHECKING:
    from dni.trainer import State, Trainer


class Streams(Source):
    """Windows of the streams that a text is cut into, one after the other.

    A batch has ``symbols`` ``[T, B]``, ``targets``, the next ones, ``[T, B]``, ``done``, whether
    the streams end with it, and with ``ahead`` also ``ahead`` ``[K, B]``, the symbols that follow.
    In training the first window of an epoch begins somewhere in the first ``window`` symbols, and
    a last one that is not full is left out.

    Args:
        part: ``"train"``, ``"valid"`` or ``"test"``.
        corpus: Folder with the texts, see ``--data`` of ``main.py``; ``None`` for the help topics
            that ship inside Python.
        characters: Whether a symbol is a character, else a word.
        vocabulary: Symbols at most.
        batch_size: Streams read side by side.
        window: Steps that are back-propagated through.
        ahead: Symbols after a window to show to a synthesizer.
    """

    def __init__(
        self,
        part: str = "train",
        *,
        corpus: str | None = None,
        characters: bool = False,
        vocabulary: int = 10_000,
        batch_size: int = 32,
        window: int = 5,
        ahead: int = 0,
    ) -> None:
        if part not in PARTS:
            raise ConfigError(f"`part` is {part!r}.{did_you_mean(str(part), PARTS)}")
        if window < 1 or ahead < 0:
            raise ConfigError(
                f"`window` is {window} and `ahead` {ahead}; a window of at least one step and 0 "
                "or more symbols ahead are needed."
            )
        texts = read(corpus, characters, vocabulary)
        numbers: Tensor = getattr(texts, part)
        if part == "train":
            try:
                check_length(texts, batch_size=batch_size, steps=window, ahead=ahead)
            except DataError as error:
                raise ConfigError(_as_keys(error)) from error
        self.part, self.window, self.ahead = part, window, ahead
        text = streams(numbers, min(batch_size, len(numbers) // 2))
        super().__init__(text, batch_size=batch_size)

    def count(self, *, training: bool = False) -> int | None:
        """Windows of an evaluation; of an epoch that depends on where it begins."""
        return None if training else -(-(len(self.dataset) - 1) // self.window)

    def batches(self, epoch: int, *, start: int = 0, training: bool = False) -> Iterator[Batch]:
        """The windows of an epoch, which seed and epoch decide, from one of them on."""
        if training:
            generator = torch.Generator().manual_seed((self.seed or 0) * 1_000_003 + epoch)
            start = int(torch.randint(self.window, (), generator=generator)) + start * self.window
            for window in windows(self.dataset, self.window, ahead=self.ahead, start=start):
                batch = {"symbols": window.inputs, "targets": window.targets}
                shown = {"ahead": window.ahead} if self.ahead else {}
                yield {**batch, **shown, "done": window.is_last}
            return
        inputs, targets = self.dataset[:-1], self.dataset[1:]
        for first in range(start * self.window, len(inputs), self.window):
            end = first + self.window
            batch = {"symbols": inputs[first:end], "targets": targets[first:end]}
            yield {**batch, "done": end >= len(inputs)}

    def order(self, epoch: int, *, training: bool = False) -> None:
        """None: a window is no sample of its own."""

    def peek(self) -> Batch:
        """The first window, as in training, where it is for that."""
        return next(self.batches(0, training=self.part == "train"))

    def state_dict(self) -> dict[str, object]:
        """What the windows depend on."""
        return {**super().state_dict(), "window": self.window, "ahead": self.ahead}


def model(
    corpus: str | None = None,
    characters: bool = False,
    vocabulary: int = 10_000,
    *,
    cell: str = "lstm",
    units: int = 128,
    embedding: int | None = None,
    layers: int = 1,
    dropout: float = 0.0,
    tied: bool = False,
) -> LanguageModel:
    """The model for a corpus, whose scores start at how frequent each symbol is.

    Args:
        corpus: As in `Streams`.
        characters: As there.
        vocabulary: As there.
        cell: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        units: Units of a recurrent layer.
        embedding: Features of a symbol; ``None``: 32 of a character, ``units`` of a word.
        layers: Recurrent layers.
        dropout: Share of the features that is dropped.
        tied: Whether the scores use the embedding's weights.
    """
    if cell not in CELLS:
        raise ConfigError(f"`cell` is {cell!r}.{did_you_mean(str(cell), CELLS)}")
    texts = read(corpus, characters, vocabulary)
    symbols = len(texts.vocabulary)
    wide = embedding or (32 if characters and not tied else units)
    made = LanguageModel(
        symbols, cell=cell, embedding=wide, units=units, layers=layers, dropout=dropout, tied=tied
    )
    made.start_at(torch.bincount(texts.train, minlength=symbols))
    return made


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of a symbol, in nats. Scores ``[T, B, V]``, targets ``[T, B]``."""
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten())


class Figure(Evaluator):
    """Perplexity of a word, or bits of a character, of a whole text.

    Args:
        loss: Key of the mean cross-entropy in the state.
        characters: Whether symbols are characters.
    """

    def __init__(self, loss: str, *, characters: bool = False) -> None:
        self.reads, self.characters = (loss, "targets"), characters

    def begin(self, trainer: Trainer) -> None:
        """Forget the last evaluation."""
        self._total, self._count = 0.0, 0

    def update(self, trainer: Trainer, state: State) -> None:
        """Add a window, by the number of its symbols."""
        loss, targets = (state[key] for key in self.reads)
        self._total += loss.item() * targets.numel()
        self._count += targets.numel()

    def result(self, trainer: Trainer) -> dict[str, float]:
        """``perplexity``, or ``bits_per_character``."""
        name = "bits_per_character" if self.characters else unit(characters=False)
        return {name: figure(self._total / self._count, characters=self.characters)}


@functools.lru_cache(maxsize=4)
def read(corpus: str | None, characters: bool, vocabulary: int) -> Corpus:
    """A corpus, which is read once.

    Raises:
        ConfigError: A file of it is missing, holds no text or cannot be decoded.
    """
    if isinstance(vocabulary, bool) or not isinstance(vocabulary, int) or vocabulary < 2:
        raise ConfigError(f"`vocabulary` is {vocabulary!r}; a whole number from 2 is needed.")
    try:
        folder = None if corpus is None else Path(corpus)
        return load_corpus(folder, characters=characters, size=vocabulary)
    except DataError as error:
        raise ConfigError(_as_keys(error)) from error


def _as_keys(error: DataError) -> str:
    """What an error of the script says, with the keys of a config in the place of flags."""
    flags = {"--data": "corpus:", "--batch-size": "`batch_size`", "--window": "`window`"}
    flags["--ahead"] = "`ahead`"
    return functools.reduce(lambda text, flag: text.replace(flag, flags[flag]), flags, str(error))
