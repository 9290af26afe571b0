"""Optimizers by name, class, factory or instance; and what is done with all their parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

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


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer, over its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def clip_gradients(optimizer: Optimizer, norm: float | None) -> None:
    """Scale all gradients of an optimizer down to a largest norm; ``None`` leaves them."""
    if norm is not None:
        nn.utils.clip_grad_norm_(parameters_of(optimizer), norm)


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
