"""The moving average: exact, resumed, used in validation and never left in the network's place."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from small_task import DNI, make

from dni.errors import ConfigError
from dni.trainer.callbacks import EMA, Metrics
from dni.trainer.cli import main
from dni.trainer.events import Callback


class Path(Callback):
    """Copies of all parameters and buffers after every step."""

    def __init__(self) -> None:
        self.all: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, trainer: Any, phase: Any) -> None:
        if phase.training:
            state = trainer.networks["net"].state_dict()
            self.all.append({name: value.clone() for name, value in state.items()})


def test_it_averages_parameters_and_copies_buffers() -> None:
    ema, path = EMA(0.8), Path()
    make(ema, path).fit()
    expected = {name: value.double() for name, value in path.all[0].items()}
    for state in path.all[1:]:
        for name, value in state.items():
            expected[name] = 0.8 * expected[name] + 0.2 * value.double()
    found = ema.state_dict()["net"]["average"]
    for name, value in found.items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(value, path.all[-1][name])
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [None, DNI], ids=["backprop", "dni"])
@pytest.mark.parametrize("stop", [3, 5, 8])
def test_it_resumes_bit_for_bit(stop: int, optimizer: dict[str, Any] | None) -> None:
    options = {} if optimizer is None else {"optimizer": optimizer}
    whole = make(a := EMA(0.9), **options)
    whole.fit()
    first = make(EMA(0.9), max_steps=stop, **options)
    first.fit()
    rest = make(b := EMA(0.9), **options)
    rest.load_state_dict(first.state_dict())
    rest.fit()
    ours, theirs = b.state_dict()["net"], a.state_dict()["net"]
    assert ours["count"] == theirs["count"] == 15
    for name, value in theirs["average"].items():
        assert torch.equal(ours["average"][name], value), name


def test_validation_uses_the_average_and_training_does_not_notice() -> None:
    plain = make(Metrics(), Path())
    plain.fit()
    trainer = make(Metrics(), ema := EMA(0.5))
    trainer.fit()
    for ours, theirs in zip(
        trainer.networks["net"].state_dict().values(),
        plain.networks["net"].state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    found = trainer.record.value("validation/loss/classify/ce")
    plain.networks["net"].load_state_dict(ema.state_dict()["net"]["average"])
    assert plain.evaluate()["loss/classify/ce"] == pytest.approx(found, rel=1e-6)


def test_an_error_in_validation_leaves_the_parameters_in_their_place() -> None:
    class Fail(Callback):
        def on_step_end(self, trainer: Any, phase: Any) -> None:
            if not phase.training:
                raise RuntimeError("in validation")

    trainer = make(EMA(0.5), path := Path(), Fail())
    with pytest.raises(RuntimeError, match="in validation"):
        trainer.fit()
    for name, value in trainer.networks["net"].state_dict().items():
        assert torch.equal(value, path.all[-1][name])


def test_a_loaded_checkpoint_is_evaluated_by_its_average_without_a_fit() -> None:
    trainer = make(Metrics(), EMA(0.5))
    trainer.fit()
    other = make(Metrics(), EMA(0.5))
    other.load_state_dict(trainer.state_dict())
    assert other.evaluate() == trainer.evaluate()


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="`rate` of the EMA is 1.0"):
        EMA(1.0)
    with pytest.raises(ConfigError, match="network 'nett'.*Did you mean 'net'"):
        make(EMA(networks=["nett"])).fit()


def test_a_finished_run_is_evaluated_by_the_weights_that_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fcn = pathlib.Path(__file__).parents[2] / "tasks" / "mnist" / "configs" / "fcn.yaml"
    more = "ema: {rate: 0.9}\nlog: {tensorboard: false, csv: false}\ntrain: {max_epochs: 2}"
    pathlib.Path("more.yaml").write_text(more)
    assert main(["run", "-n", "demo", "-b", str(fcn), "more.yaml", "-t"]) == 0
    (folder,) = pathlib.Path("runs").iterdir()
    (file,) = (folder / "checkpoints").glob("*.pt")
    ways = [["--resume", str(folder)], ["-b", str(folder / "config.yaml"), "-c", str(file)]]
    told = {}
    for average in ("true", "false"):
        found = []
        for way in ways:
            capsys.readouterr()
            assert main(["run", *way, "--ema/validate", average]) == 0
            lines = capsys.readouterr().out.splitlines()
            found.append(
                [line for line in lines if line.startswith(("# evaluated", "validation/"))]
            )
        assert found[0] == found[1]
        told[average] = found[0]
    assert "moving average of the weights" in told["true"][0]
    assert "weights, not their average" in told["false"][0]
    assert told["true"][1] != told["false"][1]
