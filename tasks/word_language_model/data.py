"""The corpus: three texts, as numbers of symbols, and the windows a model sees of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

UNKNOWN = "<unk>"
END = "<eos>"
PARTS = ("train", "valid", "test")
EMBEDDED = "Python's help topics"
_FOLD = 20  # of every 20 help topics the 6th is for validation, the 16th for the test
_VALID, _TEST = 5, 15


class DataError(Exception):
    """The corpus cannot be read, or is too small for what is asked."""


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


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text to train on, one to choose by and one to report on.

    Attributes:
        name: Where it comes from.
        vocabulary: The symbols of the first text.
        train: Their numbers, int64. Shape ``[N]``.
        valid: Those of the second. Shape ``[N_valid]``.
        test: Those of the third. Shape ``[N_test]``.
    """

    name: str
    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Consecutive symbols of every stream.

    Shapes: ``T`` steps, ``B`` streams.

    Attributes:
        inputs: Symbols read. Shape ``[T, B]``.
        targets: The next ones. Shape ``[T, B]``.
        ahead: The first ones after the inputs, for the synthesizer. Shape ``[K, B]``.
        is_last: Whether the streams end with it.
    """

    inputs: Tensor
    targets: Tensor
    ahead: Tensor
    is_last: bool


def load_corpus(folder: Path | None, *, characters: bool, size: int) -> Corpus:
    """Read a corpus.

    Args:
        folder: Holds ``train.txt``, ``valid.txt`` and ``test.txt`` in UTF-8. ``None``: the help
            topics that ship inside Python, in lower case with punctuation apart unless
            ``characters``.
        characters: Whether a symbol is a character, else a word between white space.
        size: Symbols of the vocabulary at most.

    Raises:
        DataError: A file is missing, holds no text or cannot be decoded.
    """
    texts = _embedded(characters=characters) if folder is None else _read(folder)
    vocabulary = Vocabulary.of(texts["train"], size=size, characters=characters)
    numbers = {part: vocabulary.encode(text) for part, text in texts.items()}
    name = EMBEDDED if folder is None else folder.resolve().name
    return Corpus(name=name, vocabulary=vocabulary, **numbers)


def streams(numbers: Tensor, count: int) -> Tensor:
    """Cut a text into equally long streams that are read side by side. Shape ``[N, count]``.

    Example:
        >>> import torch
        >>> streams(torch.arange(7), 2)
        tensor([[0, 3],
                [1, 4],
                [2, 5]])
    """
    length = len(numbers) // count
    return numbers[: length * count].view(count, length).t().contiguous()


def windows(text: Tensor, steps: int, *, ahead: int = 0, start: int = 0) -> Iterator[Window]:
    """The windows of streams, one after the other; a last one that is not full is left out.

    Args:
        text: From `streams`. Shape ``[N, B]``.
        steps: Length ``T`` of a window.
        ahead: Number ``K`` of symbols after a window to show to the synthesizer.
        start: Where the first window begins.

    Yields:
        The next window.
    """
    reach = max(ahead, 1)
    for first in range(start, len(text) - steps - reach + 1, steps):
        end = first + steps
        yield Window(
            inputs=text[first:end],
            targets=text[first + 1 : end + 1],
            ahead=text[end : end + ahead],
            is_last=end + steps + reach > len(text),
        )


def _read(folder: Path) -> dict[str, str]:
    texts = {}
    for part in PARTS:
        path = folder / f"{part}.txt"
        try:
            text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        except FileNotFoundError as error:
            raise DataError(
                f"--data {folder}: there is no {path.name}; a corpus is a folder with train.txt, "
                "valid.txt and test.txt."
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: the bytes from {error.start:,} on are not UTF-8 ({error.reason}); save "
                "the file in that encoding."
            ) from error
        except OSError as error:
            raise DataError(f"--data {folder}: {path.name}: {error.strerror}.") from error
        if not text.strip():
            raise DataError(f"{path} holds no text; give a file with words in it.")
        texts[part] = text
    return texts


def _embedded(*, characters: bool) -> dict[str, str]:
    from pydoc_data.topics import topics

    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for number, name in enumerate(sorted(topics)):
        part = {_VALID: "valid", _TEST: "test"}.get(number % _FOLD, "train")
        parts[part].append(topics[name])
    texts = {part: "\n".join(some) for part, some in parts.items()}
    return texts if characters else {part: _apart(text) for part, text in texts.items()}


def _apart(text: str) -> str:
    """Prose in the form of a word corpus: lower case, punctuation between spaces."""
    lines = (" ".join(re.findall(r"\w+|[^\w\s]", line)) for line in text.lower().splitlines())
    return "\n".join(line for line in lines if line)


def check_length(corpus: Corpus, *, batch_size: int, steps: int, ahead: int) -> None:
    """Refuse a corpus of which a stream does not fill two updates.

    Args:
        corpus: The texts.
        batch_size: Streams the first is cut into.
        steps: Steps of an update.
        ahead: Symbols after a window to show to the synthesizer.

    Raises:
        DataError: Says how long it is and what would fit.
    """
    needed = batch_size * (2 * steps + max(ahead, 1))
    unit = "characters" if corpus.vocabulary.characters else "words"
    if len(corpus.train) < needed:
        raise DataError(
            f"{corpus.name} has {len(corpus.train):,} {unit} to train on, and {batch_size} streams "
            f"with {steps} steps an update need at least {needed:,}; take a smaller --batch-size"
            f"{', --ahead' if ahead > 1 else ''} or --window."
        )
    for part, numbers in (("validate", corpus.valid), ("test", corpus.test)):
        if len(numbers) < 2:
            raise DataError(f"{corpus.name} has {len(numbers)} {unit} to {part} on; 2 are needed.")
