"""Under `strict_callbacks` a callback that touches what it does not declare is an error."""

from __future__ import annotations

from typing import Any

import loops
import pytest
import small_task

from dni.errors import ConfigError
from dni.trainer import callbacks
from dni.trainer.events import Callback
from dni.trainer.registry import CALLBACKS


class Honest(Callback):
    reads, writes = ("step/y", "shared/count"), ("shared/seen",)

    def on_step_end(self, trainer: Any, phase: Any) -> None:
        trainer.shared["seen"] = len(trainer.step.y) + trainer.shared.get("other", 0)
        trainer.shared["seen"] += 1


class Count(Callback):
    writes = ("shared/count",)

    def on_fit_begin(self, trainer: Any, phase: Any) -> None:
        trainer.shared["count"] = 0


def test_who_declares_everything_is_left_alone() -> None:
    trainer = loops.make([Honest(), Count()], strict_callbacks=True)
    trainer.fit()
    assert trainer.shared["seen"] == 5


@pytest.mark.parametrize(
    ("reads", "writes", "message"),
    [
        (("step/y", "shared/count"), (), r"`Honest` writes 'shared/seen'.*add it to its `writes`"),
        (("shared/count",), ("shared/seen",), r"`Honest` reads 'step/y'.*add it to its `reads`"),
    ],
)
def test_who_does_not_is_named(reads: Any, writes: Any, message: str) -> None:
    callback = Honest()
    callback.reads, callback.writes = reads, writes
    with pytest.raises(ConfigError, match=message):
        loops.make([callback, Count()], strict_callbacks=True).fit()
    loops.make([callback, Count()]).fit()


def test_the_shipped_ones_declare_what_they_touch(tmp_path: Any) -> None:
    made = [
        callbacks.Metrics({"accuracy": {"type": "accuracy", "input": "logits", "target": "label"}}),
        callbacks.SanityCheck(),
        callbacks.StopOnNaN(),
        callbacks.EarlyStopping(monitor="validation/accuracy"),
        callbacks.EMA(0.9),
        callbacks.CsvLogger(),
        callbacks.Progress(bar=False),
        callbacks.Checkpointing(),
        callbacks.DNIStatistics(),
        callbacks.Traces({"lr": lambda trainer: 1.0}),
        callbacks.ImageDump(["picture"], every=5, layout="HW"),
        callbacks.TensorBoard(),
        callbacks.Profiler(),
    ]
    assert {CALLBACKS["lr_finder"], *map(type, made)} >= set(CALLBACKS.values())

    class Paint(Callback):
        writes = ("step/picture",)

        def on_step_begin(self, trainer: Any, phase: Any) -> None:
            trainer.step["picture"] = trainer.networks["net"][0].weight[:, None].detach()

    trainer = small_task.make(*made, Paint(), folder=tmp_path, strict_callbacks=True)
    trainer.fit()
    assert trainer.counters.epoch == 3
