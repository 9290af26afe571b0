"""The running statistics of all interfaces, kept in one table so that an update costs few calls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .interface import Interface
from .sums import METER_UNIT

TRUE, SYNTHETIC, PRODUCT, ENTRIES = range(4)
"""Columns of the table: sums of squares, of the product, and the number of entries."""

SINGLE = torch.finfo(torch.float32)
"""Limits of the numbers in the table."""

LARGEST = SINGLE.max
"""The largest of them."""

MEMORY = 0.98
"""Weight of the past in the running statistics: a memory of about fifty updates."""

NEW = 1 - MEMORY
"""Weight of the newest update."""


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
        self._columns = running, scale, inverse_scale
        self._is_adaptive = torch.tensor([i.scale_targets for i in interfaces]).to(running.device)
        self._is_cpu = running.device.type == "cpu"
        # Views of the memory, which read and write a few numbers in a tenth of torch's time.
        self._cells: list[list[Any]] = []
        if self._is_cpu:
            self._cells = [[t.numpy().data for t in row] for row in self._rows]
        self._nothing = torch.zeros_like(running[0])

    def is_current(self, interfaces: list[Interface]) -> bool:
        """Whether the buffers of these interfaces, and of no others, are rows of this table."""
        if len(interfaces) != len(self._rows):
            return False
        for interface, (running, scale, inverse_scale) in zip(interfaces, self._rows, strict=True):
            buffers = interface._buffers  # past Module.__getattr__
            if (
                buffers["running"] is not running
                or buffers["scale"] is not scale
                or buffers["inverse_scale"] is not inverse_scale
            ):
                return False
        return True

    def absorb(self, loss_scale: Tensor | None = None) -> bool | Tensor:
        """Take in what the meters have gathered. Never waits for the device.

        Args:
            loss_scale: Factor on the loss during that pass. Shape ``[]``.

        Returns:
            Whether all sums were finite: a truth value on the CPU, else a tensor of shape ``[]``.
        """
        heard = [i.heard() for i in self._interfaces]
        if self._is_cpu:
            loss = 1.0 if loss_scale is None else loss_scale.item()
            return all([self._absorb_row(row, sums, loss) for row, sums in enumerate(heard)])
        return self._absorb_columns(heard, 1.0 if loss_scale is None else loss_scale)

    def _absorb_row(self, row: int, heard: Tensor | None, loss: float) -> bool:
        """On the CPU: an interface after the other, in Python's numbers."""
        if heard is None:
            return True
        running, scale, inverse_scale = self._cells[row]
        unit = scale[()]
        true, synthetic, product, entries, calls = heard.tolist()
        true *= 1 / (METER_UNIT * loss**2)
        synthetic *= unit**2 / METER_UNIT
        product *= unit / (METER_UNIT * loss)
        if not true + synthetic + abs(product) <= LARGEST:
            return False
        if true > 0:
            running[0] = MEMORY * running[0] + NEW * true
            running[1] = MEMORY * running[1] + NEW * synthetic
            running[2] = MEMORY * running[2] + NEW * product
            running[3] = MEMORY * running[3] + NEW / METER_UNIT * entries
            running[4] = MEMORY * running[4] + NEW / METER_UNIT * calls
            rms = math.sqrt(running[TRUE] / running[ENTRIES])
            if rms > SINGLE.tiny and self._interfaces[row].scale_targets:
                scale[()], inverse_scale[()] = rms, 1 / rms
        return True

    @torch.no_grad()
    def _absorb_columns(self, heard: list[Tensor | None], loss: Tensor | float) -> Tensor:
        """The same on another device, which is not waited for: all interfaces at once."""
        running, scale, inverse_scale = self._columns
        measured = torch.stack([self._nothing if sums is None else sums for sums in heard])
        measured *= 1 / METER_UNIT
        measured[:, TRUE] /= loss**2
        measured[:, SYNTHETIC] *= scale**2  # predictions are in units of the scale
        measured[:, PRODUCT] *= scale / loss
        finite = measured.isfinite().all(1)
        usable = (finite & (measured[:, TRUE] > 0))[:, None]
        running[:] = torch.where(usable, MEMORY * running + (1 - MEMORY) * measured, running)
        rms = torch.sqrt(running[:, TRUE] / running[:, ENTRIES])
        known = (rms > SINGLE.tiny) & self._is_adaptive
        scale[:] = torch.where(known, rms, scale)
        inverse_scale[:] = torch.where(known, 1 / rms, inverse_scale)
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
        tables = list(self._tables.values())
        if len(tables) != 1 or not tables[0].is_current(interfaces):
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
