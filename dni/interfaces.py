"""All interfaces of a network: made for a site when its output is known, found by name."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .interface import Interface
from .mixing import Lambda, lambda_at
from .sites import SiteName, escape, unescape
from .synthesizers.base import DNINetwork
from .synthesizers.choose import (
    Layout,
    SynthesizerSpec,
    choose,
    layout_from,
    layout_of,
    resolve,
)


class Interfaces(nn.Module):
    """The interfaces of one wrapper by name, with what it takes to make one.

    A site whose output holds several tensors has one interface for each: the first bears the
    name of the site, the others ``site#1``, ``site#2``, see `name_of`.

    Args:
        dni_network: Which synthesizer, see `SynthesizerSpec`.
        dni_params: Further arguments of the synthesizers.
        hidden_size: Width of the synthesizers.
        context_size: Number of context features, ``None`` for none.
        scale_targets: See `Interface`.
        sites: Names of all sites of the network.
        share: λ, see `dni.mixing`.

    Attributes:
        is_backprop: λ is 1 at every site for the time being, whatever was set.

    Raises:
        ConfigError: ``share`` is not a valid λ.
    """

    def __init__(
        self,
        *,
        dni_network: SynthesizerSpec,
        dni_params: dict[str, Any],
        hidden_size: int,
        context_size: int | None,
        scale_targets: bool,
        sites: Iterable[SiteName],
        share: Lambda,
    ) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.is_backprop = False
        lambda_at(share, 0, self.sites)
        self.share = share
        self._shares: dict[SiteName, float] = {}
        self.mix(0)
        self.dni_network = dni_network
        self.dni_params = dict(dni_params)
        self.hidden_size = hidden_size
        self.context_size = context_size
        self.scale_targets = scale_targets

    def __contains__(self, name: SiteName) -> bool:
        return escape(name) in self._modules

    def __getitem__(self, name: SiteName) -> Interface:
        found = self._modules[escape(name)]
        assert isinstance(found, Interface)
        return found

    def get(self, name: SiteName) -> Interface | None:
        """The interface of a name, ``None`` if there is none."""
        found = self._modules.get(escape(name))
        assert found is None or isinstance(found, Interface)
        return found

    def __iter__(self) -> Iterator[SiteName]:
        return (unescape(key) for key in self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def name_of(self, site: SiteName, number: int) -> SiteName:
        """The name of the interface at one of the outputs of a site, counted from 0."""
        name = f"{site}#{number}" if number else site
        while number and name in self.sites:  # a module may bear that very name
            name += "#"
        return name

    def values(self) -> list[Interface]:
        """Every interface, in the order they were made."""
        return [module for module in self._modules.values() if isinstance(module, Interface)]

    def items(self) -> list[tuple[SiteName, Interface]]:
        """Every name with its interface, in the order they were made."""
        return [(name, self[name]) for name in self]

    def set_share(self, share: Lambda, updates: int) -> None:
        """Set λ; a `ConfigError` leaves it as it was."""
        lambda_at(share, updates, self.sites)
        self.share = share
        self._shares = {}
        self.mix(updates)

    def mix(self, updates: int) -> None:
        """Bring λ of every interface up to date.

        Args:
            updates: Number of updates made so far.
        """
        if callable(self.share) or not self._shares:
            self._shares = lambda_at(self.share, updates, self.sites)
            for interface in self.values():
                interface.set_lambda(self._share_of(interface.site))

    @property
    def is_synthetic(self) -> bool:
        """Whether λ is 0 at every site at present."""
        return not (self.is_backprop or any(self._shares.values()))

    def _share_of(self, site: SiteName) -> float:
        return 1.0 if self.is_backprop else self._shares[site]

    def synthesizer_for(
        self, site: SiteName, module: nn.Module, layout: Layout
    ) -> type[DNINetwork]:
        """The class of the synthesizer at a site: the user's choice, or what suits it."""
        return resolve(self.dni_network, site, module) or choose(module, layout)

    def make(
        self,
        name: SiteName,
        site: SiteName,
        module: nn.Module,
        *,
        layout: Layout,
        like: Tensor,
    ) -> Interface:
        """Make the interface of a site and keep it.

        The random numbers it takes come from a generator of its own, seeded by torch's seed and
        the name: the network's own draws (dropout, shuffling) stay what they are without
        interfaces, and the order in which interfaces are made does not matter.

        Args:
            name: Name of the interface.
            site: Name of its site.
            module: The module there.
            layout: Layout of the output.
            like: A floating tensor on the device and of the type the interface is to have.

        Returns:
            The interface.

        Raises:
            ConfigError: The synthesizer cannot be made for this layout.
        """
        synthesizer = self.synthesizer_for(site, module, layout)
        known = {
            "batch_first": layout.batch_axis == 0,
            "maps": layout.maps,
            "context_size": self.context_size,
        }
        wanted = inspect.signature(synthesizer).parameters
        options = {name: known[name] for name in known if name in wanted} | self.dni_params
        with torch.random.fork_rng(devices=[]):
            seed = torch.initial_seed() ^ zlib.crc32(name.encode())
            torch.default_generator.manual_seed(seed)
            interface = Interface(
                site,
                synthesizer,
                layout,
                hidden_size=self.hidden_size,
                options=options,
                context_size=self.context_size,
                scale_targets=self.scale_targets,
                is_per_step=isinstance(module, nn.RNNCellBase),
            )
        interface.to(device=like.device, dtype=like.dtype)
        interface.train(self.training)
        interface.set_lambda(self._share_of(site))
        self.add_module(escape(name), interface)
        return interface

    def make_ahead(self, site: SiteName, module: nn.Module) -> Interface | None:
        """Make the interface of a site before any forward pass, if the module tells its layout."""
        layout = layout_of(module)
        like = next((p for p in module.parameters() if p.is_floating_point()), None)
        if layout is None or like is None:
            return None
        return self.make(site, site, module, layout=layout, like=like)

    def make_seen(
        self, name: SiteName, site: SiteName, module: nn.Module, output: Tensor
    ) -> Interface:
        """Make the interface of a site whose output is at hand."""
        layout = layout_from(module, output)
        like = output
        if torch.is_autocast_enabled(output.device.type):
            like = torch.empty((), device=output.device)  # autocast keeps weights in full precision
        return self.make(name, site, module, layout=layout, like=like)

    def discard(self, name: SiteName) -> None:
        """Forget an interface."""
        del self._modules[escape(name)]
