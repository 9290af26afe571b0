"""The injector that calls a recurrent network and hands its state from batch to batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..errors import ConfigError, ShapeError
from .injectors import Injector
from .registry import INJECTORS
from .state import detached


@INJECTORS.register("recurrent")
class Recurrent(Injector):
    r"""Call a recurrent network on a window of a stream, from the state the last window ended in.

    The network is called as ``network(input, state)`` and returns ``(output, state)``, as torch's
    do; the output is what is written. The state is cut from its graph and goes on to the next
    batch: this is truncated backpropagation through time, and with the optimizer ``temporal_dni``
    it sees beyond the window. It is ``None`` for the first batch of an epoch and of every
    evaluation, and is part of the checkpoint.

    ``in`` is the key of the input, and where episodes end within the data also that of who ends
    with this window: ``True`` or ``False`` for all, after which the state is ``None``, or a mask
    ``[B]`` as `TemporalDNI` takes it, after which it is zero where the mask is true.

    Args:
        network: Its name.
        batch_dim: Axis of the sequences in every tensor of the state, for masks.

    Example:
        >>> injector, net = Recurrent("net"), torch.nn.RNN(3, 5)
        >>> for batch in range(2):
        ...     injector.enter("train", batch)
        ...     injector(net, torch.randn(4, 2, 3), torch.tensor([True, False])).shape
        torch.Size([4, 2, 5])
        torch.Size([4, 2, 5])
        >>> injector.state_dict()["states"]["train"].abs().sum(2) > 0
        tensor([[False,  True]])
    """

    carries = True

    def __init__(self, network: str, batch_dim: int = 1) -> None:
        self.network, self.batch_dim = network, batch_dim
        self._states: dict[str, Any] = {}
        self._batches: dict[str, int] = {}
        self._phase = ""

    def enter(self, phase: str, batch: int) -> None:
        """Begin anew with the first batch of an epoch or evaluation."""
        if batch <= self._batches.get(phase, -1):
            self._states[phase] = None
        self._phase, self._batches[phase] = phase, batch

    def inject(self, module: Any, input: Any, done: Any = None) -> Any:
        """Run a window.

        Args:
            module: The network, or what the optimizer strategy made of it.
            input: What it takes.
            done: Who ends with this window.

        Returns:
            Its output.

        Raises:
            ConfigError: ``done`` is neither a truth value nor a mask of them.
            ShapeError: The network does not return a pair, or ``done`` does not fit its state.
        """
        state = _moved(self._states.get(self._phase), input)
        found = module(input, state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ShapeError(
                f"The network {self.network!r} returned a {type(found).__name__}; the injector "
                "'recurrent' needs one that returns (output, state). `call` calls any other."
            )
        output, state = found
        self._states[self._phase] = self._ended(detached(state), done)
        if done is not None and done is not False and hasattr(module, "end_episode"):
            module.end_episode(None if done is True else done)
        return output

    def _ended(self, state: Any, done: Any) -> Any:
        """The state that the next window starts from."""
        if done is None or isinstance(done, bool):
            return None if done else state
        if not isinstance(done, Tensor) or done.dtype != torch.bool or done.dim() != 1:
            given = (
                f"{done.dtype} of shape {tuple(done.shape)}" if isinstance(done, Tensor) else done
            )
            raise ConfigError(
                f"The second key of the injector 'recurrent' holds {given!s}; True or False is "
                "needed, or a boolean tensor [B]: who ends with this window."
            )

        def cleared(part: Tensor) -> Tensor:
            axis = self.batch_dim
            if part.dim() <= axis or part.shape[axis] != len(done):
                raise ShapeError(
                    f"The state has a tensor of shape {tuple(part.shape)} and the mask of who ends "
                    f"{len(done)} entries; {len(done)} sequences on axis {axis} are needed "
                    "(`batch_dim` says another axis)."
                )
            shape = [-1 if other == axis else 1 for other in range(part.dim())]
            return part.masked_fill(done.to(part.device).view(shape), 0)

        return tree_map_only(Tensor, cleared, state)

    def state_dict(self) -> dict[str, Any]:
        """The states that go on, by phase, and the batches they are from."""
        return {"states": dict(self._states), "batches": dict(self._batches)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._states, self._batches = dict(state["states"]), dict(state["batches"])


def _moved(state: Any, input: Any) -> Any:
    """A state where the input is: a loaded one is on the CPU."""
    if not isinstance(input, Tensor):
        return state
    return tree_map_only(Tensor, lambda part: part.to(input.device), state)
