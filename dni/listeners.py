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


def heralds(network: nn.Module) -> list[nn.Parameter]:
    """The parameters to listen to in order to hear of every backward pass through a network.

    One of each module of torch's is enough, for its calls use them all, and every hook costs a
    call from the engine of autograd.

    Example:
        >>> [tuple(p.shape) for p in heralds(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))]
        [(3, 2), (3,)]
    """
    found: dict[int, nn.Parameter] = {}
    for module in network.modules():
        own = [p for p in module._parameters.values() if p is not None and p.requires_grad]
        is_whole = type(module).__module__.startswith("torch.nn.modules.")
        is_store = isinstance(module, nn.ParameterList | nn.ParameterDict)
        found |= {id(p): p for p in (own[:1] if is_whole and not is_store else own)}
    return list(found.values())


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
