"""The synthesizer for sequences: stacked LSTMs, GRUs or plain RNNs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import ConfigError, did_you_mean
from .base import DNINetwork, at_least, start_at_zero

Cell = Literal["lstm", "gru", "rnn"]
CELLS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class RNNDNI(DNINetwork):
    """``[LSTM | GRU | RNN] * num_layers -> Linear`` along the time axis; the last starts at zero.

    Args:
        input_size: Number of input features of a time step.
        hidden_size: Width of the recurrent layers.
        output_size: Number of features of the gradient of a time step.
        num_layers: Number of stacked recurrent layers, 1 or more.
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        batch_first: Layout of the sequence; the wrapper sets it to that of the site.
        bidirectional: Whether to read the sequence in both directions. The true gradient of a
            step depends on later steps, so this predicts better; it costs twice as much.
        bias: Whether the layers have a bias.

    Shapes:
        ``input`` ``[B, T, input_size]`` if ``batch_first``, else ``[T, B, input_size]`` ->
        gradient of the same axes with ``output_size`` features. An input without a time axis,
        ``[B, input_size]``, is a sequence of one step.

    Raises:
        ConfigError: An unknown ``kind``.

    Example:
        >>> import torch
        >>> gradient, hidden = RNNDNI(4, 8, 6, kind="gru")(torch.randn(2, 5, 4), None)
        >>> gradient.shape, hidden.shape
        (torch.Size([2, 5, 6]), torch.Size([1, 2, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        kind: Cell = "lstm",
        batch_first: bool = True,
        bidirectional: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size)
        if kind not in CELLS:
            raise ConfigError(f"`kind` is {kind!r}, no recurrent layer.{did_you_mean(kind, CELLS)}")
        at_least(1, num_layers=num_layers)
        self.time_axis = 1 if batch_first else 0
        layer: Callable[..., nn.RNNBase] = CELLS[kind]
        self.layers = layer(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            bidirectional=bidirectional,
        )
        self.final = nn.Linear(hidden_size * (2 if bidirectional else 1), output_size, bias=bias)
        start_at_zero(self.final)

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        """Predict the gradient of every time step; ``hidden`` is the recurrent layers' state."""
        sequence = input if input.dim() == 3 else input.unsqueeze(self.time_axis)
        states, hidden = self.layers(sequence, hidden)
        gradient: Tensor = self.final(states)
        return (gradient if input.dim() == 3 else gradient.squeeze(self.time_axis)), hidden
