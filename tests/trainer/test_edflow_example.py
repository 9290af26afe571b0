"""The example of a class made for edflow, run as its readers would, point by point.

The numbers are those of the list of acceptance points that the trainer was designed by.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dni.trainer.cli import main
from dni.trainer.evaluation import StoredOutputs, evaluations

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "edflow"
CONFIG = str(FOLDER / "config.yaml")
QUIET = ["--log/tensorboard", "false", "--log/progress", "false"]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("edflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        yield folder
        sys.modules.pop("iterator", None)


@pytest.fixture(scope="module")
def run(cwd: Path) -> Path:
    """A run of the example as it is."""
    assert main(["run", "-n", "vae", "-b", CONFIG, "-t", *QUIET]) == 0
    return newest()


def newest() -> Path:
    return max(Path("runs").iterdir(), key=lambda folder: folder.stat().st_ctime_ns)


def logged(run: Path, name: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["scalars"][name] for row in rows if name in row["scalars"]}


def weights(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "checkpoints").iterdir()
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["networks"]["model"]
    return found


def test_point_12_a_step_op_class_logs_at_0_2_4_and_learns(run: Path) -> None:
    steps = [0, 2, 4, 8, 16, 32, 50, 100, 150]
    found = logged(run, "train/log_op/loss_total")
    assert sorted(found) == sorted(logged(run, "validation/log_op/loss_total")) == steps
    assert found[150] < 0.7 * found[0]
    pictures = sorted((run / "images" / "validation" / "log_op" / "image").iterdir())
    assert [int(picture.stem) for picture in pictures] == steps


def test_point_13_the_weight_of_kl_is_ramped_up(cwd: Path) -> None:
    from dni.trainer.build import build_trainer
    from dni.trainer.config import load_config

    quiet = list(zip((key[2:] for key in QUIET[::2]), QUIET[1::2], strict=True))
    trainer = build_trainer(load_config([CONFIG], [*quiet, ("train/max_steps", "81")]))
    trainer.fit()
    losses = trainer.steps["vae"].owner.config["losses"]  # type: ignore[attr-defined]
    assert losses["KL"]["weight"] == pytest.approx(0.01 * (80 - 40) / (120 - 40), rel=0.05)
    assert losses["color_L1"]["weight"] == 1.0


def test_point_14_losses_of_instances_and_of_the_batch(run: Path) -> None:
    mean = logged(run, "validation/worst/mean_L1")
    folder = evaluations(run)[-1]
    each = StoredOutputs(folder).labels["loss_color_L1"]
    assert each.shape == (360,)  # type: ignore[union-attr]
    assert np.mean(each) == pytest.approx(mean[200])  # type: ignore[arg-type]


def test_point_15_outputs_are_reloaded_by_index(run: Path) -> None:
    from dni.trainer.datasets import digits

    folders = evaluations(run)
    assert [folder.name for folder in folders] == [
        f"validation_step-{step:08d}" for step in (44, 88, 132, 176, 200)
    ]
    data_in, data_out = digits("test"), StoredOutputs(folders[-1])
    assert len(data_out) == len(data_in) == 360
    for i in (0, 99, 100, 359):
        expected = data_in[i]["image"].movedim(0, -1).clamp(-1, 1)
        assert np.array_equal(data_out[i]["target"], expected.numpy())
        difference = np.abs(data_out[i]["image"] - data_out[i]["target"]).mean()
        assert difference < 3 * data_out.labels["loss_color_L1"][i]


def test_point_16_callbacks_are_run_again_on_stored_outputs(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import iterator  # type: ignore[import-not-found]

    def never(*args: object) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(iterator.Model, "forward", never)
    moved = Path("moved")
    shutil.copytree(run, moved)
    assert main(["eval", str(moved), "-c", "again:iterator.worst", "iterator:worst"]) == 0
    printed = capsys.readouterr().out
    folder = evaluations(moved)[-1]
    found = json.loads((folder / "results" / "again.json").read_text())
    assert found == json.loads((evaluations(run)[-1] / "results" / "worst.json").read_text())
    assert f"again  mean_L1  {found['mean_L1']:.6g}" in printed
    assert (folder / "results" / "again" / "worst.png").is_file()
    shutil.rmtree(moved)


def test_point_17_p_goes_on_c_fine_tunes_and_r_begins_at_step_0(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [*QUIET, "--log/csv", "false"]
    short = ["-t", "--train/max_steps"]
    assert main(["run", "-n", "whole", "-b", CONFIG, *short, "20", *quick]) == 0
    whole = newest()
    assert main(["run", "-n", "parts", "-b", CONFIG, *short, "10", *quick]) == 0
    parts = newest()
    # -p: the newest run goes on, as if it had never ended; Adam's state with it.
    assert main(["run", "-p", *short, "20", *quick]) == 0
    assert all(torch.equal(weights(parts)[k], v) for k, v in weights(whole).items())
    assert main(["run", "-p", "-n", "whole", "-t"]) == 0
    assert f"# the newest run: {whole}" in capsys.readouterr().out
    # -c: a new run from the weights of a checkpoint.
    (file,) = (whole / "checkpoints").iterdir()
    assert main(["run", "-n", "tuned", "-b", CONFIG, "-c", str(file), *short, "1", *QUIET]) == 0
    tuned = logged(newest(), "train/log_op/loss_color_L1")
    assert tuned[0] < 0.9 * logged(run, "train/log_op/loss_color_L1")[0]
    # -r: a new run from step 0, optimizers as they were.
    assert main(["run", "-n", "again", "-p", str(whole), "-r", *short, "1", *quick]) == 0
    (file,) = (newest() / "checkpoints").iterdir()
    saved = torch.load(file, weights_only=True)
    assert saved["counters"]["step"] == 1
    assert saved["steps"]["vae"]["owner"]["optimizer"]["state"][0]["step"] == 21
    assert newest() not in (whole, parts)
