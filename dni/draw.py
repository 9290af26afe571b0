"""Sparse updates: which sites take part in an update, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .errors import AttachmentError
from .listeners import in_ddp
from .sites import SiteName


class Draw:
    """Draws the sites that learn in a step, each with the same probability and independently.

    A parameter belongs to the innermost site that holds it; those of no site always learn. One
    draw holds for a whole step, however many passes it takes: until the network has changed or
    its gradients were cleared. The numbers come from torch's generator on the CPU; with
    probability 1 none is taken.

    Args:
        network: The user's network.
        sites: Its sites, outer ones before those within them.
        probability: Probability that a site learns in a step, above 0 and at most 1.

    Source:
        Jaderberg et al. 2017, arXiv:1608.05343, section 3.3 (sparse updates).

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> Draw(network, dict(network.named_children()), 1.0).idle
        frozenset()
    """

    def __init__(
        self, network: nn.Module, sites: Mapping[SiteName, nn.Module], probability: float
    ) -> None:
        self.network = network
        self.sites = dict(sites)
        self.probability = probability
        self._idle: frozenset[SiteName] | None = None
        self._version = -1

    @property
    def is_sparse(self) -> bool:
        """Whether any site can be left out."""
        return self.probability < 1

    @property
    def idle(self) -> frozenset[SiteName]:
        """The sites that do not learn in this step."""
        if not self.is_sparse:
            return frozenset()
        if self._idle is None:
            self.renew()
        assert self._idle is not None
        return self._idle

    def renew(self) -> None:
        """Draw again, unless the step that was drawn for is not over yet.

        Raises:
            AttachmentError: Within DDP, whose processes would each draw for themselves.
        """
        if not self.is_sparse:
            return
        if in_ddp():
            raise AttachmentError(
                f"`update_probability={self.probability}` was given, but the processes of "
                "`DistributedDataParallel` would draw different sites and their networks drift "
                "apart; pass `update_probability=1`."
            )
        parameters = list(self.network.parameters())
        # An optimizer, ours or the user's, writes in place, which counts versions up.
        version = sum(p._version for p in parameters)
        is_open = version == self._version and any(p.grad is not None for p in parameters)
        if self._idle is None or not is_open:
            drawn = torch.rand(len(self.sites)).tolist()
            self._idle = frozenset(
                site for site, x in zip(self.sites, drawn, strict=True) if x >= self.probability
            )
        self._version = version

    def end(self) -> None:
        """Note that the step is over."""
        self._idle = None

    def clear_idle(self) -> None:
        """Clear the gradients of the modules that do not learn in this step."""
        if not self.idle:
            return
        owners = {
            parameter: site
            for site, module in self.sites.items()
            for parameter in module.parameters()
        }
        for parameter, site in owners.items():
            if site in self.idle:
                parameter.grad = None
