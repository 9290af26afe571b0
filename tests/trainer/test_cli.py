"""The command: training, evaluating, going on, fine-tuning, its exit codes and its help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dni.trainer.cli import main, split_overrides

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tasks" / "mnist" / "configs"
FCN, CONV, DNI = (str(CONFIGS / f"{name}.yaml") for name in ("fcn", "conv", "dni"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def train(*words, name="demo", base=(FCN,), epochs=2, code=0):
    quick = ["--train/max_epochs", str(epochs), "--log/tensorboard", "false"]
    given = ["run", "-n", name, "-b", *base, "-t", *quick, *words]
    assert main(given) == code
    return sorted(Path("runs").glob(f"*_{name}*"))[-1]


def accuracy(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = [
        row["scalars"]["validation/accuracy"]
        for row in rows
        if row["scalars"].keys() >= {"validation/accuracy"}
    ]
    return 100 * found[-1]


class TestTraining:
    def test_writes_everything_into_the_run(self, capsys):
        folder = train("--log/tensorboard", "true")
        names = {path.name for path in folder.iterdir()}
        assert {
            "config.yaml",
            "log.csv",
            "log.jsonl",
            "log.txt",
            "checkpoints",
            "curves.png",
            "tensorboard",
        } <= names
        printed = capsys.readouterr().out
        assert (folder / "config.yaml").read_text() in printed
        assert "validation/accuracy" in printed

    def test_by_dni_as_well_as_by_backprop(self):
        folders = [
            train(base=base, name=name, epochs=30)
            for base, name in (((FCN,), "backprop"), ((FCN, DNI), "dni"))
        ]
        one, two = map(accuracy, folders)
        assert one > 96
        assert two > one - 0.5
        assert (folders[1] / "dni_classify.png").exists()

    def test_a_convolutional_network_by_dni(self):
        folder = train("--networks/net/filters", "[4, 4]", base=(CONV, DNI), epochs=1)
        assert (folder / "dni_classify.png").exists()

    def test_overrides_reach_the_run(self):
        folder = train("--seed=5", "--optimizer/lr", "1e-4", "--train/max_steps", "3")
        text = (folder / "config.yaml").read_text()
        assert "seed: 5" in text
        assert "lr: 0.0001" in text

    def test_debug_is_short_and_elsewhere(self):
        assert main(["run", "-n", "d", "-b", FCN, "-t", "--debug"]) == 0
        (folder,) = Path("runs/debug").iterdir()
        assert "max_steps: 10" in (folder / "config.yaml").read_text()

    def test_a_user_network_in_the_current_folder(self):
        Path("mine.py").write_text(
            "from torch import nn\n"
            "def small(units):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.Linear(units, 10))\n"
        )
        Path("net.yaml").write_text("networks: {net: {type: mine.small, units: 4}}")
        train(base=(FCN, "net.yaml"), epochs=1)


class TestEvaluating:
    def test_a_run(self, capsys):
        folder = train()
        capsys.readouterr()
        assert main(["run", "--resume", str(folder)]) == 0
        values = json.loads((folder / "evaluation_validation.json").read_text())
        assert 100 * values["accuracy"] == pytest.approx(accuracy(folder))
        assert "validation/accuracy" in capsys.readouterr().out

    def test_untrained_networks_writes_nothing(self, capsys):
        assert main(["run", "-b", FCN]) == 0
        assert "not trained" in capsys.readouterr().err
        assert not Path("runs").exists()

    def test_another_split(self, capsys):
        assert main(["run", "-b", FCN, "--split", "train"]) == 0
        assert "train/accuracy" in capsys.readouterr().out


class TestGoingOn:
    def test_as_if_never_interrupted(self):
        whole = train(epochs=3, name="whole")
        parts = train(epochs=2, name="parts")
        assert main(["run", "--resume", str(parts), "-t", "--train/max_epochs", "3"]) == 0
        states = []
        for folder in (whole, parts):
            newest = sorted((folder / "checkpoints").iterdir())[-1]
            states.append(torch.load(newest, weights_only=True)["networks"]["net"])
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert "max_epochs: 2" in (parts / "config_1.yaml").read_text()

    def test_with_another_config_lists_the_differences(self, capsys):
        folder = train(epochs=1)
        words = ["run", "--resume", str(folder), "-t", "--optimizer/lr", "0.5", "--seed", "3"]
        assert main(words) == 2
        told = capsys.readouterr().err
        assert "optimizer/lr: 0.001 → 0.5" in told
        assert "seed: 0 → 3" in told

    def test_from_weights_begins_at_step_0(self):
        folder = train(epochs=1)
        (file,) = (folder / "checkpoints").iterdir()
        tuned = train(
            "-c", str(file), "--train/max_steps", "1", "--optimizer/lr", "1e-9", name="tuned"
        )
        (after,) = (tuned / "checkpoints").iterdir()
        before, now = (torch.load(f, weights_only=True) for f in (file, after))
        assert now["counters"]["step"] == 1
        key = "output.weight"
        torch.testing.assert_close(before["networks"]["net"][key], now["networks"]["net"][key])

    def test_weights_of_another_network(self, capsys):
        (file,) = (train(epochs=1) / "checkpoints").iterdir()
        words = ["-c", str(file), "--networks/net/hidden", "[256, 8]"]
        assert main(["run", "-b", FCN, *words]) == 2
        assert "hidden2.0.weight" in capsys.readouterr().err


class TestStoredOutputs:
    """`dni eval`, and what it refuses."""

    KEYS = ("--evaluation/keys", "[logits, label]")

    @pytest.fixture(autouse=True)
    def _functions(self):
        Path("scores.py").write_text(
            "def accuracy(folder, outputs, data, config):\n"
            "    hits = [o['logits'].argmax() == e['label'] for o, e in zip(outputs, data)]\n"
            "    return {'accuracy': sum(hits) / len(outputs), 'seed': config['seed']}\n"
            "def words(folder, outputs, data, config): return 'well'\n"
        )

    def test_an_evaluation_stores_them_and_functions_read_them(self, capsys):
        folder = train(*self.KEYS)
        assert main(["run", "--resume", str(folder), "--evaluation/batch_size", "77"]) == 0
        stored = folder / "evaluation" / "validation_step-00000044"
        assert str(stored) in capsys.readouterr().out
        index = json.loads((stored / "index.json").read_text())
        assert index["checkpoint"].startswith("step-00000044")
        assert main(["eval", str(folder)]) == 0
        assert "logits: <f4 [10]" in capsys.readouterr().out
        for given in (folder, stored):
            assert main(["eval", str(given), "-c", "scores:accuracy"]) == 0
            found = json.loads((stored / "results" / "accuracy.json").read_text())
            assert 100 * found["accuracy"] == pytest.approx(accuracy(folder))
            assert "accuracy  seed" in capsys.readouterr().out

    def test_what_eval_refuses(self, capsys):
        folder = train("--train/max_steps", "1")
        call = ["-c", "scores:accuracy"]
        capsys.readouterr()

        def refused(*words):
            assert main(["eval", str(folder), *words]) == 2
            told = capsys.readouterr().err
            assert told.startswith("dni eval: error: ")
            assert told.count("\n") == 1
            return told

        assert "has no evaluation: `dni run --resume" in refused(*call)
        assert main(["run", "--resume", str(folder), *self.KEYS]) == 0
        capsys.readouterr()
        assert "Did you mean 'validation'" in refused(*call, "--split", "valdation")
        assert "'scores' has no 'acuracy'. Did you mean 'accuracy'" in refused(
            "-c", "scores:acuracy"
        )
        assert "function 'words' returned a str" in refused("-c", "scores:words")
        assert "another data set: it has 360" in refused(*call, "--data/validation/split", "train")
        (stored,) = (folder / "evaluation").iterdir()
        text = (stored / "index.json").read_text().replace("true", "false")
        (stored / "index.json").write_text(text)
        assert "half-written" in refused(*call)

    def test_a_run_that_is_not_there(self, capsys):
        assert main(["eval", "nowhere", "-c", "scores:accuracy"]) == 2
        assert "nowhere is no run" in capsys.readouterr().err
        assert main(["run", "-p", "-t"]) == 2
        assert "no run in runs/" in capsys.readouterr().err
        begun = train("--train/max_steps", "1")
        # A run without checkpoint, an evaluation for one, is none to go on with.
        assert main(["run", "-n", "later", "-b", FCN]) == 0
        assert main(["run", "-p"]) == 0
        assert f"# the newest run: {begun}\n" in capsys.readouterr().out
        assert main(["run", "-p", "-n", "other", "-t"]) == 2
        assert "no run of the name 'other'" in capsys.readouterr().err
        assert main(["run", "-b", FCN, "-r", "-t"]) == 2
        assert "say which with --resume or -c" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint_and_has_its_code(number, code):
    command = [
        sys.executable,
        "-m",
        "dni.trainer.cli",
        "run",
        "-n",
        "s",
        "-b",
        FCN,
        "-t",
        "--train/max_epochs",
        "100000",
        "--log/tensorboard",
        "false",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not list(Path().glob("runs/*/checkpoints/*.pt")):
            time.sleep(0.1)
        process.send_signal(number)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == code
    assert "Traceback" not in told
    assert "--resume" in told
    (folder,) = Path("runs").iterdir()
    assert main(["run", "--resume", str(folder)]) == 0


class TestFailures:
    def test_a_loss_that_is_not_finite(self, capsys):
        train("--optimizer/lr", "1e30", code=1)
        assert "not finite" in capsys.readouterr().err

    def test_an_error_in_the_network_has_one_line(self, capsys):
        Path("broken.py").write_text(
            "from torch import nn\n"
            "class Net(nn.Linear):\n"
            "    def __init__(self): super().__init__(64, 10)\n"
            "    def forward(self, x):\n"
            "        if self.training: raise ZeroDivisionError('oh no')\n"
            "        return super().forward(x.flatten(1))\n"
        )
        train("--networks/net", "{type: broken.Net}", code=1)
        told = capsys.readouterr().err
        assert "ZeroDivisionError: oh no" in told
        assert "broken.py:5" in told
        assert "Traceback" not in told

    def test_debug_shows_the_trace(self, capsys):
        assert main(["run", "-b", "nowhere.yaml", "--debug"]) == 2
        assert "Traceback" in capsys.readouterr().err

    def test_a_folder_that_cannot_be_written(self, capsys):
        Path("file").write_text("")
        assert main(["run", "-b", FCN, "-t", "--run/root", "file"]) == 2
        told = capsys.readouterr().err
        assert "cannot be made in file: File exists" in told
        assert "`run/root`" in told
        assert "Traceback" not in told


class TestTheRest:
    def test_list_shows_what_there_is(self, capsys):
        assert main(["list"]) == 0
        listed = capsys.readouterr().out
        for name in (
            "fcn(image",
            "digits(",
            "call(network",
            "cross_entropy(input",
            "dni(",
            "adamw(lr=",
            "onecycle(max",
            "accuracy(",
            "early_stopping(monitor",
        ):
            assert name in listed

    def test_list_of_one_kind(self, capsys):
        assert main(["list", "networks"]) == 0
        assert "cross_entropy" not in capsys.readouterr().out

    def test_doctor_tells_versions(self, capsys):
        assert main(["doctor"]) == 0
        assert torch.__version__ in capsys.readouterr().out

    def test_help_teaches(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["run", "--help"])
        told = capsys.readouterr().out
        assert ended.value.code == 0
        for part in ("dni run -n demo -b base.yaml -t", "--key/path", "oc.env", "130", "143"):
            assert part in told

    @pytest.mark.parametrize("words", [[], ["runn"], ["run"], ["run", "-b"], ["list", "x"]])
    def test_bad_usage_is_code_2(self, words, capsys):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith("dni")

    def test_flags_are_not_abbreviated(self):
        others, found = split_overrides(["--check", "x", "--train/a", "-3"], {"--checkpoint"})
        assert (others, found) == ([], [("check", "x"), ("train/a", "-3")])
