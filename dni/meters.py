"""The running statistics of all interfaces, kept in one table so that an update costs few calls."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from .boundary import METER_UNIT
from .interface import Interface

TRUE, SYNTHETIC, PRODUCT, ENTRIES = range(4)
"""Columns of the table: sums of squares, of the product, and the number of entries."""

TINY = torch.finfo(torch.float32).tiny

MEMORY = 0.98
"""Weight of the past in the running statistics: a memory of about fifty updates."""


class MeterTable:
    r"""Takes what backward passes leave in the meters into the running statistics.

    With the sums :math:`m` of one backward pass (see `Boundary`), ``running`` of an interface
    becomes :math:`\beta` times itself plus :math:`(1 - \beta) m`, and :math:`\rho` the root of
    (running sum of squares / running count). A pass whose true gradient is zero or not finite
    changes nothing.

    The buffers of the interfaces are rows of this table's tensors; where something replaced them
    (a move to another device, say) the table is made anew.

    Args:
        interfaces: Interfaces on one device, at least one.
    """

    def __init__(self, interfaces: list[Interface]) -> None:
        self._interfaces = interfaces
        running = torch.stack([i.running for i in interfaces])
        scale = torch.stack([i.scale for i in interfaces])
        inverse_scale = torch.stack([i.inverse_scale for i in interfaces])
        self._rows = []
        for row, interface in enumerate(interfaces):
            interface.running = running[row]
            interface.scale = scale[row]
            interface.inverse_scale = inverse_scale[row]
            self._rows.append((interface.running, interface.scale, interface.inverse_scale))
        is_adaptive = torch.tensor([i.scale_targets for i in interfaces], device=running.device)
        nothing = torch.zeros_like(running[0])
        # On the CPU numpy shares the memory, and a call on a few numbers takes a tenth of torch's.
        self._is_cpu = running.device.type == "cpu"
        tensors = running, scale, inverse_scale, is_adaptive, nothing
        self._columns: tuple[Any, ...] = tuple(map(self._array, tensors))

    def _array(self, tensor: Tensor) -> Any:
        return tensor.detach().numpy() if self._is_cpu else tensor.detach()

    def is_current(self, interfaces: list[Interface]) -> bool:
        """Whether the buffers of these interfaces, and of no others, are rows of this table."""
        return len(interfaces) == len(self._rows) and all(
            i.running is running and i.scale is scale and i.inverse_scale is inverse_scale
            for i, (running, scale, inverse_scale) in zip(interfaces, self._rows, strict=True)
        )

    @torch.no_grad()
    def absorb(self, loss_scale: Tensor | None = None) -> Any:
        """Take in what the meters have gathered. Never waits for the device.

        Args:
            loss_scale: Factor on the loss during that pass. Shape ``[]``.

        Returns:
            Whether all sums were finite: a truth value of numpy on the CPU, else a tensor of
            shape ``[]``.
        """
        xp: Any = numpy if self._is_cpu else torch
        running, scale, inverse_scale, is_adaptive, nothing = self._columns
        heard = [i.heard() for i in self._interfaces]
        measured = xp.stack([nothing if sums is None else self._array(sums) for sums in heard])
        loss = 1.0 if loss_scale is None else self._array(loss_scale)
        with numpy.errstate(all="ignore"):
            measured *= 1 / METER_UNIT
            measured[:, TRUE] /= loss**2
            measured[:, SYNTHETIC] *= scale**2  # predictions are in units of the scale
            measured[:, PRODUCT] *= scale / loss
            finite = xp.isfinite(measured).all(1)
            usable = (finite & (measured[:, TRUE] > 0))[:, None]
            moved = MEMORY * running + (1 - MEMORY) * measured
            running[:] = xp.where(usable, moved, running)
            rms = xp.sqrt(running[:, TRUE] / running[:, ENTRIES])
            known = (rms > TINY) & is_adaptive
            scale[:] = xp.where(known, rms, scale)
            inverse_scale[:] = xp.where(known, 1 / rms, inverse_scale)
        return finite.all()


class Meters:
    """One `MeterTable` per device."""

    def __init__(self) -> None:
        self._tables: dict[torch.device, MeterTable] = {}

    def absorb(self, interfaces: list[Interface], loss_scale: Tensor | None = None) -> list[Any]:
        """See `MeterTable.absorb`; made for these interfaces if need be.

        Args:
            interfaces: All interfaces of a wrapper.
            loss_scale: Factor on the loss during that pass. Shape ``[]``.

        Returns:
            Per device, whether all sums were finite.
        """
        self.prepare(interfaces)
        return [
            table.absorb(None if loss_scale is None else loss_scale.to(device))
            for device, table in self._tables.items()
        ]

    def prepare(self, interfaces: list[Interface]) -> None:
        """Make the tables that are missing or no longer current."""
        by_device: dict[torch.device, list[Interface]] = {}
        for interface in interfaces:
            by_device.setdefault(interface.meter.device, []).append(interface)
        self._tables = {
            device: table
            if (table := self._tables.get(device)) is not None and table.is_current(members)
            else MeterTable(members)
            for device, members in by_device.items()
        }
