"""How far a run has come: the length it works at, those it has solved, and its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from episodes import Length, Task


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A length whose batch error fell below the threshold.

    Attributes:
        update: Number of updates made by then.
        pattern: N.
        repeats: R.
        steps: Steps of an episode of that length.
    """

    update: int
    pattern: int
    repeats: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the table says at one time.

    Attributes:
        update: Updates made so far.
        error: Mean error of the batches since the row before, in the task's unit.
        pattern: N of the longest length solved, 0 for none.
        steps: Steps of its episodes, 0 for none.
        cosine: Between synthetic and true gradient; None where there is none.
        seconds: Training time so far.
    """

    update: int
    error: float
    pattern: int
    steps: int
    cosine: float | None
    seconds: float


@dataclass(kw_only=True)
class Progress:
    """How far a run has come; with the learner's state, all it needs to go on.

    Attributes:
        updates: Updates made so far.
        episodes: Episodes learned from.
        seconds: Time that took.
        length: The length it works at.
        errors: Sum of the errors since the last row.
        count: Episodes since then.
        solved: The lengths solved, in order.
        rows: The table.
    """

    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    length: Length = field(default_factory=Length)
    errors: float = 0.0
    count: int = 0
    solved: list[Solved] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def longest(self) -> Solved:
        """The longest length solved; of length 0 when none is."""
        return self.solved[-1] if self.solved else Solved(update=0, pattern=0, repeats=0, steps=0)

    def record(self, task: Task, error: float, updates: int, *, threshold: float) -> bool:
        """Count an episode; below the threshold, its length is solved and the next one begins.

        Args:
            task: Says what the next length is.
            error: The batch's, in the task's unit.
            updates: Updates that the episode took.
            threshold: Of the error.

        Returns:
            Whether the length was solved.
        """
        self.updates += updates
        self.episodes += 1
        self.errors += error
        self.count += 1
        if not error < threshold:
            return False
        now = self.length
        self.solved.append(
            Solved(
                update=self.updates,
                pattern=now.pattern,
                repeats=now.repeats,
                steps=task.steps(now),
            )
        )
        self.length = task.longer(now)
        return True

    def end_row(self, cosine: float | None) -> Row:
        """Add a row to the table and begin the next."""
        longest = self.longest
        row = Row(
            update=self.updates,
            error=self.errors / self.count,
            pattern=longest.pattern,
            steps=longest.steps,
            cosine=cosine,
            seconds=self.seconds,
        )
        self.rows.append(row)
        self.errors, self.count = 0.0, 0
        return row

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """The progress that `state` was called on."""
        parts = {
            "length": Length(**state["length"]),
            "solved": [Solved(**each) for each in state["solved"]],
            "rows": [Row(**each) for each in state["rows"]],
        }
        return cls(**{**state, **parts})


def header(task: Task) -> str:
    """The line above the table."""
    columns = ["updates", "pattern solved", "episode length", f"{task.unit} now", "cosine"]
    return "  ".join([*columns, "seconds"])


def line(row: Row, task: Task) -> str:
    """A row under `header`."""
    cosine = "" if row.cosine is None else f"{row.cosine:.2f}"
    error = f"{row.error:{len(task.unit) + 4}.3f}"
    cells = [f"{row.update:7d}", f"{row.pattern:14d}", f"{row.steps:14d}", error, f"{cosine:>6}"]
    return "  ".join([*cells, f"{row.seconds:7.1f}"])
