"""What an evaluation stores for each example, read again by index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from dni.errors import ConfigError
from dni.trainer.data import Source, Tensors
from dni.trainer.evaluation import StoredOutputs, evaluations
from dni.trainer.fingerprint import describe
from dni.trainer.output_writer import OutputWriter

DATA = {"split": "validation", "length": 10, "fingerprint": "x"}


def values(rows: list[int]) -> dict[str, Any]:
    x = torch.tensor(rows)
    return {
        "image": torch.stack([x * 10 + i for i in range(6)], 1).reshape(-1, 2, 3).float(),
        "labels/loss": x.double() / 3,
        "label": x.numpy().astype(np.int16),
        "half": (x / 4).bfloat16(),
        "file": [f"{row}.png" for row in rows],
        "index": [f"number {row}" for row in rows],
    }


def store(folder: Path, order: list[list[int]] | None = None, **data: Any) -> StoredOutputs:
    writer = OutputWriter(folder, data=DATA | data)
    for rows in order or [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]:
        writer.write(rows, values(rows))
    return writer.finish()


@pytest.mark.parametrize(
    "order", [None, [[9, 0, 3], [1, 2, 4], [8, 7, 6, 5]]], ids=["in order", "shuffled"]
)
def test_point_15_row_i_is_example_i(tmp_path: Path, order: list[list[int]] | None) -> None:
    data_out = store(tmp_path / "outputs", order)
    assert len(data_out) == 10
    for i in range(10):
        expected, found = values([i]), data_out[i]
        assert set(found) == set(expected) == set(data_out.keys)
        assert np.array_equal(found["image"], expected["image"][0].numpy())
        assert found["labels/loss"] == i / 3
        assert found["label"] == i
        assert found["label"].dtype == np.int16
        assert found["half"].dtype == np.float32
        assert found["file"] == f"{i}.png"
    assert np.array_equal(data_out.labels["loss"], np.arange(10) / 3)
    assert data_out[-1]["file"] == "9.png"
    with pytest.raises(IndexError, match="10 examples"):
        data_out[10]


def test_point_15_a_moved_folder_is_read_as_before(tmp_path: Path) -> None:
    store(tmp_path / "run" / "evaluation" / "a")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "run")
    assert StoredOutputs(tmp_path / "elsewhere" / "run" / "evaluation" / "a")[7]["label"] == 7


def test_it_is_a_data_set_of_torch(tmp_path: Path) -> None:
    loader = DataLoader(store(tmp_path / "outputs"), batch_size=4, num_workers=0)
    batches = list(loader)
    assert [len(batch["file"]) for batch in batches] == [4, 4, 2]
    assert batches[0]["image"].shape == (4, 2, 3)


def test_files_are_numpys_own(tmp_path: Path) -> None:
    store(tmp_path / "outputs")
    found = np.load(tmp_path / "outputs" / "image.npy")
    assert np.array_equal(found, values(list(range(10)))["image"].numpy())


def test_data_without_a_length_is_stored_as_it_comes(tmp_path: Path) -> None:
    assert len(store(tmp_path / "outputs", length=None)) == 10


class Noisy(Dataset[dict[str, torch.Tensor]]):
    """Samples with a random transform."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(float(index)) + torch.rand(3)}


def test_a_data_set_is_recognised() -> None:
    before = torch.get_rng_state()
    one = describe(Source(Noisy()), "a")
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert describe(Source(Noisy()), "a") == one
    others = [Tensors(x=torch.zeros(40)), Tensors(x=torch.zeros(39)), Tensors(y=torch.zeros(40))]
    prints = {describe(Source(data), "a")["fingerprint"] for data in others}
    assert len(prints | {one["fingerprint"]}) == 4
    assert describe(Source([{"x": 1}]), "a")["length"] == 1


