"""Hands everything a run reports to TensorBoard."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..events import Callback
from ..record import Entries
from ..registry import CALLBACKS

if TYPE_CHECKING:
    from ..phases import Phase
    from ..trainer import Trainer


def open_writer(folder: Path, purge_step: int | None = None) -> Any:
    """A ``SummaryWriter`` of torch; what its libraries warn of when imported is theirs to mend.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise ConfigError(
            "Events for TensorBoard need the package tensorboard: `pip install "
            "'torch-dni[trainer]'`, or say `tensorboard: false` under `log`."
        ) from err
    return SummaryWriter(str(folder), purge_step=purge_step)


@CALLBACKS.register("tensorboard")
class TensorBoard(Callback):
    """Writes scalars, images, figures, histograms and text into the folder of the run.

    Look at them with ``tensorboard --logdir runs``. A resumed run hides what was written after
    its checkpoint.

    Args:
        folder: Where in the folder of the run.
    """

    reads = ("record",)

    def __init__(self, folder: str = "tensorboard") -> None:
        self.folder = folder
        self._writer: Any = None
        self._step: int | None = None

    def on_fit_begin(self, trainer: Trainer, phase: Phase | None) -> None:
        """Open the file."""
        if trainer.run is not None and self._writer is None:
            resumed = trainer.counters.step or None
            self._writer = open_writer(Path(trainer.run.path) / self.folder, resumed)
            trainer.record.sinks.append(self)

    def on_fit_end(self, trainer: Trainer, phase: Phase | None) -> None:
        """Close the file."""
        if self._writer is not None:
            trainer.record.flush(step=trainer.counters.step, epoch=trainer.counters.epoch)
            trainer.record.sinks.remove(self)
            self._writer.close()
            self._writer = None

    def write(self, entries: Entries, step: int, epoch: int) -> None:
        """Write one report."""
        writer = self._writer
        for name, value in entries.scalars.items():
            writer.add_scalar(name, value, step)
        for name, image in entries.images.items():
            writer.add_image(name, image, step)
        for name, figure in entries.figures.items():
            writer.add_figure(name, figure, step, close=False)
        for name, values in entries.histograms.items():
            writer.add_histogram(name, values.float(), step)
        for name, words in entries.text.items():
            writer.add_text(name, words, step)
