"""The recurrent language model: symbols in, scores of the next symbol out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_SPREAD = 0.1


class LanguageModel(nn.Module):
    """An embedding, recurrent layers, and a linear map to the scores of the next symbol.

    Shapes: ``T`` steps, ``B`` streams, ``E`` features of a symbol, ``H`` units, ``V`` symbols.

    Args:
        symbols: Number of symbols.
        cell: One of `CELLS`.
        embedding: Features of a symbol.
        units: Units of a recurrent layer.
        layers: Recurrent layers.
        dropout: Share of the features that is dropped before, between and after them.
        tied: Whether the scores are made with the embedding's own weights (Press and Wolf 2017,
            arXiv:1608.05859); needs ``embedding == units``.

    Raises:
        ValueError: ``tied`` with other sizes.

    Example:
        >>> model = LanguageModel(50, units=8, embedding=8, tied=True)
        >>> scores, (h, c) = model(torch.zeros(5, 3, dtype=torch.int64))
        >>> scores.shape, h.shape
        (torch.Size([5, 3, 50]), torch.Size([1, 3, 8]))
    """

    def __init__(
        self,
        symbols: int,
        *,
        cell: str = "lstm",
        embedding: int = 128,
        units: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        if tied and embedding != units:
            raise ValueError(f"tied weights need {units} features of a symbol, not {embedding}")
        self.embedding = nn.Embedding(symbols, embedding)
        between = dropout if layers > 1 else 0.0
        self.rnn = CELLS[cell](embedding, units, layers, dropout=between)
        self.scores = nn.Linear(units, symbols)
        self.dropout = nn.Dropout(dropout)
        nn.init.uniform_(self.embedding.weight, -_SPREAD, _SPREAD)
        nn.init.zeros_(self.scores.bias)
        if tied:
            self.scores.weight = self.embedding.weight

    @torch.no_grad()
    def start_at(self, counts: Tensor) -> None:
        """Let the scores start at how frequent each symbol is.

        Else the first few hundred updates learn this by way of the state, which drives the cells of
        an LSTM up: gradients through them then explode.

        Args:
            counts: How often each symbol is seen in training. Shape ``[V]``.
        """
        shares = (counts + 0.5) / (counts + 0.5).sum()
        self.scores.bias.copy_(shares.log())

    def embed(self, symbols: Tensor) -> Tensor:
        """Features of symbols. Shapes ``[T, B]`` to ``[T, B, E]``."""
        features: Tensor = self.dropout(self.embedding(symbols))
        return features

    def sight(self, symbols: Tensor) -> Tensor:
        """What a synthesizer is shown of symbols: their embeddings, of unit size, no graph.

        What it learns of them changes with the network. Embeddings change along, so that it has
        less to follow than if it were shown which symbols they are.

        Args:
            symbols: Shape ``[K, B]``.

        Returns:
            Shape ``[B, K * E]``.
        """
        weight = self.embedding.weight.detach()
        features = functional.embedding(symbols, weight) / weight.square().mean().sqrt()
        return features.transpose(0, 1).flatten(1)

    def score(self, output: Tensor) -> Tensor:
        """Scores of every next symbol. Shapes ``[T, B, H]`` to ``[T, B, V]``."""
        scores: Tensor = self.scores(self.dropout(output))
        return scores

    def forward(self, symbols: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Scores, and the state after the last step.

        Args:
            symbols: Shape ``[T, B]``.
            state: What the call before returned; ``None`` for zeros.
        """
        output, state = self.rnn(self.embed(symbols), state)
        return self.score(output), state
