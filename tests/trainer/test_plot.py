"""Pictures of runs."""

from __future__ import annotations

import json

import pytest

from dni.errors import ConfigError
from dni.trainer.cli import main
from dni.trainer.plot import plot_run, read_curves, save_curves


@pytest.fixture
def make_run(tmp_path):
    def make(name="one", **more):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text("seed: 0\n")
        rows = []
        for step in range(4):
            scalars = {"train/loss/s/ce": 1 / (step + 1), "validation/loss/s/ce": 0.5}
            scalars |= {f"dni/s/{site}/cosine": step / 4 for site in ("a.0", "b")}
            rows.append({"step": step, "epoch": 0, "scalars": scalars | more})
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_a_run_has_curves_and_a_heat_map(make_run):
    folder = make_run()
    pictures = plot_run(folder)
    assert [path.name for path in pictures] == ["curves.png", "dni_s.png"]
    assert all(map(is_png, pictures))


def test_several_runs_are_compared(make_run, tmp_path, capsys):
    assert main(["plot", str(make_run("one")), str(make_run("two"))]) == 0
    assert is_png(tmp_path / "comparison.png")
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "comparison.png")


def test_all_there_is_beside_runs_is_passed_over(make_run, tmp_path, capsys):
    make_run("one"), make_run("two")
    (tmp_path / "three").mkdir()
    for _ in range(2):  # the second time there is a comparison.png
        assert main(["plot", *map(str, sorted(tmp_path.iterdir()))]) == 0
    out, err = capsys.readouterr()
    assert out.count("comparison.png") == 2
    assert "passed over" in err
    assert "three is no run" in err
    assert main(["plot", str(tmp_path / "one"), str(tmp_path / "tow")]) == 2
    assert main(["plot", str(tmp_path / "three")]) == 2


def test_where_the_picture_goes(make_run, tmp_path):
    target = tmp_path / "new" / "picture.png"
    assert main(["plot", str(make_run()), "-o", str(target)]) == 0
    assert is_png(target)


def test_values_that_are_not_finite(make_run):
    assert plot_run(make_run(**{"train/accuracy": "nan", "validation/accuracy": "inf"}))


def test_a_log_cut_off_by_a_crash(make_run):
    folder = make_run()
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "sca')
    assert len(read_curves(folder)["train/loss/s/ce"]) == 4


def test_a_folder_without_log_is_told(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("")
    assert plot_run(tmp_path) == []
    with pytest.raises(ConfigError, match=r"no log\.jsonl"):
        save_curves([tmp_path], tmp_path / "x.png")
    assert main(["plot", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_damaged_or_empty_log_is_told(make_run):
    folder = make_run()
    (folder / "log.jsonl").write_text("no json\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_curves(folder)
    (folder / "log.jsonl").write_text("")
    with pytest.raises(ConfigError, match="empty"):
        read_curves(folder)


def test_a_picture_that_cannot_be_written(make_run, tmp_path):
    run = make_run()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_curves([run], tmp_path / "file" / "x.png")
    with pytest.raises(ConfigError, match=r"is a folder; name the picture: .*curves\.png"):
        save_curves([run], tmp_path)
    assert not tmp_path.with_name(tmp_path.name + ".png").exists()
