"""What is saved, what is kept, and that a run goes on from it bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import DNI, make

from dni.errors import CheckpointError, ConfigError
from dni.trainer import checkpoint
from dni.trainer.callbacks import Checkpointing, Metrics
from dni.trainer.events import Callback


class Scores(Callback):
    writes = ("record/score",)

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_validate_end(self, trainer: Any, phase: Any) -> None:
        trainer.record.scalar("validation/score", self.values[trainer.counters.epoch])


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name[5:13]) for p in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_and_the_newest_are_kept(tmp_path: Path, mode: str) -> None:
    values = [0.5, 0.9, 0.8, 0.1, 0.3, 0.2]
    scores = Scores(values if mode == "max" else [-v for v in values])
    policy = Checkpointing(keep_best=2, keep_last=2, monitor="validation/score", mode=mode)
    make(policy, scores, folder=tmp_path, max_epochs=6).fit()
    assert steps(tmp_path) == [10, 15, 25, 30]


def test_only_networks_as_they_were_validated_have_a_score(tmp_path: Path) -> None:
    policy = Checkpointing(keep_best=9, keep_last=9, monitor="validation/score", mode="max")
    make(policy, Scores([1.0, 2.0]), folder=tmp_path, max_epochs=2, checkpoint_steps=3).fit()
    names = sorted(p.stem for p in (tmp_path / "checkpoints").iterdir())
    assert names == [
        "step-00000003",
        "step-00000005_1.0",
        "step-00000006",
        "step-00000009",
        "step-00000010_2.0",
    ]


def test_without_a_monitor_the_first_loss_of_the_validation_is_the_score(tmp_path: Path) -> None:
    trainer = make(Metrics(), Checkpointing(), folder=tmp_path, max_epochs=1)
    trainer.fit()
    (file,) = (tmp_path / "checkpoints").iterdir()
    value = trainer.record.value("validation/loss/classify/ce")
    assert float(file.stem.partition("_")[2]) == value


def test_a_misspelt_monitor_is_named(tmp_path: Path) -> None:
    trainer = make(Metrics(), Checkpointing(monitor="validation/los"), folder=tmp_path)
    with pytest.raises(ConfigError, match="'validation/los'.*Did you mean 'validation/"):
        trainer.fit()


class Fail(Callback):
    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error = at, error

    def on_step_begin(self, trainer: Any, phase: Any) -> None:
        if phase.training and trainer.counters.step == self.at:
            raise self.error


@pytest.mark.parametrize("optimizer", [None, DNI], ids=["backprop", "dni"])
def test_an_error_loses_nothing(tmp_path: Path, optimizer: Any) -> None:
    options = {} if optimizer is None else {"optimizer": optimizer}
    whole = make(Metrics(), **options)
    whole.fit()
    trainer = make(
        Metrics(), Checkpointing(), Fail(7, RuntimeError("oh")), folder=tmp_path, **options
    )
    with pytest.raises(RuntimeError, match="oh"):
        trainer.fit()
    # Step 7 never came to pass: its batch counts as gone through, so it is done again here.
    state = checkpoint.load(checkpoint.latest(tmp_path / "checkpoints"))
    assert state["counters"]["step"] == 7
    state["counters"]["batch"] = 2
    rest = make(Metrics(), **options)
    rest.load_state_dict(state)
    rest.fit()
    for ours, theirs in zip(
        rest.networks["net"].parameters(), whole.networks["net"].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_errors_may_be_no_reason_but_signals_always_are(tmp_path: Path) -> None:
    policy = Checkpointing(on_exception=False)
    trainer = make(policy, Fail(3, RuntimeError("oh")), folder=tmp_path / "a")
    with pytest.raises(RuntimeError):
        trainer.fit()
    assert not (tmp_path / "a" / "checkpoints").exists()

    class Signal(Callback):
        def on_step_begin(self, trainer: Any, phase: Any) -> None:
            if trainer.counters.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = make(Checkpointing(on_exception=False), Signal(), folder=tmp_path / "b")
    with pytest.raises(SystemExit) as left:
        trainer.fit()
    assert left.value.code == 143
    assert steps(tmp_path / "b") == [4]


def test_what_a_callback_ends_is_saved_once(tmp_path: Path) -> None:
    class End(Callback):
        def on_step_end(self, trainer: Any, phase: Any) -> None:
            if trainer.counters.step == 6:
                trainer.cancel("enough")

    trainer = make(Checkpointing(keep_last=9), End(), folder=tmp_path)
    assert trainer.fit() == "enough"
    assert steps(tmp_path) == [5, 7]


def test_a_full_disk_is_one_sentence_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Callback):
        def on_epoch_begin(self, trainer: Any, phase: Any) -> None:
            if trainer.counters.epoch == 1:
                monkeypatch.setattr(torch, "save", full)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    trainer = make(Checkpointing(), Full(), folder=tmp_path)
    with pytest.raises(CheckpointError, match="could not be written.*No space left"):
        trainer.fit()
    assert steps(tmp_path) == [5]
    assert not caplog.records


def test_arguments_are_checked_at_once() -> None:
    with pytest.raises(CheckpointError, match="keep_last=0"):
        Checkpointing(keep_last=0)
    with pytest.raises(ConfigError, match="`mode` is 'most'"):
        Checkpointing(mode="most")


def test_going_on_from_an_older_one_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    make(Checkpointing(keep_last=3), folder=tmp_path).fit()
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = make(Checkpointing(keep_last=3), folder=tmp_path, max_epochs=2)
    again.load(folder / "step-00000005.pt")
    assert again.fit() == "max_epochs"
    # What is resumed from is what was saved last, though others had more updates.
    assert checkpoint.latest(folder).name == "step-00000010.pt"
    left = {path.name: path.read_bytes() for path in (folder / "left_1").iterdir()}
    del written["step-00000005.pt"]
    assert left == written
    assert "goes on from step 5" in caplog.text
    # And once more, from what was left.
    again = make(Checkpointing(), folder=tmp_path, max_epochs=4)
    again.load(folder / "left_1" / "step-00000015.pt")
    again.fit()
    assert [path.name for path in checkpoint.Checkpoints(folder).newest(9)] == ["step-00000020.pt"]
    assert not (folder / "left_2").exists()
