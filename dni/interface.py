"""One interface: it predicts the gradient at a site, and mixes it with the true one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .boundary import MIXED, SYNTHETIC, TRUE, propagate
from .closed_form import cross_closed, head_of
from .context import aligned
from .errors import ShapeError, named
from .foresight import Closed, Foresight, Predicted
from .linear_head import Head, rows
from .listeners import in_ddp, is_awaited
from .passes import Pass
from .predictor import Predictor
from .synthesizers.base import DNINetwork
from .synthesizers.choose import Layout


class Answers(NamedTuple):
    """What came back to an activation that was handed on under update unlocking.

    Attributes:
        within: How many gradients came while the pass forward went on, from later sites.
        beyond: Whether one came from the loss.
    """

    within: int
    beyond: bool

    @property
    def is_plain(self) -> bool:
        """Whether they were all of one kind."""
        return not (self.within and self.beyond)


class Interface(Predictor):
    r"""Predicts the gradient of an activation and passes the activation through a boundary.

    The target of the regression is the true gradient in units of :math:`\rho`, its running root
    mean square: a mean loss makes gradients of order 1/B which shrink further as training goes
    on, and a squared error of such numbers hardly trains. Until the first true gradient has been
    seen :math:`\rho` is zero, and so is every synthetic gradient.

    Args:
        site: Dotted name of the site.
        synthesizer: Class of the synthesizer.
        layout: How the site lays out its output.
        **about: See `Predictor`.

    Attributes:
        mode: What is propagated, see `dni.boundary`.
        mix: λ. Shape ``[]``.
        answers: What came back under update unlocking; ``None`` before anything has.
    """

    mix: Tensor
    answers: Answers | None = None

    def __init__(
        self, site: str, synthesizer: type[DNINetwork], layout: Layout, **about: Any
    ) -> None:
        super().__init__(site, synthesizer, layout, **about)
        self.register_buffer("mix", torch.ones((), dtype=torch.float32), persistent=False)
        self.mode = TRUE

    def set_lambda(self, value: float) -> None:
        """Set λ, the share of the true gradient, from 0 to 1."""
        self.mode = {0.0: SYNTHETIC, 1.0: TRUE}.get(value, MIXED)
        self.mix = torch.full_like(self.mix, value)  # graphs of earlier passes keep theirs

    def note(self, answers: Answers) -> None:
        """Note what came back; where that differs from call to call, it may be anything."""
        self.answers = answers if self.answers in (None, answers) else Answers(1, True)

    def forward(
        self,
        activation: Tensor,
        context: Tensor | None = None,
        record: Pass | None = None,
        loss_scale: Tensor | None = None,
        train: bool = True,
        hears: bool = True,
    ) -> Tensor:
        """Pass an activation through the boundary of this site.

        Args:
            activation: Output of the site, features where the layout says. Shape ``[*]``.
            context: Features of the context. Shape ``[B, C]`` or ``[B, *, C]``.
            record: The forward pass this call belongs to.
            loss_scale: Factor a gradient scaler puts on the loss. Shape ``[]``.
            train: Whether the synthesizer learns from this pass.
            hears: Whether statistics are taken from it.

        Returns:
            A copy of the activation. Shape ``[*]``.

        Raises:
            ShapeError: The activation has no entries, or the synthetic gradient has another
                shape than the activation.
            SiteError: The synthesizer itself failed.
        """
        self._check(activation)
        head = self._head(activation, context) if loss_scale is None else None
        if head is not None:
            assert context is not None
            target = self._target(activation, context)
            return self._cross_closed(
                activation, head if train else head.detached(), target, record, hears=hears
            )
        with torch.set_grad_enabled(train):
            prediction = self.predict(activation.detach(), context, record)
        return self._propagate(activation, prediction, record, loss_scale, hears=hears)

    def put_behind(self, activation: Tensor, foresight: Foresight, *, hears: bool = True) -> Tensor:
        """Pass an activation through the boundary that teaches what said something about it.

        Args:
            activation: Without its graph. Shape ``[*]``.
            foresight: What `foresee` returned for it.
            hears: Whether statistics are taken.

        Returns:
            A copy of the activation, whose gradient trains the synthesizer. Shape ``[*]``.
        """
        if isinstance(foresight, Closed):
            return self._cross_closed(activation, foresight.head, foresight.target, hears=hears)
        assert isinstance(foresight, Predicted)
        return self._propagate(activation, foresight.prediction, hears=hears)

    def _cross_closed(
        self,
        activation: Tensor,
        head: Head,
        target: Tensor,
        record: Pass | None = None,
        *,
        hears: bool = True,
    ) -> Tensor:
        return cross_closed(
            activation,
            head,
            self.meter,
            target=target,
            inverse_scale=self.inverse_scale,
            mix=self.mix,
            mode=self.mode,
            hears=hears,
            record=record,
        )

    def _propagate(
        self,
        activation: Tensor,
        prediction: Tensor,
        record: Pass | None = None,
        loss_scale: Tensor | None = None,
        *,
        hears: bool = True,
    ) -> Tensor:
        scale, inverse_scale = self.scale, self.inverse_scale
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
            hears=hears,
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
            has_listeners = not torch.compiler.is_compiling() and (
                in_ddp() or any(is_awaited(p) for p in head.parameters())
            )
            return Closed(head, activation, target, train=train, has_listeners=has_listeners)
        with torch.set_grad_enabled(train):
            prediction = self.predict(activation, context, record)
        return Predicted(prediction)

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
        return self
