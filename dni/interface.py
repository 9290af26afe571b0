"""One interface: a site's synthesizer, the scale of its target, and the statistics between them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .boundary import MIXED, SYNTHETIC, TRUE, Pass, propagate
from .closed_form import Head, cross_closed, head_of, rows
from .context import aligned, conditioned
from .errors import ConfigError, DNIError, ShapeError, SiteError, named
from .foresight import Closed, Foresight, Predicted
from .listeners import in_ddp, is_awaited
from .metered import Metered
from .synthesizers.base import DNINetwork
from .synthesizers.choose import Layout, takes_context
from .synthesizers.recurrent import RNNDNI


class Interface(Metered):
    r"""Predicts the gradient of an activation and passes the activation through a boundary.

    The target of the regression is the true gradient in units of :math:`\rho`, its running root
    mean square: a mean loss makes gradients of order 1/B which shrink further as training goes
    on, and a squared error of such numbers hardly trains. Until the first true gradient has been
    seen :math:`\rho` is zero, and so is every synthetic gradient.

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

    mix: Tensor

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
        self.register_buffer("mix", torch.ones((), dtype=torch.float32), persistent=False)
        self.mode = TRUE
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

    def set_lambda(self, value: float) -> None:
        """Set λ, the share of the true gradient, from 0 to 1."""
        self.mode = {0.0: SYNTHETIC, 1.0: TRUE}.get(value, MIXED)
        self.mix = torch.full_like(self.mix, value)  # graphs of earlier passes keep theirs

    def forward(
        self,
        activation: Tensor,
        context: Tensor | None = None,
        record: Pass | None = None,
        loss_scale: Tensor | None = None,
        train: bool = True,
    ) -> Tensor:
        """Pass an activation through the boundary of this site.

        Args:
            activation: Output of the site, features where the layout says. Shape ``[*]``.
            context: Features of the context. Shape ``[B, C]`` or ``[B, *, C]``.
            record: The forward pass this call belongs to.
            loss_scale: Factor a gradient scaler puts on the loss. Shape ``[]``.
            train: Whether the synthesizer learns from this pass.

        Returns:
            A copy of the activation. Shape ``[*]``.

        Raises:
            ShapeError: The activation has no entries, or the synthetic gradient has another
                shape than the activation.
            SiteError: The synthesizer itself failed.
        """
        self._check(activation)
        scale, inverse_scale = self.scale, self.inverse_scale
        head = self._head(activation, context) if loss_scale is None else None
        if head is not None:
            assert context is not None
            return cross_closed(
                activation,
                head if train else head.detached(),
                self.meter,
                target=self._target(activation, context),
                inverse_scale=inverse_scale,
                mix=self.mix,
                mode=self.mode,
                record=record,
            )
        with torch.set_grad_enabled(train):
            prediction = self.predict(activation.detach(), context, record)
        if loss_scale is not None:
            scale, inverse_scale = scale * loss_scale, inverse_scale / loss_scale
        return propagate(
            activation,
            prediction,
            self.meter,
            scale=scale,
            inverse_scale=inverse_scale,
            mix=self.mix,
            mode=self.mode,
            features=self.layout.features,
            record=record,
        )

    def _check(self, activation: Tensor) -> None:
        if activation.numel() == 0 or activation.dim() == 0:
            raise ShapeError(
                f"The output of {named(self.site)} has shape {tuple(activation.shape)}; an "
                "interface needs at least one sample and one feature. Skip empty batches."
            )

    def _head(self, activation: Tensor, context: Tensor | None) -> Head | None:
        """The critic's linear head, where its closed form holds for this activation."""
        if context is None or self.axis != -1 or self.layout.axis not in (-1, activation.dim() - 1):
            return None
        head = head_of(self.synthesizer)
        if head is None or head.weight.dtype != activation.dtype:
            return None
        return None if torch.is_autocast_enabled(activation.device.type) else head

    def _target(self, activation: Tensor, context: Tensor) -> Tensor:
        """The target of the criterion at every position. Shape ``[N, C]``."""
        batch_axis = self.layout.batch_axis
        fitting = aligned(context, activation.shape, site=self.site, batch_axis=batch_axis)
        return rows(fitting)

    def foresee(
        self,
        activation: Tensor,
        context: Tensor | None,
        *,
        train: bool,
        record: Pass | None = None,
    ) -> Foresight:
        """Predict the gradient of an activation that is handed on without its graph.

        Args:
            activation: Detached output of the site. Shape ``[*]``.
            context: Features of the context.
            train: Whether the synthesizer will learn.
            record: The forward pass this call belongs to, if the call is one of its steps.

        Returns:
            The synthetic gradient, and what the synthesizer needs to learn from the true one.

        Raises:
            ShapeError: As in `forward`.
            SiteError: The synthesizer itself failed.
        """
        self._check(activation)
        head = self._head(activation, context)
        if head is not None:
            assert context is not None
            target = self._target(activation, context)
            has_listeners = in_ddp() or any(is_awaited(p) for p in head.parameters())
            return Closed(head, activation, target, train=train, has_listeners=has_listeners)
        with torch.set_grad_enabled(train):
            prediction = self.predict(activation, context, record)
        return Predicted(prediction)

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

    def get_extra_state(self) -> dict[str, Any]:
        """What a wrapper needs to make this interface again before any forward pass."""
        return {
            "site": self.site,
            "features": self.layout.features,
            "axis": self.layout.axis,
            "maps": self.layout.maps,
            "batch_axis": self.layout.batch_axis,
            "synthesizer": type(self.synthesizer).__name__,
        }

    def set_extra_state(self, state: Any) -> None:
        """Nothing to take over: the wrapper made this interface from the same facts."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Interface:
        super()._apply(fn, recurse)
        self.mix = self.mix.float()
        self._place = self._placement()
        return self
