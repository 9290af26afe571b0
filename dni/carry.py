"""What goes from one window to the next: the last state, and which sequences it ends for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ConfigError, ShapeError
from .states import join


class Carry:
    """The end of a window, kept to recognise the state that the next one starts from.

    A sequence goes on if it did not end and its state comes back with the values it was returned
    with, whatever became of the tensors between: detached, saved and loaded, put together anew.

    Args:
        rows: The whole state of each sequence. Shape ``[B, S]``.
        returned: The tensors the user was given.
        context: Features of the context there, ``None`` for none.
        prediction: What the synthesizer said of the state, in units of its scale, ``None`` if it
            is to be asked again. Shape ``[B, S]``.

    Attributes:
        ended: The sequences that end there: all, none, or a mask of shape ``[B]``.
    """

    def __init__(
        self,
        rows: Tensor,
        returned: Sequence[Tensor] = (),
        context: Tensor | None = None,
        prediction: Tensor | None = None,
    ) -> None:
        self.rows = rows
        self.context = context
        self.prediction = prediction
        self.ended: bool | Tensor = False
        self._returned = [(t.data_ptr(), t._version, t.shape) for t in returned]
        self._alive = list(returned)  # so that no other tensor gets their memory

    def end(self, done: Tensor | None = None) -> None:
        """End all sequences, or those of a mask ``[B]``."""
        if done is None or self.ended is True:
            self.ended = True
        else:
            self.ended = done if self.ended is False else self.ended | done

    def goes_on(self, state: Sequence[Tensor], batch_dim: int) -> bool | Tensor:
        """Which sequences a state continues.

        Args:
            state: The tensors of the state that was handed in.
            batch_dim: Their axis of sequences.

        Returns:
            All, none, or a mask of shape ``[B]``. Waits for no other device than the CPU.
        """
        if self.ended is True:
            return False
        going: Tensor | None = None
        if [(t.data_ptr(), t._version, t.shape) for t in state] != self._returned:
            rows = join(state, batch_dim).detach()
            if rows.shape != self.rows.shape or rows.dtype != self.rows.dtype:
                return False
            going = (rows == self.rows.to(rows.device)).all(1)
        if isinstance(self.ended, Tensor):
            going = ~self.ended if going is None else going & ~self.ended
        if going is None or (going.device.type == "cpu" and bool(going.all())):
            return True
        return bool(going.any()) and going if going.device.type == "cpu" else going

    def saved(self) -> dict[str, Any]:
        """Tensors and plain values that `loaded` makes the same of."""
        prediction = None if self.prediction is None else self.prediction.detach()
        return {
            "rows": self.rows,
            "ended": self.ended,
            "context": self.context,
            "prediction": prediction,
        }

    @classmethod
    def loaded(cls, saved: dict[str, Any], device: torch.device) -> Carry:
        """What `saved` gave, on a device."""
        values: dict[str, Any] = {
            key: value.to(device) if isinstance(value, Tensor) else value
            for key, value in saved.items()
        }
        ended = values.pop("ended")
        carry = cls(**values)
        carry.ended = ended
        return carry

    def __getstate__(self) -> dict[str, Any]:
        # No graph is copied, and a copy's tensors lie elsewhere: it compares values.
        prediction = self.saved()["prediction"]
        return {**self.__dict__, "prediction": prediction, "_returned": [], "_alive": []}


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
    *,
    batch_dim: int,
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


def check_done(done: Any, batch: int) -> None:
    """Refuse a mask that is not one truth value per sequence.

    Raises:
        ConfigError: No boolean tensor.
        ShapeError: Another shape than ``[batch]``.
    """
    if not isinstance(done, Tensor) or done.dtype != torch.bool:
        given = f"of {done.dtype}" if isinstance(done, Tensor) else f"a {type(done).__name__}"
        raise ConfigError(
            f"`done` is {given}; a boolean tensor of shape [{batch}] is needed, True for the "
            "sequences whose last window this is."
        )
    if done.shape != (batch,):
        raise ShapeError(
            f"`done` has shape {tuple(done.shape)}; one truth value per sequence is needed, "
            f"shape [{batch}]."
        )
