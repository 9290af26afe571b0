"""What may be given to a `TemporalDNI`, and what its network may return: every check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from .errors import ConfigError, ShapeError


def check_weights(**weights: object) -> None:
    """Refuse factors that are no numbers of at least 0.

    Raises:
        ConfigError: Names the argument.
    """
    for name, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ConfigError(f"`{name}` is {value!r}; a number of at least 0 is needed.")


def check_input(network: nn.Module, input: Any) -> int | None:
    """Refuse an input that is no window; the number of sequences in it, if it tells.

    Raises:
        ConfigError: A packed sequence.
        ShapeError: No batch axis, no time step or no sequence.
    """
    name = type(network).__name__
    if isinstance(input, nn.utils.rnn.PackedSequence):
        raise ConfigError(
            "The input is a `PackedSequence`, whose sequences end within the window; pass padded "
            "windows, and `done=` with the last window of each sequence."
        )
    is_cell = isinstance(network, nn.RNNCellBase)
    if not isinstance(input, Tensor) or not (is_cell or isinstance(network, nn.RNNBase)):
        return None
    axes = "[batch, features]" if is_cell else "[time, batch, features]"
    if not is_cell and network.batch_first:
        axes = "[batch, time, features]"
    if input.dim() != axes.count(",") + 1:
        raise ShapeError(
            f"The input has shape {tuple(input.shape)}; `{name}` in a `TemporalDNI` needs {axes}. "
            "A single sequence is a batch of one."
        )
    if 0 in input.shape[:-1]:
        raise ShapeError(
            f"The input has shape {tuple(input.shape)}, {axes}: a window of at least one step and "
            "one sequence is needed. Skip empty windows, and choose a window above 0."
        )
    return input.shape[0] if is_cell or network.batch_first else input.shape[1]


def check_state(
    state: Sequence[Tensor],
    batch_dim: int,
    *,
    batch: int | None,
    like: Tensor,
    expected: Sequence[int] | None,
) -> None:
    """Refuse a state that cannot be one of this network.

    Args:
        state: The tensors of the state.
        batch_dim: Their axis of sequences.
        batch: Number of sequences in the input, if known.
        like: A parameter of the network.
        expected: Entries of a sequence in each tensor, once they are known.

    Raises:
        ShapeError: Another number of sequences, features or tensors, another device or type.
    """
    start = "Pass the state that the last window returned, or `None` to begin an episode."
    if not state:
        raise ShapeError(f"The state has no floating-point tensor. {start}")
    for tensor in state:
        if tensor.dim() <= batch_dim:
            raise ShapeError(
                f"A tensor of the state has shape {tuple(tensor.shape)}, without the axis "
                f"{batch_dim} of sequences. {start} For another axis pass `batch_dim`."
            )
        if batch is None:
            batch = tensor.shape[batch_dim]
        if tensor.shape[batch_dim] != batch:
            raise ShapeError(
                f"The state has {tensor.shape[batch_dim]} sequences (shape "
                f"{tuple(tensor.shape)}), {batch} are needed, as in the input and in its other "
                f"tensors. {start}"
            )
        if tensor.device != like.device:
            raise ShapeError(
                f"The state is on {tensor.device}, the network on {like.device}; move it there "
                f"with `.to({str(like.device)!r})`. {start}"
            )
        if tensor.dtype != like.dtype and not torch.is_autocast_enabled(like.device.type):
            raise ShapeError(
                f"The state is {tensor.dtype}, the network {like.dtype}; one type is needed. "
                f"{start}"
            )
    sizes = [t.numel() // max(t.shape[batch_dim], 1) for t in state]
    if expected is not None and sizes != list(expected):
        raise ShapeError(
            f"The tensors of the state have {sizes} entries per sequence, {list(expected)} are "
            f"needed. {start}"
        )


def check_end(network: nn.Module, input: Any, state: Sequence[Tensor], batch_dim: int) -> None:
    """Refuse a state that a network returned and that is none of a batch of sequences.

    Raises:
        ShapeError: No tensor, or no axis of sequences where it is looked for.
    """
    name = type(network).__name__
    if not state:
        raise ShapeError(
            f"`{name}` returned a state without a floating-point tensor; there is nothing to hand "
            "to the next window."
        )
    for tensor in state:
        batch = tensor.shape[batch_dim] if tensor.dim() > batch_dim else 0
        fits = not isinstance(input, Tensor) or input.dim() < 2 or batch in input.shape[:2]
        if not batch or not fits or batch != state[0].shape[batch_dim]:
            raise ShapeError(
                f"`{name}` returned a state with a tensor of shape {tuple(tensor.shape)}, whose "
                f"axis {batch_dim} is not that of the sequences of the input. Pass `batch_dim`, "
                "the axis where every tensor of the state has them."
            )


def check_done(done: Any, batch: int) -> Tensor | bool:
    """Refuse what is neither one truth value per sequence nor one for all of them.

    Returns:
        The mask, or the one value; without either, False.

    Raises:
        ConfigError: No boolean tensor.
        ShapeError: Another shape than ``[batch]``.
    """
    if done is None or isinstance(done, bool | numpy.bool_):
        return bool(done)
    if not isinstance(done, Tensor) or done.dtype != torch.bool:
        given = f"of {done.dtype}" if isinstance(done, Tensor) else f"a {type(done).__name__}"
        raise ConfigError(
            f"`done` is {given}; a boolean tensor of shape [{batch}] is needed, True for the "
            "sequences whose last window this is, or True alone for all of them."
        )
    if done.shape != (batch,):
        raise ShapeError(
            f"`done` has shape {tuple(done.shape)}; one truth value per sequence is needed, "
            f"shape [{batch}]."
        )
    return done


def axis_of_sequences(network: nn.Module, output: Tensor, batch: int, batch_dim: int) -> int:
    """The axis of the sequences in an output.

    Args:
        network: The network that returned it.
        output: The output, features last.
        batch: Number of sequences.
        batch_dim: Their axis in the state, which is looked at first.

    Raises:
        ShapeError: No axis has this size.

    Example:
        >>> axis_of_sequences(nn.LSTM(2, 3), torch.zeros(7, 4, 3), 4, 1)
        1
    """
    if isinstance(network, nn.RNNBase):
        return 0 if network.batch_first else 1
    for axis in (batch_dim, 0, 1):
        if axis < output.dim() - 1 and output.shape[axis] == batch:
            return axis
    raise ShapeError(
        f"The auxiliary task needs an output [time, {batch}, features], [{batch}, time, "
        f"features] or [{batch}, features]; the network returned {tuple(output.shape)}."
    )
