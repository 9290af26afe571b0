"""What is to end a fit as soon as it may end: a signal, or somebody who cancels it."""

from __future__ import annotations

from .events import CancelFit


class Interruption:
    """Keeps what a fit is to end with until it is at a place to go on from."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def clear(self) -> None:
        """Forget it: a fit begins."""
        self._error = None

    def cancel(self, reason: str) -> None:
        """Ask for an end; see `Trainer.cancel`."""
        if self._error is None:
            self._error = CancelFit(reason)

    def note(self, error: BaseException) -> bool:
        """Keep a signal for the end of the step; the second one does not wait."""
        if self._error is not None and not isinstance(self._error, CancelFit):
            return False
        self._error = error
        return True

    def check(self, *, signals_only: bool = False) -> None:
        """Raise what it keeps.

        Args:
            signals_only: Whether who cancels has to wait.
        """
        if self._error is not None and not (signals_only and isinstance(self._error, CancelFit)):
            raise self._error
