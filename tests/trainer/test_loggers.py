"""Log files: what goes in comes out, also after a cut, with columns that come late."""

from __future__ import annotations

import copy
import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from small_task import make

from dni.trainer.callbacks import CsvLogger, Metrics, TensorBoard
from dni.trainer.callbacks.csvlog import CsvLog, JsonLog, read_log
from dni.trainer.events import Callback
from dni.trainer.record import Entries
from dni.trainer.trainer import Trainer

REPORTS = [
    (0, 0, {"train/loss": 2.25}),
    (10, 0, {"train/loss": 1 / 3, "lr, of all": 1e-4}),
    (20, 1, {"validation/accuracy": 0.5}),
    (30, 1, {"train/loss": math.nan, "other": -math.inf}),
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_every_number_exactly(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "log.csv")
    for step, epoch, scalars in REPORTS:
        log.write(Entries(scalars), step, epoch)
    found = rows(log.path)
    assert [(int(r["step"]), int(r["epoch"])) for r in found] == [r[:2] for r in REPORTS]
    for row, (_, _, scalars) in zip(found, REPORTS, strict=True):
        values = {k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")}
        assert repr(values) == repr(scalars)


def test_curves_are_read_back(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    for step, epoch, scalars in REPORTS:
        log.write(Entries(scalars), step, epoch)
    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    curves = read_log(log.path)
    assert curves["train/loss"][:2] == [(0, 2.25), (10, 1 / 3)]
    assert math.isnan(curves["train/loss"][2][1])
    assert curves["other"] == [(30, -math.inf)]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl")
    log.write(Entries({"a": 1.0}), 0, 0)
    with log.path.open("a") as file:
        file.write('{"step": 1, "sca')
    assert read_log(log.path) == {"a": [(0, 1.0)]}


@pytest.mark.parametrize("kind", [CsvLog, JsonLog])
@pytest.mark.parametrize("saved", [0, 1, 2, 3])
def test_a_resumed_log_equals_an_uninterrupted_one(
    tmp_path: Path, kind: type[CsvLog] | type[JsonLog], saved: int
) -> None:
    whole, broken = kind(tmp_path / "whole"), kind(tmp_path / "broken")
    for step, epoch, scalars in REPORTS:
        whole.write(Entries(scalars), step, epoch)
    for step, epoch, scalars in REPORTS[:saved]:
        broken.write(Entries(scalars), step, epoch)
    kept = broken.rows
    for step, _, _ in REPORTS[saved:]:
        broken.write(Entries({"lost": 1.0}), step, 0)
    resumed = kind(tmp_path / "broken")
    resumed.keep(kept)
    for step, epoch, scalars in REPORTS[saved:]:
        resumed.write(Entries(scalars), step, epoch)
    assert resumed.rows == whole.rows
    assert resumed.path.read_text() == whole.path.read_text()


@pytest.mark.parametrize("log", [CsvLog, JsonLog])
def test_a_full_disk_is_told_with_the_file(
    log: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at a write, unlike one at opening, does not name its file."""
    made = log(tmp_path / "log")
    made.write(Entries({"loss": 0.5}), 0, 0)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        made.write(Entries({"loss": 0.25}), 1, 0)
    assert error.value.filename == str(tmp_path / "log")


def test_nothing_to_say_writes_nothing(tmp_path: Path) -> None:
    for log in (CsvLog(tmp_path / "a"), JsonLog(tmp_path / "b")):
        log.write(Entries(), 0, 0)
        assert not log.path.exists()
        log.keep(0)


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_the_logs_of_a_resumed_run_are_those_of_an_uninterrupted_one(
    tmp_path: Path, stop: int
) -> None:
    def run(folder: str, *more: Callback, load: Any = None, **options: Any) -> Trainer:
        (tmp_path / folder).mkdir(exist_ok=True)
        trainer = make(Metrics(), CsvLogger(), *more, folder=tmp_path / folder, **options)
        if load is not None:
            trainer.load_state_dict(load)
        trainer.fit()
        return trainer

    class Saved(Callback):
        reads = ("record",)
        state: Any = None

        def on_checkpoint(self, trainer: Any, phase: Any) -> None:
            if trainer.counters.step == stop:
                self.state = copy.deepcopy(trainer.state_dict())

    run("whole")
    # Killed some time after its checkpoint: the log has gone on.
    run("broken", saved := Saved(), checkpoint_steps=stop, max_steps=stop + 4)
    run("broken", load=saved.state)
    for name in ("log.csv", "log.jsonl"):
        expected = (tmp_path / "whole" / name).read_text().splitlines()
        found = (tmp_path / "broken" / name).read_text().splitlines()
        assert found == expected


def test_tensorboard_gets_every_kind(tmp_path: Path) -> None:
    class Report(Callback):
        writes = ("record/all",)

        def on_log(self, trainer: Any, phase: Any) -> None:
            record = trainer.record
            record.scalar("s", trainer.counters.step)
            record.image("i", torch.zeros(1, 4, 4, dtype=torch.uint8))
            record.histogram("h", torch.arange(9))
            record.text("t", "words")
            figure = Figure()
            figure.subplots().plot([1, 2])
            record.figure("f", figure)

        def on_fit_end(self, trainer: Any, phase: Any) -> None:
            trainer.record.scalar("late", 1.0)

    make(TensorBoard(), Report(), folder=tmp_path, log=5, max_epochs=2).fit()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"histograms": 0, "scalars": 0}
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance=everything)
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("s")] == [(0, 0.0), (5, 5.0)]
    assert [e.value for e in events.Scalars("late")] == [1.0]
    assert {"i", "f"} <= set(events.Tags()["images"])
    assert [e.step for e in events.Histograms("h")] == [0, 5]
    assert "t/text_summary" in events.Tags()["tensors"]


def test_a_resumed_run_hides_what_tensorboard_was_told_after_its_checkpoint(
    tmp_path: Path,
) -> None:
    first = make(Metrics(), TensorBoard(), folder=tmp_path, log=1, max_steps=9)
    saved: list[Any] = []

    class Saved(Callback):
        def on_checkpoint(self, trainer: Any, phase: Any) -> None:
            saved.append(copy.deepcopy(trainer.state_dict()))

    first.callbacks.add(Saved())
    first.fit()
    rest = make(Metrics(), TensorBoard(), folder=tmp_path, log=1)
    rest.load_state_dict(saved[0])  # of step 5
    rest.fit()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss/classify/ce")] == list(range(15))


@pytest.mark.parametrize("logger", [CsvLogger, TensorBoard])
def test_without_a_folder_nothing_is_written(logger: Any, tmp_path: Path) -> None:
    trainer = make(Metrics(), logger())
    trainer.fit()
    assert trainer.record.sinks == []


@pytest.mark.parametrize("statement", ["import dni", "import dni.trainer.callbacks"])
def test_optional_libraries_are_imported_only_when_they_are_used(statement: str) -> None:
    optional = ["torchmetrics", "tensorboard", "matplotlib", "torchvision", "tqdm"]
    code = f"import sys; {statement}; print([m for m in {optional} if m in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() in ("[]", "['tqdm']")


def test_what_libraries_warn_of_at_their_import_does_not_leak(tmp_path: Path) -> None:
    code = (
        "from dni.trainer.callbacks.tally import Metric\n"
        "from dni.trainer.callbacks.tensorboard import open_writer\n"
        "Metric('f1', 'torchmetrics.classification.MulticlassF1Score', input='a', target='b', "
        "num_classes=2).tally()\n"
        f"open_writer({str(tmp_path)!r}).close()\n"
    )
    command = [sys.executable, "-W", "always", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert (found.stdout, found.stderr) == ("", "")
