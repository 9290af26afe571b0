"""The running statistics of all interfaces, kept in one table so that an update costs few calls."""

from __future__ import annotations

import torch
from torch import Tensor

from .boundary import METER_ENTRIES, METER_UNIT
from .interface import Interface

TRUE, SYNTHETIC, PRODUCT, ENTRIES = range(4)
"""Columns of the table: sums of squares, of the product, and the number of entries."""

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
        self._running = torch.stack([i.running for i in interfaces])
        self._scale = torch.stack([i.scale for i in interfaces])
        self._inverse_scale = torch.stack([i.inverse_scale for i in interfaces])
        device = self._running.device
        self._is_adaptive = torch.tensor([i.scale_targets for i in interfaces], device=device)
        self._nothing = torch.zeros(METER_ENTRIES, dtype=torch.float32, device=device)
        self._unit = torch.full_like(self._running, 1 / METER_UNIT)
        self._rows = []
        for row, interface in enumerate(interfaces):
            interface.running = self._running[row]
            interface.scale = self._scale[row]
            interface.inverse_scale = self._inverse_scale[row]
            self._rows.append((interface.running, interface.scale, interface.inverse_scale))

    def is_current(self, interfaces: list[Interface]) -> bool:
        """Whether the buffers of these interfaces, and of no others, are rows of this table."""
        return len(interfaces) == len(self._rows) and all(
            i.running is running and i.scale is scale and i.inverse_scale is inverse_scale
            for i, (running, scale, inverse_scale) in zip(interfaces, self._rows, strict=True)
        )

    @torch.no_grad()
    def absorb(self, loss_scale: Tensor | None = None) -> Tensor:
        """Take in what the meters have gathered. Never waits for the device.

        Args:
            loss_scale: Factor on the loss during that pass. Shape ``[]``.

        Returns:
            Whether all sums were finite, a boolean of shape ``[]``.
        """
        heard = [i.heard() for i in self._interfaces]
        measured = torch.stack([self._nothing if sums is None else sums for sums in heard])
        measured.mul_(self._measure())
        if loss_scale is not None:
            measured[:, TRUE] /= loss_scale.square()
            measured[:, PRODUCT] /= loss_scale
        finite = measured.isfinite().all(1)
        usable = (finite & (measured[:, TRUE] > 0)).unsqueeze(1)
        running = self._running
        torch.where(usable, torch.lerp(measured, running, MEMORY), running, out=running)
        rms = (running[:, TRUE] / running[:, ENTRIES]).sqrt_()
        known = (rms > torch.finfo(rms.dtype).tiny).logical_and_(self._is_adaptive)
        torch.where(known, rms, self._scale, out=self._scale)
        torch.where(known, rms.reciprocal_(), self._inverse_scale, out=self._inverse_scale)
        return finite.all()

    def _measure(self) -> Tensor:
        """What turns the entries of the meters, with predictions in units of ρ, into gradients."""
        torch.mul(self._scale, 1 / METER_UNIT, out=self._unit[:, PRODUCT])
        torch.mul(self._unit[:, PRODUCT], self._scale, out=self._unit[:, SYNTHETIC])
        return self._unit


class Meters:
    """One `MeterTable` per device."""

    def __init__(self) -> None:
        self._tables: dict[torch.device, MeterTable] = {}

    def absorb(self, interfaces: list[Interface], loss_scale: Tensor | None = None) -> Tensor:
        """See `MeterTable.absorb`; made for these interfaces if need be.

        Args:
            interfaces: All interfaces of a wrapper, at least one.
            loss_scale: Factor on the loss during that pass. Shape ``[]``.

        Returns:
            Whether all sums were finite, a boolean of shape ``[]``.
        """
        self.prepare(interfaces)
        device = interfaces[0].meter.device
        finite = [
            table.absorb(None if loss_scale is None else loss_scale.to(where)).to(device)
            for where, table in self._tables.items()
        ]
        return finite[0] if len(finite) == 1 else torch.stack(finite).all()

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
