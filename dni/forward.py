"""Forward unlocking: a site hands on a guess of its output, so no module waits for another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .activations import Activations
from .backward_end import BackwardEnd
from .errors import ConfigError, ContextError, ShapeError, SiteError, named
from .foresight import Foresight
from .interface import Interface
from .sites import SiteName
from .unlock import Unlock


class ForwardUnlock(Unlock):
    """Update unlocking in which a site hands on a synthetic activation instead of its own.

    The activation is predicted from the network's input and the context, if there is one. Labels
    in the context shine through to the modules above, so the loss in training says little; the
    error in evaluation, on real activations, is what counts, and is lower with them.

    Args:
        backward_end: See `Unlock`.
        activations: The networks that predict; those of new sites are added.
    """

    def __init__(self, backward_end: BackwardEnd, activations: Activations) -> None:
        super().__init__(backward_end)
        self._activations = activations
        self._names: dict[Interface, SiteName] = {}
        self._features: Tensor | None = None
        self._made: list[tuple[SiteName, Tensor]] = []
        self._trains = True

    def begin(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], context: Tensor | None
    ) -> None:
        """Take the input of a pass: the first floating-point tensor, and the context behind it.

        Args:
            args: Arguments of the network. The tensor has shape ``[B, *]``.
            kwargs: Its keyword arguments.
            context: Features of the context. Shape ``[B, C]`` or ``[B, *, C]``.

        Raises:
            ConfigError: There is no tensor, or it is a single number.
            ContextError: The context has another number of samples.
        """
        tensors = (v for v in tree_leaves((args, dict(kwargs))) if isinstance(v, Tensor))
        found = next((v for v in tensors if v.is_floating_point()), None)
        if found is None or found.dim() == 0:
            raise ConfigError(
                "`unlock='forward'` predicts activations from the network's input, but there is "
                "no floating-point tensor with samples among its arguments (class indices and "
                "tokens are no features); use `unlock='update'`."
            )
        features = found.detach().reshape(found.shape[0], -1)
        if context is not None:
            if context.shape[0] != len(features):
                raise ContextError(
                    f"`unlock='forward'` predicts activations from the network's input, of shape "
                    f"{tuple(found.shape)}, and the context, which has {context.shape[0]} "
                    "samples; give one context per sample, along the first axis of both."
                )
            features = torch.cat((features, context.to(features).reshape(len(features), -1)), 1)
        self._features = features
        self._made.clear()

    def end(self, output: Any) -> None:
        """Let go of the input, and look at what the network returned.

        Raises:
            ConfigError: The network returned a synthetic activation.
        """
        self._features = None
        made, self._made = self._made, []
        returned = {id(leaf) for leaf in tree_leaves(output)}
        for name, handed_on in made:
            if id(handed_on) in returned:
                raise ConfigError(
                    f"The network returns the output of {named(name)}, which `unlock='forward'` "
                    "replaces by a synthetic one: the loss would be that of a guess. Leave this "
                    "site out with `skip_last_layer=True` or `sites=`."
                )

    def prepare(self, name: SiteName, interface: Interface, output: Tensor) -> bool:
        """Have the network that predicts an output.

        Args:
            name: Name of the interface.
            interface: The interface.
            output: What the site returned. Shape ``[B, *]``.

        Returns:
            Whether the network was made now.

        Raises:
            SiteError: The output has other samples than the input, or the site is called twice.
            ShapeError: Input or output have another shape than in earlier passes.
        """
        features = self._features
        if features is None or output.dim() == 0 or output.shape[0] != features.shape[0]:
            samples = "no" if features is None else features.shape[0]
            raise SiteError(
                f"`unlock='forward'` predicts the output of {named(name)} sample by sample from "
                f"the network's input, but the output has shape {tuple(output.shape)} and the "
                f"input has {samples} samples; the first axis of both must be the batch. Use "
                "`unlock='update'`, or leave the site out with `sites=`."
            )
        if any(name == other for other, _ in self._made):
            raise SiteError(
                f"`unlock='forward'` predicts the output of {named(name)} from the network's "
                "input alone, but the network calls it more than once, and its calls cannot be "
                "told apart; use `unlock='update'`, or leave the site out with `sites=`."
            )
        self._names[interface] = name
        inputs, shape = features.shape[1], tuple(output.shape[1:])
        if name not in self._activations:
            self._activations.make(name, inputs, shape, output)
            return True
        known = self._activations[name]
        if (known.inputs, known.shape) != (inputs, shape):
            raise ShapeError(
                f"`unlock='forward'` has learned to predict activations of shape {known.shape} "
                f"at {named(name)} from {known.inputs} features, but this pass has shape {shape} "
                f"and {inputs} features; give every batch the same sizes."
            )
        return False

    def cross(
        self,
        outputs: list[tuple[Interface, Tensor]],
        context: Tensor | None,
        *,
        train: bool,
        is_blind: bool = False,
    ) -> list[Tensor]:
        """See `Unlock.cross`; the tensors returned are synthetic."""
        self._trains = train
        return super().cross(outputs, context, train=train, is_blind=is_blind)

    def _hand_on(
        self, interface: Interface, foresight: Foresight | None, activation: Tensor
    ) -> Tensor:
        name = self._names[interface]
        assert self._features is not None
        predictor = self._activations[name]
        features = self._features.to(predictor.mean)
        if self._trains:
            with self._backward_end.looking_away():
                predicted = predictor.learn(features, activation.to(predictor.mean))
        else:
            with torch.no_grad():
                predicted = predictor(features)
        handed_on = super()._hand_on(interface, foresight, predicted.to(activation.dtype))
        self._made.append((name, handed_on))
        return handed_on

    def clear(self) -> None:
        """Forget the pass, its input included."""
        super().clear()
        self._features = None
        self._made.clear()
