"""The ways to learn from a window: truncated backpropagation, alone or with `TemporalDNI`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data import Window
from dni import TemporalDNI
from model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How the gradient from beyond the window is made.

    Attributes:
        network: Kind of synthesizer.
        layers: Its hidden layers.
        hidden_size: Units of each; ``None`` for the size of the state.
        lr: Learning rate of Adam for it; of no use to ``"least_squares"``, which has none.
        scale: Factor on its gradient.
        shrink: Whether there is another one, for its noise.
        auxiliary: Weight of the auxiliary task.
        ahead: Number of symbols after the window that it sees.
        behind: Number of the window's last symbols that it sees.
        memory: Windows that ``"least_squares"`` remembers; ``None`` for its own default.
        warmup: Updates during which it learns and its gradient is not used.
    """

    network: str = "linear"
    layers: int = 0
    hidden_size: int | None = None
    lr: float = 1e-3
    scale: float = 1.0
    shrink: bool = True
    auxiliary: float = 0.0
    ahead: int = 0
    behind: int = 0
    memory: int | None = None
    warmup: int = 500

    @property
    def is_fitted(self) -> bool:
        """Whether it is fitted and not stepped, so that it has no layers and no rate."""
        return self.network == "least_squares"

    @property
    def options(self) -> dict[str, Any]:
        """What the synthesizer is made with, beside its sizes."""
        if not self.is_fitted:
            return {"num_layers": self.layers}
        return {} if self.memory is None else {"memory": self.memory}


class Learner:
    """A model, what trains it, and the state its streams are in.

    Args:
        model: Changed in place.
        lr: Learning rate of Adam for the model.
        clip: Largest norm of the model's gradients; ``None`` for no limit.
        accumulate: Windows whose gradients are averaged for an update.
        synthesis: ``None`` for truncated backpropagation.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        lr: float,
        clip: float | None = None,
        accumulate: int = 1,
        synthesis: Synthesis | None = None,
    ) -> None:
        self.model = model
        self.clip = clip
        self.accumulate = accumulate
        self.synthesis = synthesis
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.net: nn.Module = model.rnn
        if synthesis is not None:
            features = (synthesis.ahead + synthesis.behind) * model.embedding.embedding_dim
            self.net = TemporalDNI(
                model.rnn,
                synthesis.network,
                synthesis.options,
                grad_optim="sgd" if synthesis.is_fitted else "adam",
                grad_lr=1.0 if synthesis.is_fitted else synthesis.lr,
                hidden_size=synthesis.hidden_size,
                scale=synthesis.scale,
                auxiliary=synthesis.auxiliary,
                context_size=features or None,
                limit=1.0,
            )
        self.state: Any = None
        self.updates = 0
        self._windows = 0
        self._rates = (lr, 0.0 if synthesis is None else synthesis.lr)

    def learn(self, window: Window, factor: float = 1.0) -> Tensor:
        """Learn from a window; with the last of ``accumulate`` ones, make an update.

        Args:
            window: The one that follows the window before.
            factor: What the schedule makes of the learning rates.

        Returns:
            Mean cross-entropy of a symbol, in nats. Shape ``[]``, without a graph.
        """
        self._set_rates(factor)
        features = self.model.embed(window.inputs)
        if isinstance(self.net, TemporalDNI):
            output, self.state = self._decoupled(self.net, features, window)
        else:
            output, state = self.net(features, self.state)
            self.state = _detached(state)
        loss = cross_entropy(self.model.score(output).flatten(0, 1), window.targets.flatten())
        (loss / self.accumulate).backward()
        if window.is_last:
            self.state = None
        self._windows += 1
        if self._windows == self.accumulate:
            self._update()
        return loss.detach()

    def _decoupled(self, net: TemporalDNI, features: Tensor, window: Window) -> tuple[Tensor, Any]:
        assert self.synthesis is not None
        is_warm = self.updates >= self.synthesis.warmup
        factor = _trust(net) if self.synthesis.shrink else 1.0
        net.scale = self.synthesis.scale * factor if is_warm else 0.0
        context = None
        if self.synthesis.ahead or self.synthesis.behind:
            steps = len(window.inputs)
            behind = window.inputs[steps - self.synthesis.behind :]
            context = self.model.sight(torch.cat((behind, window.ahead)))
        found: tuple[Tensor, Any] = net(features, self.state, done=window.is_last, context=context)
        return found

    def _update(self) -> None:
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        self._windows = 0

    def _set_rates(self, factor: float) -> None:
        optimizers: list[Any] = [self.optimizer]
        if self.synthesis is not None and not self.synthesis.is_fitted:
            optimizers.append(getattr(self.net, "synthesizer_optimizer", None))
        for optimizer, rate in zip(optimizers, self._rates, strict=False):
            for group in optimizer.param_groups if optimizer is not None else []:
                group["lr"] = rate * factor

    def cosine(self) -> float | None:
        """Cosine of the synthetic gradient and its target lately; ``None`` if there is none."""
        if not isinstance(self.net, TemporalDNI):
            return None
        return self.net.statistics()["state"]["cosine"]

    def saved(self) -> dict[str, Any]:
        """Everything it takes to go on, between two updates."""
        net = self.net
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "synthesis": net.training_state() if isinstance(net, TemporalDNI) else None,
            "state": self.state,
            "updates": self.updates,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from what `saved` gave."""
        device = self.model.scores.weight.device
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if isinstance(self.net, TemporalDNI):
            self.net.load_training_state(saved["synthesis"])
        state = saved["state"]
        is_pair = isinstance(state, tuple)
        self.state = tuple(s.to(device) for s in state) if is_pair else state
        if isinstance(state, Tensor):
            self.state = state.to(device)
        self.updates = saved["updates"]


def _trust(net: TemporalDNI) -> float:
    """The factor on the synthetic gradient that leaves least of the error, from 0 to 1.

    Noise in the synthesizer makes its gradient larger than what it knows: the slope of the target
    on the prediction, lately, takes this out.
    """
    now = net.statistics()["state"]
    if not now["synthetic_norm"]:
        return 0.0
    return min(max(now["cosine"] * now["true_norm"] / now["synthetic_norm"], 0.0), 1.0)


def _detached(state: Any) -> Any:
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
