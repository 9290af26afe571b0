"""The bar and the lines: what a terminal and what a file are shown."""

from __future__ import annotations

import io
from typing import Any

import pytest
from small_task import make

from dni.trainer.callbacks import Metrics, Progress
from dni.trainer.callbacks import progress as module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ACCURACY = {"accuracy": {"type": "accuracy", "input": "logits", "target": "label"}}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_file_gets_a_line_for_every_phase_of_an_epoch(reverse: bool) -> None:
    file = io.StringIO()
    callbacks = [Metrics(ACCURACY), Progress(file=file)]
    trainer = make(*(callbacks[::-1] if reverse else callbacks), max_epochs=2)
    trainer.fit()
    lines = file.getvalue().splitlines()
    assert [" ".join(line.split()[:5]) for line in lines] == [
        "epoch 0 step 5 validation",
        "epoch 0 step 5 train",
        "epoch 1 step 10 validation",
        "epoch 1 step 10 train",
    ]
    shown = f"accuracy {trainer.record.value('validation/accuracy'):.4g}"
    assert lines[2].endswith(shown)
    assert "\r" not in file.getvalue()
    assert "classify/ce" in lines[0]
    assert "total" not in file.getvalue()  # of one loss it says nothing new


def test_the_total_of_several_losses_is_shown() -> None:
    values = {"loss/s/a": 1.0, "loss/s/b": 2.0, "loss/s/total": 3.0, "loss/t/a": 4.0}
    assert module._text(values) == "s/a 1  s/b 2  s/total 3  t/a 4"


def test_a_terminal_gets_a_bar_of_every_phase_that_ends_with_it() -> None:
    file = Terminal()
    make(Metrics(ACCURACY), Progress(file=file, seconds=0.0), max_epochs=2).fit()
    shown = file.getvalue()
    for text in ("epoch 0 train", "epoch 1 train", "epoch 0 validation", "5/5", "3/3"):
        assert text in shown
    assert "accuracy" in shown


def test_the_bar_is_redrawn_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    drawn: list[int] = []

    class Bar:
        n = 0

        def __init__(self, **options: Any) -> None:
            assert options["total"] == 5

        def set_postfix_str(self, text: str, refresh: bool) -> None: ...

        def refresh(self) -> None:
            drawn.append(self.n)

        def close(self) -> None: ...

    monkeypatch.setattr("tqdm.tqdm", Bar)
    progress = Progress(file=Terminal(), seconds=10)
    trainer = make(progress, max_epochs=1)
    progress.on_fit_begin(trainer, trainer.phase)
    trainer.batches = 5
    for step in range(40):
        now[0], trainer.batch = float(step), step
        progress.on_step_end(trainer, trainer.phase)
    assert drawn == [1, 11, 21, 31]


def test_an_error_leaves_the_terminal_in_order() -> None:
    file = Terminal()
    progress = Progress(file=file, seconds=0.0)
    trainer = make(Metrics({"x": {"type": "mean", "input": "nothing"}}), progress)
    with pytest.raises(ValueError, match="reads 'nothing'"):
        trainer.fit()
    assert progress._bar is None
