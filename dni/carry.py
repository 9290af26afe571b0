"""What goes from one window to the next: the last state, and which sequences it ends for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .linear_map import Said
from .states import Form


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
        said: The prediction of a linear synthesizer, with what it saw.
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
        self.said: Said | None = None
        self.ended: bool | Tensor = False
        self._returned = [(t.data_ptr(), t._version, t.shape) for t in returned]
        self._alive = list(returned)  # so that no other tensor gets their memory

    def end(self, done: Tensor | None = None) -> None:
        """End all sequences, or those of a mask ``[B]``."""
        if done is None or self.ended is True:
            self.ended = True
        else:
            self.ended = done if self.ended is False else self.ended | done

    def is_returned(self, state: Sequence[Tensor]) -> bool:
        """Whether a state is the very one that the user was given, and nothing wrote to it."""
        return [(t.data_ptr(), t._version, t.shape) for t in state] == self._returned

    def goes_on(self, state: Sequence[Tensor], form: Form) -> bool | Tensor:
        """Which sequences a state continues.

        Args:
            state: The tensors of the state that was handed in.
            form: How they lie in rows.

        Returns:
            All, none, or a mask of shape ``[B]``. Waits for no other device than the CPU.
        """
        if self.ended is True:
            return False
        going: Tensor | None = None
        if not self.is_returned(state):
            rows, own = form.join(state).detach(), self.rows
            if (rows.shape, rows.dtype, rows.device) != (own.shape, own.dtype, own.device):
                return False
            going = (rows == own).all(1)
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
        kept = {"prediction": self.saved()["prediction"], "said": None}
        return {**self.__dict__, **kept, "_returned": [], "_alive": []}
