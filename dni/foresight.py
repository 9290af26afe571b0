"""A synthetic gradient that is used now, and learned from once the true one comes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .boundary import regression_gradient
from .linear_head import Head, learn, respond, rows, synthetic
from .listeners import give
from .sums import meter_sums


class Foresight(Protocol):
    """What a synthesizer said about an activation that was handed on without its graph."""

    def gradient(self, scale: Tensor) -> Tensor:
        """The synthetic gradient, in the shape of the activation.

        Args:
            scale: ρ. Shape ``[]``.
        """

    def learn(self, true: Tensor, inverse_scale: Tensor, features: int) -> Tensor:
        """Add the gradient of the regression loss to the synthesizer's gradients.

        Args:
            true: The true gradient, in the shape of the activation.
            inverse_scale: 1 / ρ, or 0 while ρ is unknown. Shape ``[]``.
            features: Number of features of a position.

        Returns:
            The sums for the meter (see `dni.sums.meter_sums`).
        """


class Predicted:
    """The prediction of any synthesizer, in units of the scale, with its graph.

    Attributes:
        prediction: Shape ``[*]``.
    """

    def __init__(self, prediction: Tensor) -> None:
        self.prediction = prediction

    def gradient(self, scale: Tensor) -> Tensor:  # noqa: D102
        return self.prediction.detach() * scale

    def learn(self, true: Tensor, inverse_scale: Tensor, features: int) -> Tensor:  # noqa: D102
        wide = torch.promote_types(true.dtype, torch.float32)
        target, prediction = true.to(wide), self.prediction.detach().to(wide)
        if self.prediction.requires_grad:
            gradient = regression_gradient(prediction, target, inverse_scale, features)
            self.prediction.backward(gradient.to(self.prediction.dtype))
        return meter_sums(prediction, target)


class Closed:
    """The response of a critic with a linear head; the gradient itself is not kept.

    Args:
        head: The critic's head.
        activation: What it saw. Shape ``[*, D]``.
        target: Target of the criterion. Shape ``[N, C]``.
        train: Whether the head learns.
        has_listeners: Whether somebody waits for the parameters' gradients.

    Attributes:
        head: The head, with constants if it does not learn.
        target: As it was given.
    """

    def __init__(
        self, head: Head, activation: Tensor, target: Tensor, *, train: bool, has_listeners: bool
    ) -> None:
        self._head = head.detached()
        self.head, self.target = head if train else self._head, target
        self._has_listeners = has_listeners
        self._shape = activation.shape
        self._positions = rows(activation)
        self._response = respond(self._head, self._positions, target)
        self._train = train

    def gradient(self, scale: Tensor) -> Tensor:  # noqa: D102
        return synthetic(self._head, self._response, scale).view(self._shape)

    def learn(self, true: Tensor, inverse_scale: Tensor, features: int) -> Tensor:  # noqa: D102
        lesson = learn(self._head, self._response, self._positions, rows(true), inverse_scale)
        if self._train:
            grads = zip(self.head.parameters(), lesson[:-1], strict=True)
            if self._has_listeners:  # they hear of what autograd brings
                learners = [(p, grad) for p, grad in grads if p.requires_grad]
                torch.autograd.backward([p for p, _ in learners], [grad for _, grad in learners])
            else:
                for parameter, grad in grads:
                    give(parameter, grad)
        return lesson.sums
