"""Write text with a trained language model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from checkpoint import best_model, read_checkpoint
from data import END, UNKNOWN, Vocabulary
from dni.errors import CheckpointError
from dni.scripts import above_zero, not_negative, positive
from model import LanguageModel

_BYTES = 96  # of a symbol while it is kept: its number, its place in a list and its text
_MIB = 2**20


class GenerationError(Exception):
    """The text cannot be written as asked."""


@torch.no_grad()
def symbols(
    model: LanguageModel,
    start: Tensor,
    *,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    banned: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    r"""Draw one symbol after the other, each with the probability the model gives it.

    The probability of symbol i is proportional to :math:`\exp(z_i / t)`, with its score
    :math:`z_i` and the temperature t, among the ``top_k`` of the highest score.

    Args:
        model: In ``eval()``.
        start: Symbols that come before, at least one. Shape ``[N]``.
        length: Number of symbols to draw.
        temperature: Below 1 likely symbols become likelier; near 0 only the likeliest is drawn.
        top_k: How many symbols are drawn from; ``None`` for all.
        banned: A symbol that is never drawn.
        generator: Source of the random numbers.

    Yields:
        The number of the next symbol.
    """
    inputs, state = start[:, None], None
    for _ in range(length):
        scores, state = model(inputs, state)
        last = scores[-1, 0].double()
        if banned is not None:
            last[banned] = -torch.inf
        if top_k is not None and top_k < len(last):
            last = last.masked_fill(last < last.topk(top_k).values[-1], -torch.inf)
        # The highest at zero first: a small temperature must not make infinities of them.
        shares = ((last - last.max()) / temperature).softmax(0)
        drawn = torch.multinomial(shares, 1, generator=generator)
        yield int(drawn)
        inputs = drawn[:, None]


def write(options: argparse.Namespace) -> str:
    """The text that the flags ask for, its beginning included.

    Raises:
        CheckpointError: The file is no checkpoint.
        GenerationError: Too long for ``--memory``, or a beginning of unknown symbols.
    """
    allowed = int(options.memory * _MIB) // _BYTES
    if options.length > allowed:
        raise GenerationError(
            f"--length {options.length} needs about {options.length * _BYTES / _MIB:.1f} MiB and "
            f"--memory allows {options.memory:g}; ask for at most {allowed} or raise --memory."
        )
    model, vocabulary = best_model(read_checkpoint(options.checkpoint))
    start = _start(options.prompt, vocabulary)
    numbers = symbols(
        model,
        start,
        length=options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        banned=vocabulary.numbers[UNKNOWN],
        generator=torch.Generator().manual_seed(options.seed),
    )
    written = list(numbers)
    return vocabulary.decode([*start.tolist(), *written] if options.prompt else written)


def _start(prompt: str, vocabulary: Vocabulary) -> Tensor:
    """Symbols of the beginning; without one, the end of a line."""
    if not prompt:
        end = "\n" if vocabulary.characters else END
        return torch.tensor([vocabulary.numbers.get(end, 0)])
    numbers = vocabulary.encode(prompt)
    if not len(numbers) or bool((numbers == vocabulary.numbers[UNKNOWN]).all()):
        raise GenerationError(
            f"--prompt {prompt!r} has no symbol the model knows; it knows {len(vocabulary):,} "
            f"{'characters' if vocabulary.characters else 'words'}."
        )
    return numbers


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="generate.py", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="what main.py --save wrote")
    add("--length", type=positive, default=200, metavar="N", help="symbols (default: 200)")
    add("--prompt", default="", metavar="TEXT", help="beginning to go on from")
    add(
        "--temperature",
        type=above_zero,
        default=1.0,
        metavar="T",
        help="below 1 safer, above 1 wilder (default: 1)",
    )
    add("--top-k", type=positive, metavar="K", help="draw from the K likeliest (default: all)")
    add("--seed", type=not_negative, default=0, metavar="N", help="default: 0")
    add(
        "--memory",
        type=above_zero,
        default=64.0,
        metavar="MIB",
        help="largest memory for the text, MiB (default: 64)",
    )
    return parser


def main(words: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    parser = make_parser()
    options = parser.parse_args(words)
    try:
        print(write(options))
    except (CheckpointError, GenerationError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
