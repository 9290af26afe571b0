"""What every synthesizer is: `DNINetwork`, from the features at a site to a synthetic gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import ConfigError


class DNINetwork(nn.Module):
    r"""Base class of synthetic-gradient networks.

    A synthesizer computes :math:`p = f(h, c)` from the detached activation :math:`h` of a site
    and, when it is conditioned, the context :math:`c`. The interface multiplies :math:`p` by the
    running scale of the true gradient, so a synthesizer works with numbers of order one.

    Subclass it and override `forward`; the constructor must take the three sizes by position and
    whatever is given as ``dni_params`` by name. When the wrapper has a ``context_size``, the
    context is concatenated to the features and ``input_size`` counts both. A synthesizer that
    wants the context apart declares ``forward(self, input, hidden, context)``; its
    ``input_size`` then counts the features alone.

    Attributes:
        channels_first: Whether ``input`` keeps the layout of a convolution, ``[B, C, H, W]``
            where the site has maps (``True``), or always comes with its features last (``False``).
        maps_only: Whether it can serve sites with feature maps alone.
        in_gradient_units: Whether it predicts the gradient itself and not in units of its scale.

    Args:
        input_size: Number of input features of a position.
        hidden_size: Width of the hidden layers.
        output_size: Number of features of a position of the activation.
        **kwargs: Accepted from subclasses that pass on what they were given; must be empty.

    Raises:
        ConfigError: An argument that no synthesizer takes.

    Example:
        >>> class Scaled(DNINetwork):
        ...     def __init__(self, input_size, hidden_size, output_size, factor=0.1):
        ...         super().__init__(input_size, hidden_size, output_size)
        ...         self.factor = factor
        ...     def forward(self, input, hidden):
        ...         return self.factor * input, hidden
        >>> import torch
        >>> Scaled(2, 10, 2)(torch.ones(1, 2), None)[0]
        tensor([[0.1000, 0.1000]])
    """

    channels_first: ClassVar[bool] = False
    maps_only: ClassVar[bool] = False
    in_gradient_units: ClassVar[bool] = False

    def __init__(self, input_size: int, hidden_size: int, output_size: int, **kwargs: Any) -> None:
        super().__init__()
        if kwargs:
            raise ConfigError(
                f"`{type(self).__name__}` was given {', '.join(map(repr, kwargs))}, which it does "
                "not take; remove it from `dni_params`."
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = output_size

    def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        """Predict the gradient at a site, in units of its running scale.

        Args:
            input: Detached activation, with the context behind its features if there is one.
                Shape ``[*, input_size]``, or ``[B, input_size, H, W]`` if `channels_first`.
            hidden: State of a recurrent synthesizer, ``None`` at the start.

        Returns:
            The prediction, of shape ``[*, output_size]`` (``[B, output_size, H, W]``), and the
            new hidden state.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` has no `forward`; define `forward(self, input, hidden)` "
            "that returns the synthetic gradient and the hidden state."
        )


def start_at_zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Set weight and bias to zero, so that the first synthetic gradient is zero.

    Source: Jaderberg et al. 2017, arXiv:1608.05343, supplementary material.
    """
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def at_least(least: int, **numbers: int) -> None:
    """Refuse arguments that are no whole numbers or too small.

    Raises:
        ConfigError: Names the argument, what was given and what is needed.
    """
    for name, value in numbers.items():
        if not isinstance(value, int) or value < least:
            raise ConfigError(
                f"`{name}` is {value!r}; a whole number of at least {least} is needed."
            )
