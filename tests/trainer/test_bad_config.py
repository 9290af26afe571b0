"""What a config gets wrong about objects is told before anything runs, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni.trainer.cli import main

FCN = Path(__file__).parents[2] / "tasks" / "mnist" / "configs" / "fcn.yaml"
LOSS = "{type: l2, input: twice, target: logits}"


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("networks/net/hiden", "[3]", ["networks/net/hiden", "Did you mean 'hidden'?"]),
        ("networks/net/hidden", "[-3]", ["networks/net", "positive integers"]),
        ("networks/net", "fnc", ["There is no network 'fnc'", "'fcn'"]),
        ("networks/net", "no_such.Net", ["networks/net", "no module 'no_such'"]),
        ("networks/net", "builtins.dict", ["made a dict"]),
        ("data/train/type", "digts", ["data/train", "Did you mean 'digits'?"]),
        ("data/train/splt", "x", ["data/train", "Did you mean 'split'?"]),
        ("data/train/split", "tran", ["data/train", "Did you mean 'train'?"]),
        ("optimizer/type", "adamm", ["optimizer", "Did you mean 'adam'?"]),
        ("optimizer/lr", "high", ["optimizer", "`lr` is 'high'; a number is needed"]),
        ("optimizer", "{type: dni, optim: {type: sgd, lr: high}}", ["`lr` is 'high'"]),
        ("optimizer", "{type: dni, lr: 1}", ["has no argument 'lr'", "`optim: {", "`grad_lr`"]),
        ("optimizer", "{type: sgd, momentum: high}", ["Check the arguments", "such as 1e-3"]),
        ("optimizer", "{type: sgd, scheduler: StepLR}", ["`scheduler` is 'StepLR'", "{type: "]),
        ("optimizer", "{type: sgd, scheduler: {typ: StepLR}}", ["a mapping with the `type`"]),
        (
            "optimizer",
            "{type: sgd, scheduler: {type: StepLR, stepsize: 3}}",
            ["no argument 'stepsize'", "Did you mean 'step_size'?"],
        ),
        (
            "optimizer",
            "{type: sgd, scheduler: {type: ReduceLROnPlateau}}",
            ["optimizer: The LR scheduler 'ReduceLROnPlateau'", "the schedule `plateau`"],
        ),
        (
            "schedules/optimizer/classify/lr",
            "{type: plateau, start_value: 1, monitor: validation/loss/clasify/ce}",
            ["schedule 'optimizer/classify/lr'", "Did you mean 'validation/loss/classify/ce'?"],
        ),
        (
            "schedules/optimizer/classify/lr",
            "{type: plateau, start_value: 1, monitor: validation/accuracy, patience: -2}",
            ["schedules/optimizer/classify/lr: `patience` is -2"],
        ),
        (
            "steps/classify/losses/ce/weight",
            "{type: plateau, start_value: 1, monitor: validation/accuracy}",
            ["ce/weight", "only in the block `schedules`"],
        ),
        (
            "callbacks",
            "[{type: early_stopping, monitor: validation/loss/clasify/ce}]",
            ["`EarlyStopping`", "no validation will report", "'validation/loss/classify/ce'?"],
        ),
        ("batches_per_step", "0", ["batches_per_step: it is 0", "greater than or equal to 1"]),
        ("optimizer/lrr", "1", ["optimizer", "Did you mean 'lr'?"]),
        ("optimizer", "{type: dni, lamda: 1}", ["optimizer", "Did you mean 'lambda'?"]),
        ("optimizer", "null", ["steps/classify", "no optimizer"]),
        ("steps/classify/training", "nt", ["Did you mean 'net'?"]),
        ("steps/classify/losses/ce/type", "cros_entropy", ["'cross_entropy'"]),
        ("steps/classify/losses/ce/targt", "x", ["ce/targt", "Did you mean 'target'?"]),
        ("steps/classify/losses/ce/wieght", "2", ["ce/wieght", "Did you mean 'weight'?"]),
        ("steps/classify/losses/ce/target", "labl", ["reads 'labl'", "Did you mean 'label'?"]),
        ("steps/classify/losses", "{ce: null}", ["steps/classify", "no loss"]),
        ("steps/classify/losses/ce", "{type: l2, input: logits}", ["ce", "`target` is missing"]),
        ("steps/classify/injectors/forward/type", "cal", ["'call'"]),
        ("steps/classify/injectors/forward/netwrk", "n", ["Did you mean 'network'?"]),
        ("steps/classify/injectors/forward/network", "nt", ["Did you mean 'net'?"]),
        ("steps/classify/injectors/forward/network", "null", ["`network`"]),
        ("steps/classify/injectors/forward/in", "imag", ["reads 'imag'", "'image'"]),
        ("steps/classify/injectors/forward/out", "label", ["writes 'label'", "the data"]),
        (
            "steps/again",
            "{injectors: {f: {type: call, network: net, in: image, out: logits}}}",
            ["writes 'logits'", "injector 'forward' of step 'classify'", "overwrite: true"],
        ),
        ("metrics/accuracy/type", "acuracy", ["metrics", "'accuracy'"]),
        ("metrics/accuracy/target", "labl", ["metrics/accuracy/target", "'label'"]),
        ("optimizer", "{type: dni, context: labl}", ["optimizer/context", "'labl'", "'label'"]),
        ("optimizer", "{type: dni, dni_network: no_such.Net}", ["synthesizer 'no_such.Net'"]),
        (
            "steps/again",
            "{training: net, optimizer: dni, injectors: {f: {type: call, network: net, in: image}},"
            " losses: {ce: {type: cross_entropy, input: f, target: label}}}",
            ["step 'again' trains the network 'net'", "interfaces of step 'classify'", "one step"],
        ),
        ("checkpoint/keep_last", "0", ["checkpoint/keep_last", "greater than or equal to 1"]),
        ("checkpoint/keep_best", "-1", ["checkpoint/keep_best", "greater than or equal to 0"]),
        ("callbacks", "[early_stoping]", ["callbacks/0", "'early_stopping'"]),
        ("callbacks", "[{type: early_stopping, monitr: x}]", ["monitr", "Did you mean 'monitor'?"]),
        ("callbacks", "[early_stopping]", ["callbacks/0", "`monitor` is missing"]),
        ("schedules/optimizer/clasify/lr", "0.1", ["schedules/optimizer/clasify", "'classify'"]),
        ("schedules/optimizer/classify/lr", "{rmp: [0, 1]}", ["schedules/optimizer/c", "'ramp'"]),
        ("schedules/optimizer/classify/lr", "{ramp: [9, 0, 1, 1]}", ["schedules/o", "ends at 1"]),
        ("schedules/nothing", "3", ["the trainer has no 'nothing'"]),
        ("steps/classify/losses/ce/weight", "{ramp: [9, 0, 1, 1]}", ["ce/weight", "ends at 1"]),
        ("steps/classify/losses/ce", "{after: 9, before: 1}", ["ce/before", "`after` is 9"]),
        ("steps/classify", "{after: 9, before: 1}", ["classify/before", "`after` is 9"]),
        ("steps/classify/requires", "logit", ["requires", "Did you mean 'logits'?"]),
        ("steps/classify/keep", "logit", ["classify/keep", "Did you mean 'logits'?"]),
        ("steps/classify/step_outputs", "logit", ["step_outputs", "Did you mean 'logits'?"]),
        ("steps/classify/training", "[]", ["no step trains a network"]),
        ("steps/classify/type", "no_such.step", ["steps/classify", "no module 'no_such'"]),
        ("steps/classify/type", "torch.Tensr", ["'torch' has no 'Tensr'", "'Tensor'"]),
        ("metrics/accuracy", "{type: accuracy}", ["metrics/accuracy", "`input` is missing"]),
        ("evaluators", "{e: builtins.dict}", ["evaluators/e: 'builtins.dict' made a dict"]),
        ("callbacks", "[builtins.dict]", ["callbacks/0", "a `Callback` is needed"]),
        ("data", "{train: null, validation: null}", ["data: it is empty"]),
        ("seed", str(10**30), ["seed", "less than"]),
        ("run/name", "a/b", ["run/name", "'a/b'", "name of a folder"]),
        ("run/name", '"a\\nb"', ["run/name", "name of a folder"]),
        ("run/name", "a" * 300, ["folder cannot be made", "File name too long", "`run/name`"]),
        ("run/root", "/dev/null", ["folder cannot be made in /dev/null", "`run/root`"]),
        ("device", "cuda:99", ["'cuda:99' is not there", "auto"]),
    ],
)
def test_it_is_told_in_one_line(path, value, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-t", f"--{path}", value, "--log/tensorboard", "false"]
    if path == "steps/again" and "optimizer: dni" in value:
        words += ["--optimizer", "dni"]
    assert main(["run", "-b", str(FCN), *words]) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told
    assert "Traceback" not in told


def test_a_wrong_checkpoint_monitor_is_told_with_the_right_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-t", "--checkpoint/monitor", "validation/acuracy", "--log/tensorboard", "false"]
    assert main(["run", "-b", str(FCN), *words, "--train/max_epochs", "1"]) == 2
    told = capsys.readouterr().err
    assert "Did you mean 'validation/accuracy'?" in told
    assert "Traceback" not in told
    # Nothing is lost: the run goes on from there with the right name.
    (saved,) = Path("runs").glob("*/checkpoints/*.pt")
    right = ["--checkpoint/monitor", "validation/accuracy"]
    assert main(["run", "--resume", str(saved), "-t", *right]) == 0


@pytest.mark.parametrize("fault", ["def f(:", "1 / 0", "import no_such_module"])
def test_a_file_that_cannot_be_imported_is_told(fault, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"faulty_{abs(hash(fault))}"
    (tmp_path / f"{name}.py").write_text(fault)
    assert main(["run", "-b", str(FCN), "-t", "--networks/net", f"{name}.Net"]) == 2
    told = capsys.readouterr().err
    assert f"networks/net: The network '{name}.Net'" in told
    assert "Traceback" not in told


INTERRUPT = """
import signal
from dni.trainer import Callback

class Interrupt(Callback):
    def __init__(self, times):
        self.times = times

    def on_backward_end(self, trainer, phase):
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("times", "told"),
    [(1, "go on with: dni run --resume"), (2, "nothing is saved: there was no update yet")],
)
def test_ctrl_c_in_the_first_batch_says_how_to_go_on(times, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "interrupting.py").write_text(INTERRUPT)
    words = ["-t", "--callbacks", f"[{{type: interrupting.Interrupt, times: {times}}}]"]
    assert main(["run", "-b", str(FCN), *words, "--log/tensorboard", "false"]) == 130
    assert told in capsys.readouterr().err
    assert len(list(Path("runs").glob("*/checkpoints/*.pt"))) == 2 - times


def test_what_a_worker_raises_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text(
        "class Images(list):\n"
        "    def __init__(self): super().__init__(range(100))\n"
        "    def __getitem__(self, index): raise ValueError('no image 7')\n"
    )
    words = ["-t", "--data/train", "{type: broken.Images, workers: 1, keys: [image]}"]
    assert main(["run", "-b", str(FCN), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("data/train: it could not be made: ValueError: no image 7.")
