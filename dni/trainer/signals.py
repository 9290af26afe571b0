"""Ctrl-C and SIGTERM, noted instead of raised, so that what is being done can be finished."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def noted_signals(note: Callable[[BaseException], bool]) -> Iterator[None]:
    """Hand on what Ctrl-C and SIGTERM would raise, during a ``with`` block of the main thread.

    Args:
        note: Called with ``KeyboardInterrupt()`` or ``SystemExit(143)``; tells whether it will
            see to it. If not, it is raised where the program is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: object) -> None:
        error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if not note(error):
            raise error

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
