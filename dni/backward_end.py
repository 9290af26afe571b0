"""The moment when a backward pass has ended, and which one is running."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


class BackwardEnd:
    """Calls a method once when a backward pass that reached one of its tensors has ended.

    The pass of a re-entrant checkpoint is part of the one around it: `join`, called from a
    forward pass that is recomputed during backward, makes the outer pass the one to wait for.

    Args:
        call: Method to call after the gradients of all leaves are there and after the callbacks
            of DDP that reduce them; it is told whether one of these tensors got a gradient.
        is_expected: Method that tells whether some tensors' gradients count at present.
            The object of neither is kept alive.
    """

    def __init__(self, call: Callable[[bool], None], is_expected: Callable[[], bool]) -> None:
        self._call = weakref.WeakMethod(call)
        self._is_expected = weakref.WeakMethod(is_expected)
        self._task = -1
        self._is_heard = False
        self._is_joined = False
        self._is_looking_away = False

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """Take no notice of the backward passes made during a ``with`` block."""
        previous, self._is_looking_away = self._is_looking_away, True
        try:
            yield
        finally:
            self._is_looking_away = previous

    def listen(self, leaf: Tensor) -> RemovableHandle:
        """Wait for gradients of a leaf; the handle ends it."""
        handle: RemovableHandle = leaf.register_post_accumulate_grad_hook(self._on_gradient)
        return handle

    def listen_if_expected(self, leaf: Tensor) -> RemovableHandle:
        """Wait for gradients of a leaf while `is_expected` says so; the handle ends it."""
        handle: RemovableHandle = leaf.register_post_accumulate_grad_hook(self._on_some_gradient)
        return handle

    def join(self) -> None:
        """Wait for the backward pass that is running, if one is."""
        task = current_backward()
        if task != -1:
            if task != self._task:
                self._await(task)
            self._is_joined = self._is_heard = True

    def expect(self) -> None:
        """Wait for the backward pass that is running, which may bring gradients to others only."""
        task = current_backward()
        if task != self._task and not (self._is_joined or self._is_looking_away):
            self._await(task)

    def forget(self) -> bool:
        """Stop waiting; returns whether a pass had begun that raised and so never ended."""
        was_waiting = self._task != -1
        self._task = -1
        self._is_heard = self._is_joined = False
        return was_waiting

    def _on_some_gradient(self, leaf: Tensor) -> None:
        if self._is_heard or self._is_looking_away:
            return
        if self._task != -1:
            self._is_heard = True
            return
        is_expected = self._is_expected()
        if is_expected is not None and is_expected():
            self._on_gradient(leaf)

    def _on_gradient(self, _: Tensor) -> None:
        self.expect()
        self._is_heard = self._is_heard or not self._is_looking_away

    def _await(self, task: int) -> None:
        self._task = task
        self._is_heard = False
        engine = torch.autograd.Variable._execution_engine

        def after_others() -> None:
            # DDP queues its reduction when its last bucket is full, which may be after us.
            engine.queue_callback(finish)

        def finish() -> None:
            call = self._call()
            if self._task == task and call is not None:
                is_heard = self._is_heard
                self.forget()
                call(is_heard)

        engine.queue_callback(after_others)


def current_backward() -> int:
    """Number of the backward pass that is running on this thread, -1 for none."""
    return torch._C._current_graph_task_id()
