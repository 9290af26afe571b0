"""Who listens to a module's calls or waits for a gradient: a closed form must not pass them by."""

from __future__ import annotations

from torch import Tensor, nn


def in_ddp() -> bool:
    """Whether a forward pass of `DistributedDataParallel` is under way.

    It waits for the gradient of every parameter, and only hears of those that autograd brings.
    """
    return nn.parallel.DistributedDataParallel._get_active_ddp_module() is not None


def is_heard(module: nn.Module) -> bool:
    """Whether somebody listens to the calls of a module.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> is_heard(layer), is_heard(layer.register_forward_hook(print) and layer)
        (False, True)
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_awaited(parameter: Tensor) -> bool:
    """Whether something waits for the gradient of a parameter, or computes the parameter.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> is_awaited(layer.weight), is_awaited(layer.weight * 1)
        (False, True)
    """
    hooks = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
    return bool(hooks) or type(parameter) is not nn.Parameter


def give(parameter: Tensor, gradient: Tensor) -> None:
    """Add to the gradient of a parameter that nobody waits for, as autograd does.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> for _ in range(2):
        ...     give(layer.weight, layer.weight.new_ones(1, 1))
        >>> layer.weight.grad
        tensor([[2.]])
    """
    if parameter.requires_grad:
        known = parameter.grad
        parameter.grad = gradient if known is None else known + gradient