class TestBadInput:
    """One clear sentence each."""

    @pytest.mark.parametrize(
        "value", [torch.zeros(3, 2), torch.tensor(1.0), ["a", "b"], np.ones(5)]
    )
    def test_first_axis_is_not_the_batch(self, tmp_path: Path, value: Any) -> None:
        writer = OutputWriter(tmp_path / "outputs", data=DATA)
        with pytest.raises(ConfigError, match="first axis must be the batch|numbers, or a list"):
            writer.write([0, 1, 2, 3], {"value": value}, by="`eval_op`")

    def test_a_mean_loss_has_its_single_losses_named(self, tmp_path: Path) -> None:
        writer = OutputWriter(tmp_path / "outputs", data=DATA)
        with pytest.raises(ConfigError, match="'instances/classify/ce'"):
            writer.write([0, 1], {"loss/classify/ce": torch.tensor(1.0)})

    def test_half_written(self, tmp_path: Path) -> None:
        writer = OutputWriter(tmp_path / "outputs", data=DATA)
        writer.write([0, 1], values([0, 1]))
        with pytest.raises(ConfigError, match=r"half-written.*dni run --resume RUN"):
            StoredOutputs(tmp_path / "outputs")
        with pytest.raises(ConfigError, match="2 of 10 examples"):
            writer.finish()
        assert len(store(tmp_path / "outputs")) == 10  # and can be written anew

    def test_killed_while_writing(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys, torch\n"
            "from dni.trainer.output_writer import OutputWriter\n"
            "writer = OutputWriter(sys.argv[1], data={'length': 4})\n"
            "writer.write([0, 1], {'x': torch.zeros(2, 3)})\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "outputs")], cwd=root, check=False
        )
        assert done.returncode == -9
        with pytest.raises(ConfigError, match="half-written"):
            StoredOutputs(tmp_path / "outputs")

    def test_another_data_set(self, tmp_path: Path) -> None:
        source = Source(Tensors(x=torch.arange(10)))
        about = describe(source, "validation")
        outputs = store(tmp_path / "outputs", **about)
        outputs.check(source)
        StoredOutputs(tmp_path / "outputs", source)
        for other in (torch.arange(9), torch.arange(1, 11)):
            with pytest.raises(ConfigError, match=r"of another data set: it has 10 examples"):
                StoredOutputs(tmp_path / "outputs", Source(Tensors(x=other)))

    def test_damaged(self, tmp_path: Path) -> None:
        folder = store(tmp_path / "outputs").folder
        whole = (folder / "image.npy").read_bytes()
        (folder / "image.npy").write_bytes(whole[:-4])
        with pytest.raises(ConfigError, match=r"image.npy has \d+ bytes"):
            StoredOutputs(folder)
        (folder / "image.npy").unlink()
        with pytest.raises(ConfigError, match=r"image.npy is missing"):
            StoredOutputs(folder)

    @pytest.mark.parametrize(("text", "match"), [("{", "no JSON"), ('{"version": 7}', "version 7")])
    def test_an_index_that_is_none(self, tmp_path: Path, text: str, match: str) -> None:
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ConfigError, match=match):
            StoredOutputs(tmp_path)

    def test_no_evaluation_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no index.json"):
            StoredOutputs(tmp_path)
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(ConfigError, match="nothing was written"):
            OutputWriter(tmp_path, data=DATA)
        assert (tmp_path / "thesis.tex").exists()

    @pytest.mark.parametrize(
        ("second", "match"),
        [
            ({"y": torch.zeros(2, 3)}, "same keys"),
            ({"x": torch.zeros(2, 4)}, "same type and shape"),
            ({"x": torch.zeros(2, 3, dtype=torch.int64)}, "same type and shape"),
            ({"x": ["a", "b"]}, "as words"),
            ({"x": np.array([object(), 1])}, "numbers, or a list of words"),
        ],
    )
    def test_batches_that_differ(self, tmp_path: Path, second: Any, match: str) -> None:
        writer = OutputWriter(tmp_path / "outputs", data=DATA)
        writer.write([0, 1], {"x": torch.zeros(2, 3)})
        with pytest.raises(ConfigError, match=match):
            writer.write([2, 3], second)

    def test_a_key_that_leads_out_of_the_folder(self, tmp_path: Path) -> None:
        writer = OutputWriter(tmp_path / "outputs", data=DATA)
        with pytest.raises(ConfigError, match="name of a file"):
            writer.write([0], {"../x": torch.zeros(1)})

    def test_a_column_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'image'"):
            store(tmp_path / "outputs").column("imag")


def test_evaluations_of_a_run_are_in_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("validation_step-00000100", "test_step-00000020", "validation_step-00000003"):
        store(tmp_path / "evaluation" / name)
    assert [folder.name[-3:] for folder in evaluations(tmp_path)] == ["003", "020", "100"]
    assert evaluations(tmp_path / "nowhere") == []


def test_ten_thousand_examples_within_300_mib(tmp_path: Path) -> None:
    """An evaluation that stores 470 MiB: what it takes beyond the libraries it needs."""
    script = Path(__file__).parent / "large_evaluation.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    folder = tmp_path / "evaluation" / "validation_step-00000000"
    assert sum(file.stat().st_size for file in folder.rglob("*.npy")) > 450 * 2**20
    assert found["more"] < 100  # torch and the rest alone take near 300
    outputs = StoredOutputs(folder)
    assert len(outputs) == 10_000
    assert outputs[9_876]["image"].max() == 9_876
    shutil.rmtree(folder)
