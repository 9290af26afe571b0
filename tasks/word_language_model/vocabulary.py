"""Symbols, which are words or characters, and their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

UNKNOWN = "<unk>"
END = "<eos>"


class Vocabulary:
    """The symbols a model knows; every other one counts as unknown.

    Args:
        symbols: The symbols in order; `UNKNOWN` is among them.
        characters: Whether a symbol is a character, else a word between white space.

    Example:
        >>> vocabulary = Vocabulary.of("to be or not to be", size=3)
        >>> vocabulary.symbols
        ['<unk>', 'be', 'to']
        >>> vocabulary.decode(vocabulary.encode("to see or not").tolist())
        'to <unk> <unk> <unk>'
    """

    def __init__(self, symbols: Sequence[str], *, characters: bool = False) -> None:
        self.symbols = list(symbols)
        self.characters = characters
        self.numbers = {symbol: number for number, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, text: str, *, size: int, characters: bool = False) -> Vocabulary:
        """The most frequent symbols of a text, the first in the alphabet where it is a draw.

        Args:
            text: What to train on.
            size: Number of symbols at most, `UNKNOWN` included.
            characters: Whether a symbol is a character.
        """
        counts = Counter(split(text, characters=characters))
        counts.pop(UNKNOWN, None)
        frequent = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[: size - 1]
        return cls([UNKNOWN, *sorted(frequent)], characters=characters)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        """The numbers of a text's symbols. Shape ``[N]``, int64."""
        unknown = self.numbers[UNKNOWN]
        symbols = split(text, characters=self.characters)
        return torch.tensor([self.numbers.get(s, unknown) for s in symbols], dtype=torch.int64)

    def decode(self, numbers: Iterable[int]) -> str:
        """A text of the symbols: a new line for each `END`, a mark for an unknown character."""
        symbols = [self.symbols[number] for number in numbers]
        if self.characters:
            return "".join("\N{REPLACEMENT CHARACTER}" if s == UNKNOWN else s for s in symbols)
        return re.sub(f" ?{END} ?", "\n", " ".join(symbols))


def split(text: str, *, characters: bool) -> list[str]:
    r"""The symbols of a text.

    Example:
        >>> split("one two\nthree", characters=False)
        ['one', 'two', '<eos>', 'three']
    """
    return list(text) if characters else text.replace("\n", f" {END} ").split()
