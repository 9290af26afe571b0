"""How well synthetic gradients match true ones: what a meter gathers, running, and the scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from .sums import METER_ENTRIES


class Statistics(TypedDict):
    """How well one synthesizer predicts, over the last fifty or so updates.

    Attributes:
        cosine: Cosine similarity of synthetic and true gradient, from -1 to 1.
        relative_error: Norm of their difference over the norm of the true gradient.
        true_norm: Euclidean norm of the true gradient of a whole batch.
        synthetic_norm: Euclidean norm of the synthetic gradient of a whole batch.
        scale: Running root mean square of an entry of the true gradient.
    """

    cosine: float
    relative_error: float
    true_norm: float
    synthetic_norm: float
    scale: float


class Metered(nn.Module):
    r"""Holds a meter, the running statistics of what it gathers, and the scale of true gradients.

    Args:
        scale_targets: Whether :math:`\rho` follows the true gradient; if not, it stays 1.

    Attributes:
        meter: Leaf whose gradient brings the sums of a backward pass (see `dni.sums`).
        running: Their running mean. Shape ``[5]``.
        scale: :math:`\rho`, 0 while it is unknown. Shape ``[]``.
        inverse_scale: :math:`1 / \rho`, or 0 while it is unknown. Shape ``[]``.
    """

    meter: nn.Parameter
    running: Tensor
    scale: Tensor
    inverse_scale: Tensor

    def __init__(self, *, scale_targets: bool) -> None:
        super().__init__()
        self.scale_targets = scale_targets
        # A parameter, so that DDP reduces its gradient with all others; its value is never read.
        self.meter = nn.Parameter(torch.zeros(METER_ENTRIES, dtype=torch.float32))
        start = 0.0 if scale_targets else 1.0
        self.register_buffer("running", torch.zeros(METER_ENTRIES, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(start, dtype=torch.float32))
        self.register_buffer("inverse_scale", torch.tensor(start, dtype=torch.float32))
        self._heard: Tensor | None = None

    def hear(self, sums: Tensor) -> None:
        """Add to what the meter has gathered. Shape of ``sums``: ``[5]``."""
        kept = self.heard()
        self._heard = sums if kept is None else kept + sums

    def keep_heard(self) -> None:
        """Put aside what the meter has, where a user's ``zero_grad`` does not reach it."""
        self._heard = self.heard()

    def heard(self) -> Tensor | None:
        """Take what the meter has gathered since the last call. Shape ``[5]``."""
        meter, kept = self._parameters["meter"], self._heard  # past `Module.__getattr__`
        assert meter is not None
        grad, meter.grad = meter.grad, None
        if kept is None:
            return grad
        self._heard = None
        return kept if grad is None else kept + grad

    def statistics(self) -> Statistics:
        """Read the running statistics; waits for the device."""
        true, synthetic, product, _, weight = self.running.tolist()
        scale = float(self.scale)
        if not true:
            return Statistics(
                cosine=0.0, relative_error=math.nan, true_norm=0.0, synthetic_norm=0.0, scale=scale
            )
        difference = max(true - 2 * product + synthetic, 0.0)
        return Statistics(
            cosine=product / math.sqrt(true * synthetic) if synthetic else 0.0,
            relative_error=math.sqrt(difference / true),
            true_norm=math.sqrt(true / weight),
            synthetic_norm=math.sqrt(synthetic / weight),
            scale=scale,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Sums of squares over a batch overflow half precision: these stay in single.
        self.meter.data = self.meter.data.float()
        for name in ("running", "scale", "inverse_scale"):
            setattr(self, name, getattr(self, name).float())
        return self
