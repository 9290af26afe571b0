"""Optimizers by name, class, factory or instance; and the moment when backward ends."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from .errors import ConfigError, did_you_mean

OptimizerSpec: TypeAlias = str | type[Optimizer] | Callable[..., Optimizer] | Optimizer | None
"""A name (``"adam"``), a class, a factory ``params -> Optimizer``, or an instance."""

_NEED_MORE = {"optimizer", "lbfgs", "sparseadam"}
"""Not by name: the base class, one that needs a closure, one that needs sparse gradients."""

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): found
    for name, found in vars(torch.optim).items()
    if inspect.isclass(found) and issubclass(found, Optimizer) and name.lower() not in _NEED_MORE
}


def make_optimizer(
    spec: OptimizerSpec,
    params: Iterable[nn.Parameter] | list[dict[str, Any]],
    *,
    lr: float,
    argument: str,
    fused: bool = False,
) -> Optimizer:
    """Make a torch optimizer.

    Args:
        spec: Name of a class of ``torch.optim`` in any case, such a class, a factory called with
            the parameters alone, or an instance, which is returned as it is.
        params: Parameters, or parameter groups.
        lr: Learning rate, for a name or a class.
        argument: Name of the constructor's argument, for error messages.
        fused: Ask for the fused implementation where a named class has one. It is faster, and
            differs from the default one in the last bits.

    Returns:
        The optimizer.

    Raises:
        ConfigError: An unknown name, or something that makes no optimizer.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> type(make_optimizer("SGD", layer.parameters(), lr=0.1, argument="optim")).__name__
        'SGD'
    """
    if isinstance(spec, Optimizer):
        return spec
    options: dict[str, Any] = {}
    if isinstance(spec, str):
        if spec.lower() not in OPTIMIZERS:
            hint = did_you_mean(spec.lower(), OPTIMIZERS)
            raise ConfigError(f"`{argument}` is {spec!r}, no optimizer of `torch.optim`.{hint}")
        spec = OPTIMIZERS[spec.lower()]
        if fused and "fused" in inspect.signature(spec).parameters:
            options["fused"] = True
    if inspect.isclass(spec) and issubclass(spec, Optimizer):
        make: Callable[..., Optimizer] = spec
        options["lr"] = lr
    elif callable(spec) and not inspect.isclass(spec):
        make = spec
    else:
        raise ConfigError(
            f"`{argument}` is {spec!r}; the name of an optimizer, its class, an instance or a "
            "factory `params -> Optimizer` is needed."
        )
    try:
        made = make(params, **options)
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"`{argument}` could not be made for these parameters: {err}. Check the arguments it "
            "is given; a learning rate is a number such as 1e-3."
        ) from err
    if not isinstance(made, Optimizer):
        raise ConfigError(
            f"`{argument}` returned a {type(made).__name__}; a `torch.optim.Optimizer` is needed."
        )
    return made


def add_parameters(optimizer: Optimizer, site: str, params: list[nn.Parameter]) -> None:
    """Add the parameters of one synthesizer to the single group of an optimizer.

    One group for all keeps the time of a step and a learning-rate scheduler made earlier as they
    are; the group remembers under ``"sites"`` whose parameters follow one another.

    Args:
        optimizer: Optimizer of the synthesizers.
        site: Name of the interface.
        params: The synthesizer's parameters; those of the first are there already.

    Raises:
        ConfigError: The optimizer has several groups.
    """
    if len(optimizer.param_groups) != 1:
        raise ConfigError(
            f"`grad_optim` made {len(optimizer.param_groups)} parameter groups; one group is "
            "needed, which the synthesizers made later join."
        )
    group = optimizer.param_groups[0]
    known = group.setdefault("sites", [])
    if known:
        group["params"].extend(params)
    known.append([site, len(params)])


def remove_parameters(optimizer: Optimizer, site: str) -> None:
    """Take the parameters of one synthesizer, and what was remembered of them, out again.

    Args:
        optimizer: Optimizer of the synthesizers.
        site: Name of the interface; an unknown one changes nothing.
    """
    (group,) = optimizer.param_groups
    start = 0
    for entry in list(group["sites"]):
        name, count = entry
        if name == site:
            for parameter in group["params"][start : start + count]:
                optimizer.state.pop(parameter, None)
            del group["params"][start : start + count]
            group["sites"].remove(entry)
        else:
            start += count


def ordered_like(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Put the parameters of a saved optimizer state into the order of a live optimizer.

    Synthesizers made on the first forward pass come in the order of the calls, those made from a
    checkpoint in the order of the file; they are matched by the ``"sites"`` of the group.

    Args:
        saved: ``optimizer.state_dict()`` of another session.
        optimizer: The optimizer to load it into.

    Returns:
        A state with the same content that ``optimizer.load_state_dict`` matches rightly.
    """
    (group,), (live,) = saved["param_groups"], optimizer.param_groups
    by_site: dict[str, list[int]] = {}
    start = 0
    for site, count in group["sites"]:
        by_site[site] = group["params"][start : start + count]
        start += count
    if set(by_site) != {site for site, _ in live["sites"]}:
        return saved
    params = [index for site, _ in live["sites"] for index in by_site[site]]
    return {**saved, "param_groups": [{**group, "params": params, "sites": live["sites"]}]}


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer, over its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def only(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let an optimizer have just some of its parameters during a ``with`` block."""
    chosen = {id(p) for p in parameters}  # to hash a tensor takes ten times as long
    groups = [(group, group["params"]) for group in optimizer.param_groups]
    for group, params in groups:
        group["params"] = [p for p in params if id(p) in chosen]
    try:
        yield
    finally:
        for group, params in groups:
            group["params"] = params


class BackwardEnd:
    """Calls a method once when a backward pass that reached one of its tensors has ended.

    The pass of a re-entrant checkpoint is part of the one around it: `join`, called from a
    forward pass that is recomputed during backward, makes the outer pass the one to wait for.

    Args:
        call: Method to call without arguments, after the gradients of all leaves are there and
            after the callbacks of DDP that reduce them.
        is_expected: Method that tells whether some tensors' gradients count at present.
            The object of neither is kept alive.
    """

    def __init__(self, call: Callable[[], None], is_expected: Callable[[], bool]) -> None:
        self._call = weakref.WeakMethod(call)
        self._is_expected = weakref.WeakMethod(is_expected)
        self._task = -1
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
            self._is_joined = True

    def forget(self) -> bool:
        """Stop waiting; returns whether a pass had begun that raised and so never ended."""
        was_waiting = self._task != -1
        self._task = -1
        self._is_joined = False
        return was_waiting

    def _on_some_gradient(self, leaf: Tensor) -> None:
        if self._task == -1 and not self._is_looking_away:
            is_expected = self._is_expected()
            if is_expected is not None and is_expected():
                self._on_gradient(leaf)

    def _on_gradient(self, _: Tensor) -> None:
        task = current_backward()
        if task != self._task and not (self._is_joined or self._is_looking_away):
            self._await(task)

    def _await(self, task: int) -> None:
        self._task = task
        engine = torch.autograd.Variable._execution_engine

        def after_others() -> None:
            # DDP queues its reduction when its last bucket is full, which may be after us.
            engine.queue_callback(finish)

        def finish() -> None:
            call = self._call()
            if self._task == task and call is not None:
                self.forget()
                call()

        engine.queue_callback(after_others)


def current_backward() -> int:
    """Number of the backward pass that is running on this thread, -1 for none."""
    return torch._C._current_graph_task_id()
