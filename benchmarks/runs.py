"""Finished training runs of a benchmark, a JSON line each, so that none is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one row of a benchmark did with one seed."""

    row: str
    """Name of the row."""
    seed: int
    """Seed of the network and of the batches."""
    settings: dict[str, Any]
    """All else that the figures depend on: where it changes, the run is made again."""
    errors: list[float]
    """Test error after each epoch, in percent."""
    seconds: float
    """Time of training, evaluation left out."""
    cosines: dict[str, float]
    """Cosine between synthetic and true gradient, by site."""
    commit: str
    """The working tree it was made in."""
    validation: list[float] = field(default_factory=list)
    """Error on held-out training data after each epoch, in percent, where any was held out."""
    renewed: list[float] = field(default_factory=list)
    """Test error with the statistics of BatchNorm taken anew, where that was measured."""
    renewed_validation: list[float] = field(default_factory=list)
    """Error on held-out training data with them."""
    losses: list[float] = field(default_factory=list)
    """Mean training loss up to each of the errors since the one before, where it is of interest."""


Plan = tuple[str, int, dict[str, Any]]
"""Row, seed and settings of a run."""


def finish(
    plans: Iterable[Plan], path: Path, make: Callable[[Plan], Run], *, others: Sequence[Path] = ()
) -> list[Run]:
    """Read the planned runs that `path` has, make the others and add each as it ends.

    Args:
        plans: What to run, in order.
        path: The file of JSON lines; made where there is none.
        make: Trains.
        others: Further files to read from.

    Returns:
        The runs, in the order of the plans.
    """
    runs = []
    for plan in plans:
        # Read anew each time: another command may have added to the file meanwhile.
        run = next(iter(finished([plan], [*others, path])), None)
        if run is None:
            run = make(plan)
            _append(path, run)
        else:
            print(f"{run.row}, seed {run.seed}: finished before (commit {run.commit})")
        runs.append(run)
    return runs


def finished(plans: Iterable[Plan], paths: Sequence[Path]) -> list[Run]:
    """The planned runs that files of JSON lines have, in the order of the plans.

    Args:
        plans: What is looked for.
        paths: The files; those that do not exist have none.
    """
    runs = (run for path in paths for run in _read(path))
    done = {_key((run.row, run.seed, run.settings)): run for run in runs}
    return [done[_key(plan)] for plan in plans if _key(plan) in done]


def _key(plan: Plan) -> str:
    return json.dumps(plan, sort_keys=True)


def _read(path: Path) -> list[Run]:
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            runs.append(Run(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            # Cut short by a kill, or written by another version: the run is made again.
            continue
    return runs


def _append(path: Path, run: Run) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_cut_short = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * is_cut_short + json.dumps(asdict(run), ensure_ascii=False) + "\n")
