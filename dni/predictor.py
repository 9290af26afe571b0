"""A synthesizer at its site: made for the output there, and asked for the gradient of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .context import aligned, conditioned
from .errors import ConfigError, DNIError, ShapeError, SiteError, named
from .metered import Metered
from .passes import Pass
from .synthesizers.base import DNINetwork
from .synthesizers.choose import Layout, takes_context
from .synthesizers.recurrent import RNNDNI


class Predictor(Metered):
    """Holds the synthesizer of a site, keeps it where the output is, and asks it.

    Args:
        site: Dotted name of the site.
        synthesizer: Class of the synthesizer, called as ``synthesizer(input_size, hidden_size,
            output_size, **options)``.
        layout: How the site lays out its output.
        hidden_size: Width of the synthesizer.
        options: Further arguments of the synthesizer.
        context_size: Number of context features, ``None`` for none.
        scale_targets: Whether to work in units of ρ; if not, ρ is 1.
        is_per_step: Whether the site is a cell, called once per time step: a recurrent
            synthesizer then carries its hidden state from call to call of one forward pass.

    Raises:
        ConfigError: The synthesizer does not take these arguments or cannot serve this layout.
    """

    def __init__(
        self,
        site: str,
        synthesizer: type[DNINetwork],
        layout: Layout,
        *,
        hidden_size: int = 10,
        options: dict[str, Any] | None = None,
        context_size: int | None = None,
        scale_targets: bool = True,
        is_per_step: bool = False,
    ) -> None:
        super().__init__(scale_targets=scale_targets)
        self.site = site
        self.is_per_step = is_per_step
        self.layout = layout
        self.context_size = context_size
        self.wants_context = context_size is not None and takes_context(synthesizer)
        concatenated = 0 if context_size is None or self.wants_context else context_size
        if getattr(synthesizer, "maps_only", False) and not layout.maps:
            raise ConfigError(
                f"`{synthesizer.__name__}` at {named(site)} needs feature maps [B, C, H, W], but "
                "the site has none. Choose 'linear', or leave `dni_network` out."
            )
        channels_first = getattr(synthesizer, "channels_first", False)
        self.axis = 1 if channels_first and layout.maps else -1
        self.in_gradient_units = getattr(synthesizer, "in_gradient_units", False)
        features = layout.features
        try:
            built = synthesizer(features + concatenated, hidden_size, features, **(options or {}))
        except Exception as err:
            raise ConfigError(
                f"`{synthesizer.__name__}` at {named(site)} could not be made with "
                f"input_size={features + concatenated}, hidden_size={hidden_size}, "
                f"output_size={features} and `dni_params` {options or {}}: {err}"
            ) from err
        self.synthesizer = built
        self._hidden: tuple[Callable[[], object], Any] | None = None
        self._place = self._placement()

    def _placement(self) -> tuple[torch.device, torch.dtype | None]:
        """Device, and type of the synthesizer's weights (``None`` if it has none)."""
        weights = (p.dtype for p in self.synthesizer.parameters() if p.is_floating_point())
        return self.meter.device, next(weights, None)

    def follow(self, activation: Tensor) -> None:
        """Move the synthesizer to where the activation lives, and to its type.

        Under autocast the weights keep their type, as those of the network do.
        """
        if self._place == (activation.device, activation.dtype):
            return
        dtype = self._place[1]
        if dtype is not None and not torch.is_autocast_enabled(activation.device.type):
            dtype = activation.dtype
        if self._place != (activation.device, dtype):
            self.to(device=activation.device, dtype=dtype)

    def predict(
        self, activation: Tensor, context: Tensor | None = None, record: Pass | None = None
    ) -> Tensor:
        """The synthetic gradient in units of the scale.

        Args:
            activation: Detached output of the site. Shape ``[*]``.
            context: Features of the context.
            record: The forward pass this call belongs to, if the call is one of its steps.

        Returns:
            The prediction. Shape ``[*]``.

        Raises:
            ShapeError: The synthesizer returned another shape.
            SiteError: The synthesizer failed.
        """
        moved = self.axis != self.layout.axis and activation.dim() > 2
        seen = activation.movedim(self.layout.axis, -1) if moved else activation
        is_step = self.is_per_step and isinstance(self.synthesizer, RNNDNI)
        hidden = self._carried(record, len(seen)) if is_step else None
        arguments: tuple[Any, ...] = (hidden,)
        batch_axis = self.layout.batch_axis
        if context is not None and self.wants_context:
            if self.axis == -1:
                context = aligned(context, seen.shape, site=self.site, batch_axis=batch_axis)
            arguments = (hidden, context)
        elif context is not None and self.context_size is not None:
            seen = conditioned(seen, context, site=self.site, axis=self.axis, batch_axis=batch_axis)
        prediction, hidden = self._synthesize(seen, *arguments)
        if is_step and record is not None:
            self._hidden = weakref.ref(record), hidden
        if self.in_gradient_units:
            prediction = prediction * self.inverse_scale
        prediction = prediction.movedim(-1, self.layout.axis) if moved else prediction
        if prediction.shape != activation.shape:
            raise ShapeError(
                f"The synthesizer `{type(self.synthesizer).__name__}` at {named(self.site)} "
                f"returned shape {tuple(prediction.shape)}; the activation's shape "
                f"{tuple(activation.shape)} is needed, one entry per entry."
            )
        return prediction

    def _carried(self, record: Pass | None, batch: int) -> Any:
        """The hidden state after the call before this one in the same pass and batch."""
        if record is None or self._hidden is None or self._hidden[0]() is not record:
            return None
        hidden = self._hidden[1]
        first = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden if first.shape[1] == batch else None

    def _synthesize(self, seen: Tensor, *arguments: Any) -> tuple[Tensor, Any]:
        """Call the synthesizer; a failure names the site."""
        if torch.compiler.is_compiling():
            compiled: tuple[Tensor, Any] = self.synthesizer(seen, *arguments)
            return compiled
        try:
            prediction, hidden = self.synthesizer(seen, *arguments)
        except (torch.OutOfMemoryError, DNIError):
            raise
        except Exception as err:
            if type(err).__module__ == "torch.utils.checkpoint":
                raise  # how a checkpoint ends what it runs again, and no failure
            raise SiteError(
                f"The synthesizer `{type(self.synthesizer).__name__}` at {named(self.site)} "
                f"failed on an input of shape {tuple(seen.shape)}: {err}. It must return the "
                "pair (gradient, hidden)."
            ) from err
        if not isinstance(prediction, Tensor):
            raise ShapeError(
                f"The synthesizer `{type(self.synthesizer).__name__}` at {named(self.site)} "
                f"returned a {type(prediction).__name__} as gradient; a tensor is needed."
            )
        return prediction, hidden

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hidden": None}  # graphs are not copied

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._place = self._placement()
        return self
