"""Configs: merging, overrides, references, the environment, checked values, places of errors."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from dni.errors import ConfigError
from dni.trainer.build import build_trainer
from dni.trainer.config import differences, load_config
from dni.trainer.places import plain
from dni.trainer.reference import config_reference
from dni.trainer.schema import Config

ROOT = Path(__file__).parents[2]
BASE = """\
data: {train: {type: digits, batch_size: 32}}
networks: {net: {type: fcn, image: [1, 8, 8], hidden: [16, 8]}}
optimizer: {type: adamw, lr: 1e-3, weight_decay: 0.1}
steps:
  classify:
    training: net
    injectors: {forward: {type: call, network: net, in: image, out: logits}}
    losses: {ce: {type: cross_entropy, input: logits, target: label}}
"""


@pytest.fixture
def write(tmp_path):
    def write_(text, name="more.yaml"):
        (tmp_path / "base.yaml").write_text(BASE)
        (tmp_path / name).write_text(text)
        return [tmp_path / "base.yaml", tmp_path / name]

    return write_


def message_of(files, *overrides):
    with pytest.raises(ConfigError) as raised:
        load_config(files, overrides)
    return str(raised.value)


class TestMerging:
    def test_deep_and_in_order(self, write):
        files = write("steps: {classify: {losses: {ce: {weight: 2}}}}\nseed: 3")
        config = load_config(files).config
        loss = config.steps["classify"].losses["ce"]
        assert (loss.type, loss.weight, config.seed) == ("cross_entropy", 2, 3)

    def test_a_later_file_wins(self, write):
        files = [*write("seed: 3"), *write("seed: 4", "last.yaml")[1:]]
        assert load_config(files).config.seed == 4

    def test_lists_replace(self, write):
        config = load_config(write("networks: {net: {hidden: [5]}}")).config
        assert config.networks["net"].arguments["hidden"] == [5]

    def test_a_changed_type_replaces_the_mapping(self, write):
        optimizer = load_config(write("optimizer: {type: sgd, lr: 1}")).config.optimizer
        assert optimizer.arguments == {"lr": 1}

    def test_the_same_type_merges(self, write):
        optimizer = load_config(write("optimizer: {type: adamw, lr: 1}")).config.optimizer
        assert optimizer.arguments == {"lr": 1, "weight_decay": 0.1}

    def test_a_bare_name_replaces(self, write):
        optimizer = load_config(write("optimizer: sgd")).config.optimizer
        assert (optimizer.type, optimizer.arguments) == ("sgd", {})

    def test_a_bare_name_may_get_arguments(self, write):
        files = [*write("optimizer: sgd"), *write("optimizer: {lr: 2}", "last.yaml")[1:]]
        optimizer = load_config(files).config.optimizer
        assert (optimizer.type, optimizer.arguments) == ("sgd", {"lr": 2})

    def test_replace_replaces(self, write):
        files = write("optimizer: {__replace__: true, type: adamw}")
        assert load_config(files).config.optimizer.arguments == {}

    def test_null_takes_an_entry_out(self, write):
        files = write("metrics: {accuracy: {type: accuracy, input: logits, target: label}}")
        config = load_config([*files, *write("metrics: {accuracy: null}", "c.yaml")[1:]]).config
        assert config.metrics == {}

    def test_the_dni_config_changes_the_optimizer_alone(self):
        folder = ROOT / "tasks" / "mnist" / "configs"
        for base in ("fcn.yaml", "conv.yaml"):
            one = load_config([folder / base]).resolved
            two = load_config([folder / base, folder / "dni.yaml"]).resolved
            lines = differences(one, two)
            assert lines
            assert {line.partition("/")[0] for line in lines} == {"optimizer"}


class TestOverrides:
    @pytest.mark.parametrize(
        ("path", "text", "read"),
        [
            ("seed", "7", lambda c: c.seed == 7),
            ("optimizer/lr", "1e-4", lambda c: c.optimizer.arguments["lr"] == 1e-4),
            ("optimizer/type", "sgd", lambda c: c.optimizer.arguments["weight_decay"] == 0.1),
            ("optimizer", "{type: sgd}", lambda c: c.optimizer.arguments == {}),
            ("train/max_steps", "5", lambda c: c.train.max_steps == 5),
            ("train/max_epochs", "null", lambda c: c.train.max_epochs is None),
            ("ema/rate", "0.9", lambda c: c.ema.rate == 0.9),
            ("validate/every_steps", "5", lambda c: c.validation.every_steps == 5),
            ("networks/net/hidden/1", "5", lambda c: c.networks["net"].arguments["hidden"][1] == 5),
            ("networks/net/classes", "4", lambda c: c.networks["net"].arguments["classes"] == 4),
            ("steps/classify/losses/ce", "null", lambda c: not c.steps["classify"].losses),
            (
                "steps/classify/losses/kl",
                "{type: direct}",
                lambda c: list(c.steps["classify"].losses) == ["ce", "kl"],
            ),
            (
                "schedules/optimizer/classify/lr",
                "{type: onecycle, max: 3e-3, steps: 10}",
                lambda c: c.schedules["optimizer/classify/lr"]["max"] == 3e-3,
            ),
            ("run/name", "a=b", lambda c: c.run.name == "a=b"),
            ("seed", "{train/max_epochs}", lambda c: c.seed == 10),
        ],
    )
    def test_set_one_key(self, write, path, text, read):
        assert read(load_config(write(""), [(path, text)]).config)

    def test_inside_a_schedule(self, write):
        files = write("schedules: {losses/classify/ce/weight: {ramp: [0, 0, 9, 1]}}")
        config = load_config(files, [("schedules/losses/classify/ce/weight/ramp/2", "5")]).config
        assert config.schedules["losses/classify/ce/weight"]["ramp"] == [0, 0, 5, 1]

    def test_outer_before_inner_whatever_the_order(self, write):
        given = [("optimizer/lr", "3"), ("optimizer", "{type: sgd}")]
        assert load_config(write(""), given).config.optimizer.arguments == {"lr": 3}

    def test_the_last_of_two_wins(self, write):
        assert load_config(write(""), [("seed", "1"), ("seed", "2")]).config.seed == 2

    def test_files_are_not_changed(self, write):
        files = write("seed: 3")
        load_config(files, [("seed", "4")])
        assert load_config(files).config.seed == 3


class TestReferences:
    def test_in_both_spellings(self, write):
        files = write("train: {max_steps: '{seed}', max_epochs: '${seed}'}\nseed: 6")
        train = load_config(files).config.train
        assert (train.max_steps, train.max_epochs) == (6, 6)

    def test_to_a_reference_and_within_text(self, write):
        text = "run: {name: 'a-${seed}'}\nseed: '{train/max_steps}'\ntrain: {max_steps: 2}"
        assert load_config(write(text)).config.run.name == "a-2"

    def test_see_overrides(self, write):
        files = write("train: {max_steps: '{seed}'}")
        assert load_config(files, [("seed", "9")]).config.train.max_steps == 9

    def test_the_environment_is_used_and_not_shown(self, write, monkeypatch):
        monkeypatch.setenv("DNI_SECRET", "hush")
        text = "networks: {net: {token: '${oc.env:DNI_SECRET}', copy: 'x${networks.net.token}'}}"
        loaded = load_config(write(text))
        assert loaded.config.networks["net"].arguments["copy"] == "xhush"
        assert "hush" not in loaded.yaml()
        assert "token: ${oc.env:DNI_SECRET}" in loaded.yaml()

    def test_a_number_from_the_environment(self, write, monkeypatch):
        monkeypatch.setenv("DNI_SEED", "12")
        loaded = load_config(write("seed: ${oc.env:DNI_SEED}"))
        assert loaded.config.seed == 12
        assert loaded.resolved["seed"] == "${oc.env:DNI_SEED}"


class TestValues:
    def test_exponents_are_numbers(self, write):
        config = load_config(write("optimizer: {lr: 2e-4}")).config
        assert config.optimizer.arguments["lr"] == pytest.approx(2e-4)

    def test_the_resolved_config_is_complete_and_reads_back(self, write, tmp_path):
        loaded = load_config(write("run: {name: 'r${seed}'}"), [("log/every", "3")])
        assert loaded.resolved["checkpoint"]["keep_last"] == 1
        saved = tmp_path / "saved.yaml"
        saved.write_text(loaded.yaml())
        again = load_config([saved])
        assert again.resolved == loaded.resolved
        assert again.config == loaded.config


class TestBadValues:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("sede: 1", [":1: sede", "Did you mean 'seed'?"]),
            ("log:\n  evry: 1", [":2: log/evry", "Did you mean 'every'?"]),
            ("steps: {classify: {trainin: net}}", ["classify/trainin", "'training'"]),
            ("train: {max_epochs: three}", [":1: train/max_epochs", "'three'", "integer"]),
            ("train: 3", [":1: train", "mapping"]),
            ("precision: flat32", ["precision", "Did you mean 'float32'?"]),
            ("checkpoint: {mode: maxi}", ["checkpoint/mode", "Did you mean 'max'?"]),
            ("device: gpu", ["device", "'cuda:0' is needed"]),
            ("seed: -1", [":1: seed", "-1", "greater than or equal to 0"]),
            ("steps: {classify: {losses: {ce: {weight: heavy}}}}", ["ce/weight", "'heavy'"]),
            ("steps: {classify: {losses: {ce: {after: -1}}}}", ["ce/after", "-1"]),
            ("steps: {classify: {losses: {kl: {weight: 1}}}}", ["losses/kl/type", "missing"]),
            ("steps: {classify: {injectors: {a: {type: x, in: 3}}}}", ["a/in", "3"]),
            ("networks: 3", ["networks", "mapping"]),
            ("networks: [fcn]", ["networks", "mapping"]),
            ("steps: {classify: null}", ["steps", "empty"]),
            ("3: 4", ["3", "quotes"]),
            ("seed: '{sede}'", ["seed", "'sede'", "does not exist", "'seed'"]),
            ("seed: ${train.max_epoch}", ["train/max_epoch", "Did you mean 'max_epochs'?"]),
            ("run: {name: '${oc.env:DNI_NO_SUCH}'}", ["run/name", "'DNI_NO_SUCH'", "set it"]),
            ("run: {name: a/b}", ["run/name", "'a/b'"]),
            ("log: {every: 1\nseed: 2", [":2: this is no valid YAML"]),
            ("seed: 1\nseed: 2", [":2: this is no valid YAML", "duplicate key seed"]),
            ("- 1", ["mapping of keys"]),
            ("3", ["mapping of keys"]),
            ("hello", ["mapping of keys", "not the text 'hello'"]),
            ("seed:3", ["mapping of keys", "'seed:3'", "with a space"]),
            ("train: {max_epochs: true}", [":1: train/max_epochs", "true; a number is needed"]),
            ("run: {name: '${a'}", [":1: run/name"]),
        ],
    )
    def test_names_place_key_and_remedy(self, write, text, parts):
        message = message_of(write(text))
        assert "more.yaml" in message
        for part in parts:
            assert part in message
        assert len(message.splitlines()) == 1

    def test_all_faults_are_told_at_once(self, write):
        assert len(message_of(write("sede: 1\ntrian: 2")).splitlines()) == 2

    def test_a_file_that_is_not_there(self, tmp_path):
        assert "nowhere.yaml" in message_of([tmp_path / "nowhere.yaml"])

    def test_a_file_that_is_no_text(self, tmp_path):
        (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
        assert "UTF-8" in message_of([tmp_path / "bytes.yaml"])

    @pytest.mark.parametrize(
        ("path", "text", "parts"),
        [
            ("sede", "3", ["--sede", "Did you mean 'seed'?"]),
            ("steps/clasify/accumulate", "2", ["'steps/clasify'", "Did you mean 'classify'?"]),
            ("steps/classify/losses/cee/weight", "2", ["losses/cee'", "Did you mean 'ce'?"]),
            ("steps/classify/losses/kl", "2", ["losses/kl'"]),
            ("log/evry", "3", ["--log/evry", "Did you mean 'every'?"]),
            ("ema/rat", "0.9", ["Did you mean 'rate'?"]),
            ("networks/net/hidden/9", "5", ["a list of 2", "'9'"]),
            ("networks/net/hidden/0/x", "5", ["no keys in it"]),
            ("seed/x", "5", ["seed"]),
            ("train/max_epochs", "[1,", ["--train/max_epochs", "no YAML"]),
            ("train/max_epochs", "x", ["the command line: train/max_epochs", "'x'"]),
            ("train//x", "1", ["none of them empty"]),
        ],
    )
    def test_overrides(self, write, path, text, parts):
        message = message_of(write(""), (path, text))
        for part in parts:
            assert part in message


def test_a_fault_of_a_block_names_the_override_too(write):
    files = write("optimizer: {lr: 1e-3}")
    for overrides, where in [
        ([("optimizer/lrr", "3")], r"more.yaml:1 and the command line: optimizer: `AdamW` has no"),
        ([("optimizer", "{type: adamw, lrr: 3}")], r"^the command line: optimizer: `AdamW`"),
    ]:
        with pytest.raises(ConfigError, match=where):
            build_trainer(load_config(files, overrides))
    files[1].write_text("optimizer: {lrr: 1e-3}")
    with pytest.raises(ConfigError, match=r"more.yaml:1: optimizer: `AdamW`"):
        build_trainer(load_config(files, [("networks/net/hidden", "[4]")]))


def numbers(model, path=()):
    """The paths of all keys that hold numbers, below a model."""
    for name, field in model.model_fields.items():
        place = (*path, field.alias or name)
        kind = plain(field.annotation)
        if get_origin(kind) in (dict, list):
            kind = plain(get_args(kind)[-1])
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numbers(kind, place)
        elif kind in (int, float) or get_origin(kind) is tuple:
            yield name, model


def test_no_number_may_be_a_boolean():
    found = list(numbers(Config))
    assert len(found) > 30
    for name, model in found:
        given = (True, 1.0) if get_origin(plain(model.model_fields[name].annotation)) else True
        with pytest.raises(ValidationError, match="true; a number is needed"):
            model.__pydantic_validator__.validate_assignment(model.model_construct(), name, given)


def test_differences_are_listed_by_path():
    assert differences({"a": {"b": [1]}, "c": 1}, {"a": {"b": [2]}, "d": 1}) == [
        "a/b: [1] → [2]",
        "c: 1 → nothing",
        "d: nothing → 1",
    ]


def test_the_reference_in_the_documentation_is_up_to_date():
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == config_reference(), "run: dni list --config > docs/config.md"
