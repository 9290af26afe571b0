"""Extra input to synthesizers: labels and other conditions, beside the activation."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ContextError, named


def encode(context: Tensor, size: int | None) -> Tensor:
    """Turn what the user gave as context into features.

    Shapes: ``*`` is ``B`` samples, or ``B`` and further axes such as time.

    Args:
        context: Class indices of shape ``[*]`` (integer or boolean), which become one-hot, or
            features of shape ``[*, size]`` (floating).
        size: The wrapper's ``context_size``.

    Returns:
        Features of shape ``[*, size]``.

    Raises:
        ContextError: No ``context_size``, labels out of range, or another number of features.

    Example:
        >>> encode(torch.tensor([2, 0]), 3)
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    if not isinstance(context, Tensor):
        raise ContextError(f"The context is a {type(context).__name__}; a tensor is needed.")
    if size is None:
        raise ContextError(
            f"A context of shape {tuple(context.shape)} was given to a wrapper without one. "
            "Pass `context_size=` (the number of classes or features) to `DNI`."
        )
    if context.is_floating_point():
        if context.dim() < 2 or context.shape[-1] != size:
            raise ContextError(
                f"The context has shape {tuple(context.shape)}; features of shape "
                f"[batch, {size}] are needed, because `context_size={size}`."
            )
        return context.detach()
    labels = context.detach().long()
    if not torch.compiler.is_compiling():
        check_labels(labels, size)
    classes = torch.arange(size, device=labels.device)
    return (labels.unsqueeze(-1) == classes).to(torch.get_default_dtype())


def check_labels(labels: Tensor, size: int) -> None:
    """Check that labels are in range, where that means to wait for no device.

    Args:
        labels: Class indices. Shape ``[*]``.
        size: Number of classes.

    Raises:
        ContextError: Some are not.
    """
    if labels.device.type == "cpu" and labels.numel():
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= size:
            raise ContextError(
                f"The context has labels from {low} to {high}; `context_size={size}` needs "
                f"labels from 0 to {size - 1}."
            )


def aligned(context: Tensor, shape: torch.Size, *, site: str, batch_axis: int = 0) -> Tensor:
    """Give the context the axes of an activation whose features are last.

    Args:
        context: Features, ``[B, C]`` or with further axes ``[B, *, C]``.
        shape: Shape of the activation, features last: ``[B, *, D]``; sequences may come as
            ``[T, B, D]``.
        site: Name for the error message.
        batch_axis: Where the batch is, if the sizes of the first two axes do not tell.

    Returns:
        A view of the context of shape ``[*shape[:-1], C]``: samples of a batch are matched by
        the size of the axis, and repeated along every other axis.

    Raises:
        ContextError: The context belongs to a batch of another size.

    Example:
        >>> aligned(torch.zeros(2, 3), torch.Size([2, 7, 5]), site="rnn").shape
        torch.Size([2, 7, 3])
    """
    lead, size = shape[:-1], context.shape[-1]
    rows = context.shape[:-1]
    if rows == lead:
        return context
    if rows.numel() == lead.numel() and 1 in (len(rows), len(lead)):
        return context.reshape(*lead, size)
    # Only a sequence [T, B, D] has its batch elsewhere than in front.
    axes = (batch_axis, 1 - batch_axis) if len(lead) == 2 else (0,)
    for axis in axes:
        if len(rows) == 1 and lead[axis] == rows[0]:
            view = [1] * len(lead)
            view[axis] = rows[0]
            return context.view(*view, size).expand(*lead, size)
    raise ContextError(
        f"The context has {tuple(rows)} samples, the activation at {named(site)} has shape "
        f"{tuple(shape)}; give one context per sample of the batch."
    )


def conditioned(
    activation: Tensor, context: Tensor, *, site: str, axis: int = -1, batch_axis: int = 0
) -> Tensor:
    """Concatenate the context to the features of an activation.

    Args:
        activation: Shape ``[B, *, D]`` for ``axis=-1``, ``[B, D, H, W]`` for ``axis=1``.
        context: Features of the context, ``[B, C]`` or ``[B, *, C]``.
        site: Name for error messages.
        axis: Axis of the features.
        batch_axis: See `aligned`.

    Returns:
        The activation with ``D + C`` features.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343: the conditional DNI (cDNI) of section 3.1.
    """
    features_last = activation.movedim(axis, -1).shape
    extra = aligned(context, features_last, site=site, batch_axis=batch_axis)
    return torch.cat((activation, extra.movedim(-1, axis).to(activation.dtype)), dim=axis)
