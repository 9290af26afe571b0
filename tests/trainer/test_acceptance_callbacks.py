"""The points of the acceptance list that are about callbacks, in the words of its users."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_task import classify, make, tensors

from dni.errors import ConfigError
from dni.trainer import checkpoint
from dni.trainer.callbacks import Checkpointing, ImageDump, Metrics, SanityCheck, Traces
from dni.trainer.data import Source
from dni.trainer.events import Callback
from dni.trainer.steps import Step


def test_point_07_a_png_of_a_state_key_every_n_steps(tmp_path: Path) -> None:
    class Paint(Callback):
        writes = ("step/picture",)

        def on_step_begin(self, trainer: Any, phase: Any) -> None:
            value = trainer.counters.step / 15
            trainer.step["picture"] = torch.full((4, 3, 5, 6), value)

    trainer = make(ImageDump(["picture"], every=5, columns=2), Paint(), folder=tmp_path)
    trainer.fit()
    files = sorted((tmp_path / "images" / "picture").iterdir())
    assert [file.name for file in files] == ["0000000.png", "0000005.png", "0000010.png"]
    for file, value in zip(files, (0, 85, 170), strict=True):
        picture = Image.open(file)
        assert picture.size == (2 * 6 + 1, 2 * 5 + 1)
        assert picture.getpixel((0, 0)) == (value,) * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_point_18_ctrl_c_leaves_a_checkpoint_that_loads(tmp_path: Path, number: int) -> None:
    class Press(Callback):
        def on_backward_end(self, trainer: Any, phase: Any) -> None:
            if trainer.counters.step == 6:
                os.kill(os.getpid(), number)

    whole = make(Metrics())
    whole.fit()
    trainer = make(Metrics(), Checkpointing(), Press(), folder=tmp_path)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        trainer.fit()
    rest = make(Metrics())
    rest.load(checkpoint.latest(tmp_path / "checkpoints"))
    assert rest.counters.step == 7
    rest.fit()
    for ours, theirs in zip(
        rest.networks["net"].parameters(), whole.networks["net"].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert rest.record.latest == whole.record.latest


def test_point_26_the_best_k_and_the_newest_are_kept(tmp_path: Path) -> None:
    losses = [3.0, 1.0, 2.0, 5.0, 4.0]

    class Loss(Callback):
        writes = ("record/mine",)

        def on_validate_end(self, trainer: Any, phase: Any) -> None:
            trainer.record.scalar("validation/mine", losses[trainer.counters.epoch])

    policy = Checkpointing(keep_best=2, monitor="validation/mine", mode="min")
    make(Loss(), policy, folder=tmp_path, max_epochs=5).fit()
    kept = {file.name for file in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"step-00000010_1.0.pt", "step-00000015_2.0.pt", "step-00000025_4.0.pt"}


def test_point_27_the_messages_of_the_sanity_check() -> None:
    trainer = make(SanityCheck())
    del trainer.data["train"]
    with pytest.raises(ConfigError, match="There is no training data"):
        trainer.fit()

    trainer = make(SanityCheck())
    trainer.data["train"] = Source([torch.zeros(2, 6)] * 4, keys=["image", "label"])
    with pytest.raises(ConfigError, match="The data 'train' gives no batch"):
        trainer.fit()

    trainer = make(SanityCheck())
    wrong = torch.nn.Linear(5, 2)
    trainer.networks["net"], trainer.steps["classify"] = wrong, classify(wrong)
    with pytest.raises(ConfigError, match="does not go through the step 'classify'"):
        trainer.fit()

    trainer = make(SanityCheck())
    trainer.steps = {"look": Step("look")}
    with pytest.raises(ConfigError, match="Nothing steps an optimizer"):
        trainer.fit()

    trainer = make(SanityCheck())
    data = tensors(40, 2).tensors
    trainer.data["train"].dataset.tensors = {"image": data["image"]}
    with pytest.raises(ConfigError, match="loss 'ce' reads 'label'"):
        trainer.fit()


def test_point_28_traces_of_any_function_of_the_state() -> None:
    def cosine(trainer: Any) -> torch.Tensor:
        one, two = (network_gradient(trainer, name) for name in ("0", "4"))
        size = min(len(one), len(two))
        return torch.cosine_similarity(one[:size], two[:size], dim=0)

    def network_gradient(trainer: Any, name: str) -> torch.Tensor:
        return trainer.networks["net"].get_submodule(name).weight.grad.flatten()

    trainer = make(Traces({"cosine": cosine}, when=2), log=2)
    trainer.fit()
    points = trainer.shared["traces"]["cosine"]
    assert [step for step, _ in points] == list(range(0, 15, 2))
    assert all(-1 <= value <= 1 for _, value in points)
    assert trainer.record.value("trace/cosine") == points[-1][1]
