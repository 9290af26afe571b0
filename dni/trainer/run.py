"""The folder of a run: what it is called, where things are in it, how a run is found again."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from .checkpoint import latest

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Run:
    """A run on disk, ``<root>/<time>_<name>/``.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def create(
        cls,
        root: str | Path,
        name: str,
        *,
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> Run:
        """Make the folder of a new run; one that exists is never written into.

        Args:
            root: Folder of all runs.
            name: End of the folder's name.
            now: What tells the time.

        Raises:
            ConfigError: The folder cannot be made.

        Example:
            >>> import tempfile
            >>> then = lambda: datetime.datetime(2026, 1, 2, 3, 4, 5)
            >>> root = tempfile.mkdtemp()
            >>> [Run.create(root, "demo", now=then).path.name for _ in range(2)]
            ['2026-01-02T03-04-05_demo', '2026-01-02T03-04-05_demo_2']
        """
        stem = f"{now():%Y-%m-%dT%H-%M-%S}_{name}"
        number = 1
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
            while True:
                path = Path(root) / (stem if number == 1 else f"{stem}_{number}")
                try:
                    path.mkdir()
                except FileExistsError:
                    number += 1
                else:
                    return cls(path)
        except OSError as err:
            raise ConfigError(
                f"The run's folder cannot be made in {root}: {err.strerror}. `run/root` and "
                "`run/name` say where it is, and what it is called."
            ) from err

    @classmethod
    def find(cls, path: str | Path) -> Run:
        """The run that a folder, or a file in it, belongs to.

        Raises:
            ConfigError: There is no run.
        """
        given = Path(path)
        for folder in (given, *given.parents) if given.exists() else ():
            if (folder / CONFIG).is_file():
                return cls(folder)
        what = "has no config.yaml in it" if given.exists() else "does not exist"
        raise ConfigError(
            f"{path} is no run: it {what}. Give the folder of a run, runs/<time>_<name>, or a "
            "checkpoint in it."
        )

    @classmethod
    def newest(cls, root: str | Path, name: str | None = None) -> Run:
        """The run that was begun last, of those that can be gone on with: with a checkpoint.

        Args:
            root: Folder of all runs.
            name: Only runs of this name; ``None``: of any.

        Raises:
            ConfigError: There is none.
        """
        found = [
            folder
            for folder in {file.parents[1] for file in Path(root).glob(f"*/{CHECKPOINTS}/*.pt")}
            if (folder / CONFIG).is_file()
            and (name is None or re.fullmatch(rf".{{19}}_{re.escape(name)}(_\d+)?", folder.name))
        ]
        if not found:
            named = "" if name is None else f" of the name {name!r}"
            raise ConfigError(
                f"There is no run{named} in {root}/ to go on with; begin one with "
                "`dni run -n NAME -b FILE -t`, or give its folder: --resume RUN."
            )
        return cls(max(found, key=_begun))

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / CONFIG

    def checkpoint(self) -> Path:
        """The newest checkpoint.

        Raises:
            CheckpointError: There is none yet.
        """
        try:
            return latest(self.path / CHECKPOINTS)
        except CheckpointError as err:
            raise CheckpointError(
                f"The run {self.path} has no checkpoint yet; begin anew with its config: "
                f"dni run -b {self.config} -t"
            ) from err

    def write_config(self, text: str) -> None:
        """Write the resolved config; one that differs is kept as ``config_1.yaml``, ...

        Raises:
            OSError: It cannot be written.
        """
        if self.config.exists():
            if self.config.read_text(encoding="utf-8") == text:
                return
            number = 1
            while (kept := self.path / f"config_{number}.yaml").exists():
                number += 1
            self.config.rename(kept)
        self.config.write_text(text, encoding="utf-8")


def _begun(folder: Path) -> tuple[str, int, int]:
    """What orders runs: the time in their name, and of those of one second number and config."""
    number = re.search(r"_(\d+)$", folder.name)
    written = (folder / CONFIG).stat().st_mtime_ns
    return folder.name[:19], int(number[1]) if number else 1, written
