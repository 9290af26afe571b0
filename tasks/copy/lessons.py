"""What a config of the trainer needs beside the data: loss, curriculum and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dni.errors import ConfigError
from dni.trainer import Callback
from dni.trainer.evaluators import Evaluator
from dni.trainer.losses import Loss

from .episodes import Length
from .stream import Episodes, Place, find_task

if TYPE_CHECKING:
    from dni.trainer import Phase, State, Trainer


def core(task: str = "copy", units: int = 64) -> nn.LSTM:
    """The recurrent network. ``[T, B, *]`` to ``[T, B, units]`` and its state."""
    return nn.LSTM(find_task(task).inputs, units)


def readout(task: str = "copy", units: int = 64) -> nn.Linear:
    """From its output to answers. ``[T, B, units]`` to ``[T, B, *]``."""
    return nn.Linear(units, find_task(task).outputs)


class Error(Loss):
    """The task's loss of the steps that are asked for, over ``steps``. Shape ``[]``.

    Args:
        answers: Key of the answers. Shape ``[T, B, *]``.
        targets: Of the right ones.
        asked: Of which steps are asked for. Shape ``[T]``.
        steps: Of what the sum is divided by.
        task: Name of the task.
    """

    def __init__(
        self, answers: str, targets: str, asked: str, steps: str, task: str = "copy"
    ) -> None:
        super().__init__(answers=answers, targets=targets, asked=asked, steps=steps)
        self.task = find_task(task)

    def instances(  # type: ignore[override]
        self, *, answers: Tensor, targets: Tensor, asked: Tensor, steps: float
    ) -> Tensor:
        """The loss, in nats for each bit, or squared error. Shape ``[]``."""
        return (self.task.losses(answers, targets) * asked).sum() / steps


class Curriculum(Callback):
    """Makes episodes longer by one whenever an episode's error is below the threshold.

    Reported with the logs: ``train/length``, the pattern worked at, and ``train/solved``, the
    longest pattern solved.

    Args:
        loss: Key of the loss in the state.
        threshold: Of the error, in the task's unit: bits for each bit of the answer.
        longest: Pattern after which the run ends; ``None`` for no end.

    Attributes:
        length: Of the next episode.
        solved: The longest pattern solved, 0 for none.
    """

    reads = ("step", "data")
    writes = ("record/curriculum",)

    def __init__(self, loss: str, *, threshold: float = 0.15, longest: int | None = None) -> None:
        self.loss, self.threshold, self.longest = loss, threshold, longest
        self.length, self.solved = Length(), 0
        self._episodes: Episodes | None = None
        self._place: Place | None = None
        self._loss, self._asked = 0.0, 0.0

    def on_fit_begin(self, trainer: Trainer, phase: Phase) -> None:
        """Let the data go on where the run was.

        Raises:
            ConfigError: It is not `Episodes`.
        """
        data = trainer.data[phase.split]
        if not isinstance(data, Episodes):
            raise ConfigError(
                "`Curriculum` sets the length of `tasks.copy.stream.Episodes`, and the data "
                f"{phase.split!r} is a `{type(data).__name__}`."
            )
        data.length = self.length
        if self._place is not None:
            data.place, self._place = self._place, None
        self._episodes = data

    def on_step_end(self, trainer: Trainer, phase: Phase) -> None:
        """Sum the errors of an episode; at its end see whether it is solved."""
        if not phase.training or self._episodes is None:
            return
        state, task = trainer.step, self._episodes.task
        self._loss += state[self.loss].item() * state["steps"]
        self._asked += state["asked"].sum().item()
        if not state["done"]:
            return
        if task.error(self._loss / self._asked) < self.threshold:
            self.solved, self.length = self.length.pattern, task.longer(self.length)
            self._episodes.length = self.length
        self._loss, self._asked = 0.0, 0.0
        if self.longest is not None and self.length.pattern > self.longest:
            trainer.cancel(f"patterns up to {self.longest} are solved")

    def on_log(self, trainer: Trainer, phase: Phase) -> None:
        """Report the lengths."""
        trainer.record.scalar("train/length", self.length.pattern)
        trainer.record.scalar("train/solved", self.solved)

    def state_dict(self) -> dict[str, Any]:
        """The length worked at, the longest solved, the episode under way and where it began."""
        place = self._place
        if place is None and self._episodes is not None:
            place = self._episodes.place
        return {
            "length": asdict(self.length),
            "solved": self.solved,
            "place": None if place is None else place.saved(),
            "under_way": [self._loss, self._asked],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.length, self.solved = Length(**state["length"]), state["solved"]
        self._place = None if state["place"] is None else Place.loaded(state["place"])
        self._loss, self._asked = state["under_way"]


class Lengths(Evaluator):
    """The error at each length, ``steps_<steps of its episodes>``, and ``solved`` by `Curriculum`.

    Args:
        loss: Key of the loss in the state.
        task: Name of the task.
    """

    def __init__(self, loss: str, *, task: str = "copy") -> None:
        self.reads, self.task = (loss, "inputs"), find_task(task)

    def begin(self, trainer: Trainer) -> None:
        """Forget the last evaluation."""
        self._errors: dict[str, float] = {}

    def update(self, trainer: Trainer, state: State) -> None:
        """Note the error of an episode, in the task's unit."""
        loss, inputs = (state[key] for key in self.reads)
        self._errors[f"steps_{len(inputs)}"] = self.task.error(loss.item())

    def result(self, trainer: Trainer) -> dict[str, float]:
        """The errors, and the longest pattern solved in training."""
        curriculum: Curriculum | None = trainer.callbacks.find(Curriculum)
        solved = {} if curriculum is None else {"solved": curriculum.solved}
        return {**solved, **self._errors}
