"""Recurrent networks in the trainer: the configs of tasks/copy and tasks/word_language_model."""

from __future__ import annotations

import importlib
import io
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dni import TemporalDNI
from dni.errors import CheckpointError, ConfigError, ContextError, ShapeError
from dni.trainer import Callback, Phase, Source, State, Step, Trainer
from dni.trainer.backprop import Backprop
from dni.trainer.build import build_trainer
from dni.trainer.callbacks import Progress as ProgressBar
from dni.trainer.callbacks.csvlog import read_log
from dni.trainer.cli import main
from dni.trainer.config import load_config
from dni.trainer.recurrent import Recurrent
from dni.trainer.run import Run
from dni.trainer.strategies import make_strategy
from dni.trainer.temporal_strategy import TemporalDNIStrategy
from tasks.copy.lessons import Curriculum
from tasks.copy.stream import Episodes, Trials
from tasks.word_language_model.stream import Streams

ROOT = Path(__file__).resolve().parent.parent.parent
COPY, WORDS = ROOT / "tasks" / "copy", ROOT / "tasks" / "word_language_model"
TASKS = {
    "copy-bptt": (COPY, ["bptt.yaml"]),
    "copy-dni": (COPY, ["bptt.yaml", "dni.yaml"]),
    "words-bptt": (WORDS, ["bptt.yaml"]),
    "words-dni": (WORDS, ["bptt.yaml", "dni.yaml"]),
    "words-ahead": (WORDS, ["bptt.yaml", "dni.yaml", "ahead.yaml"]),
}
LINE = "a cat sat on the mat and a dog lay by the door\n"
QUIET = [("log/progress", "false"), ("log/csv", "false"), ("log/tensorboard", "false")]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of some lines."""
    folder = tmp_path_factory.mktemp("corpus")
    for part, lines in (("train", 60), ("valid", 8), ("test", 8)):
        (folder / f"{part}.txt").write_text(LINE * lines, encoding="utf-8")
    return folder


def small(name: str, corpus: Path) -> list[tuple[str, str]]:
    """What makes a config of a task quick."""
    if name.startswith("copy"):
        return [
            ("networks/core/units", "8"),
            ("data/train/batch_size", "4"),
            ("data/validation/batch_size", "4"),
            ("data/validation/longest", "2"),
        ]
    return [
        ("networks/model/units", "16"),
        ("data/train/batch_size", "8"),
        ("data/train/corpus", str(corpus)),
        ("data/validation/window", "16"),
    ]


def load(name: str, corpus: Path, *overrides: tuple[str, str]) -> Any:
    folder, files = TASKS[name]
    return load_config([folder / f for f in files], [*QUIET, *small(name, corpus), *overrides])


def build(name: str, corpus: Path, *overrides: tuple[str, str]) -> Trainer:
    return build_trainer(load(name, corpus, *overrides))


def weights(trainer: Trainer) -> list[Tensor]:
    return [p for network in trainer.networks.values() for p in network.parameters()]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


# -- the injector and the strategy, beside the loop that a user writes ---------------------------


class Windows(Source):
    """Windows of 3 steps of two sequences; an epoch has four, of two episodes."""

    def __init__(self, mask: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(4, 3, 2, 2, generator=generator)
        self.mask = mask
        super().__init__(self.inputs)

    def batches(
        self, epoch: int, *, start: int = 0, training: bool = False
    ) -> Iterator[dict[str, Any]]:
        for number in range(start, 4):
            ends = number % 2 == 1
            done = ends if self.mask is None else self.mask & ends
            yield {"x": self.inputs[number], "y": self.inputs[number].sum(2, True), "done": done}


def make(strategy: type[Any], source: Source, **options: Any) -> Trainer:
    torch.manual_seed(0)
    networks = {"core": nn.LSTM(2, 5), "head": nn.Linear(5, 1)}
    step = Step(
        "fit",
        training=networks,
        strategy=strategy(networks, **options),
        injectors={
            "seen": {"type": "recurrent", "network": "core", "in": ["x", "done"]},
            "guess": {"type": "call", "network": "head", "in": "seen"},
        },
        losses={"l2": {"type": "torch.nn.functional.mse_loss", "input": "guess", "target": "y"}},
    )
    data = {"train": source, "validation": source}
    return Trainer(networks, {"fit": step}, data, max_epochs=3, validate_steps=1, log=1000)


def by_hand(epochs: int, dni: Mapping[str, Any] | None) -> list[Tensor]:
    torch.manual_seed(0)
    core, head = nn.LSTM(2, 5), nn.Linear(5, 1)
    net = core if dni is None else TemporalDNI(core, **dni)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=0.01)
    for _ in range(epochs):
        state: Any = None
        for batch in Windows().batches(0):
            optimizer.zero_grad()
            output, state = net(batch["x"], state)
            if batch["done"] and dni is not None:
                net.end_episode()
            mse_loss(head(output), batch["y"]).backward()
            optimizer.step()
            state = None if batch["done"] else tuple(s.detach() for s in state)
    return [*core.parameters(), *head.parameters()]


def test_it_is_the_loop_of_truncated_backpropagation() -> None:
    trainer = make(Backprop, Windows(), optimizer="adam", lr=0.01)
    trainer.fit()
    assert_same(weights(trainer), by_hand(3, None))


def test_with_the_strategy_it_is_the_loop_around_temporal_dni() -> None:
    options = {"scale": 1.0, "grad_lr": 0.01}
    optim = {"type": "adam", "lr": 0.01}
    trainer = make(TemporalDNIStrategy, Windows(), network="core", optim=optim, **options)
    trainer.fit()
    expected = by_hand(3, options)
    assert_same(weights(trainer), expected)
    assert any(not torch.equal(a, b) for a, b in zip(expected, by_hand(3, None), strict=True))


def test_a_mask_of_all_is_the_end_of_all() -> None:
    everyone = torch.ones(2, dtype=torch.bool)
    for strategy, options in (
        (Backprop, {"optimizer": "adam"}),
        (TemporalDNIStrategy, {"network": "core", "scale": 1.0}),
    ):
        first, second = (
            make(strategy, Windows(), **options),
            make(strategy, Windows(everyone), **options),
        )
        first.fit(), second.fit()
        assert_same(weights(first), weights(second))


def test_a_mask_ends_only_who_it_names() -> None:
    injector, net = Recurrent("net"), nn.LSTM(2, 5)
    x = torch.randn(3, 2, 2)
    injector.enter("train", 0)
    injector(net, x, torch.tensor([False, True]))
    injector.enter("train", 1)
    second = injector(net, x, torch.zeros(2, dtype=torch.bool))
    alone, state = net(x)
    assert torch.allclose(second[:, 1], alone[:, 1])
    assert torch.allclose(second[:, 0], net(x, state)[0][:, 0])


def test_an_epoch_begins_anew_and_an_evaluation_disturbs_nothing() -> None:
    injector, net, x = Recurrent("net"), nn.GRU(2, 5), torch.randn(3, 1, 2)

    def run(phase: str, batch: int) -> Tensor:
        injector.enter(phase, batch)
        return injector(net, x)  # type: ignore[no-any-return]

    first = run("train", 0)
    evaluated = [run("validation", 0), run("validation", 1)]
    second = run("train", 1)
    assert torch.equal(first, evaluated[0])
    assert torch.equal(second, evaluated[1])
    assert not torch.equal(first, second)
    assert torch.equal(run("validation", 0), first)
    assert torch.equal(run("train", 0), first)


def test_no_graph_is_carried() -> None:
    injector, net = Recurrent("net"), nn.RNN(2, 5)
    injector.enter("train", 0)
    injector(net, torch.randn(3, 1, 2))
    assert not injector.state_dict()["states"]["train"].requires_grad


@pytest.mark.parametrize(
    ("network", "done", "error", "words"),
    [
        (nn.Linear(2, 5), None, ShapeError, ["'net'", "Tensor", "(output, state)", "`call`"]),
        (nn.RNN(2, 5), 1, ConfigError, ["holds 1", "True or False", "[B]"]),
        (nn.RNN(2, 5), torch.zeros(1), ConfigError, ["torch.float32", "boolean"]),
        (nn.RNN(2, 5), torch.zeros(3).bool(), ShapeError, ["3 entries", "batch_dim"]),
    ],
)
def test_what_cannot_be_carried(
    network: nn.Module, done: Any, error: type[Exception], words: list[str]
) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor, state: Any) -> Tensor:
            return network(x)  # type: ignore[no-any-return]

    injector = Recurrent("net")
    injector.enter("train", 0)
    called = Plain() if isinstance(network, nn.Linear) else network
    with pytest.raises(error) as raised:
        injector(called, torch.randn(3, 2, 2), done)
    assert all(word in str(raised.value) for word in words), raised.value


def test_schedules_set_the_scale_and_both_rates() -> None:
    trainer = make(TemporalDNIStrategy, Windows(), network="core", context=None)
    strategy: Any = trainer.steps["fit"].strategy  # type: ignore[attr-defined]
    for name in ("lr", "grad_lr", "scale"):
        strategy.set(name, 0.25)
    rates = [
        strategy.optimizers["optimizer"].param_groups[0]["lr"],
        strategy.wrapper.synthesizer_optimizer.param_groups[0]["lr"],
        strategy.wrapper.scale,
    ]
    assert rates == [0.25] * 3
    with pytest.raises(ConfigError, match="'lr', 'grad_lr' and 'scale'"):
        strategy.set("lambda", 0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["['core', 'head']", "`network: NAME`"]),
        ({"network": "cor"}, ["'cor'", "'core'"]),
        ({"network": "core", "scal": 1.0}, ["'scal'", "'scale'"]),
        ({"network": "core", "context_size": 3}, ["`context_size` is 3", "`context`"]),
        ({"network": "core", "clip": -1.0}, ["`clip`", "above 0"]),
    ],
)
def test_a_strategy_that_cannot_work(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        make(TemporalDNIStrategy, Windows(), **options)
    assert all(word in str(raised.value) for word in words), raised.value


def test_the_size_of_a_context_is_that_of_the_first_window() -> None:
    strategy = TemporalDNIStrategy({"core": nn.LSTM(2, 5)}, context="seen", grad_lr=0.25)
    strategy.set("scale", 0.5)
    with strategy.context(State(seen=torch.randn(4, 7))):
        strategy.called("core")(torch.randn(3, 4, 2))
    wrapper = strategy.wrapper
    assert wrapper.interfaces.context_size == 7
    assert (wrapper.scale, wrapper.synthesizer_optimizer.param_groups[0]["lr"]) == (0.5, 0.25)
    again = TemporalDNIStrategy({"core": nn.LSTM(2, 5)}, context="seen")
    again.load_state_dict(strategy.state_dict())
    assert again.wrapper.interfaces.context_size == 7
    other = again.context(State(seen=torch.randn(4, 6)))
    with other, pytest.raises(ContextError, match="because `context_size=7`"):
        again.called("core")(torch.randn(3, 4, 2))


def test_the_size_of_a_context_of_classes_is_told_by_the_data() -> None:
    batch = State(label=torch.tensor([0, 2, 1, 2]))
    for classes in (3, None):
        net = nn.LSTM(2, 5)
        strategy = TemporalDNIStrategy({"core": net}, context="label", num_classes=classes)
        with strategy.context(batch):
            if classes is None:
                with pytest.raises(ConfigError, match="`context: label` has classes"):
                    strategy.called("core")
            else:
                strategy.called("core")(torch.randn(3, 4, 2))
                assert strategy.wrapper.interfaces.context_size == 3


def test_a_shrunk_gradient_is_as_long_as_it_is_right() -> None:
    strategy = TemporalDNIStrategy({"core": nn.RNN(2, 5)}, scale=1.0, shrink=True)
    for answer in (
        {"cosine": 0.5, "true_norm": 1.0, "synthetic_norm": 2.0},
        {"cosine": 0.5, "true_norm": 8.0, "synthetic_norm": 2.0},
        {"cosine": -0.5, "true_norm": 1.0, "synthetic_norm": 2.0},
        {"cosine": 0.0, "true_norm": 0.0, "synthetic_norm": 0.0},
    ):
        strategy.wrapper.statistics = lambda answer=answer: {"state": answer}  # type: ignore[method-assign]
        strategy.called("core")
        ratio = answer["true_norm"] / (answer["synthetic_norm"] or 1)
        assert strategy.wrapper.scale == min(max(answer["cosine"] * ratio, 0), 1)


@pytest.mark.parametrize(
    ("saved", "now"),
    [
        ("adamw", "temporal_dni"),
        ("temporal_dni", "dni"),
        ("adamw", "dni"),
        ("dni", "adamw"),
        ("adamw", "sgd"),
    ],
)
def test_a_checkpoint_of_another_strategy_is_refused(saved: str, now: str) -> None:
    nets = [{"core": nn.LSTM(2, 5)} for _ in range(2)]
    steps = [
        Step(
            "fit",
            training=["core"],
            strategy=make_strategy({"type": name}, net),
            losses={"l2": {"type": "torch.nn.functional.mse_loss", "input": "x", "target": "y"}},
        )
        for name, net in zip((saved, now), nets, strict=True)
    ]
    first, second = (
        Trainer(net, {"fit": step}, {"train": Windows()})
        for net, step in zip(nets, steps, strict=True)
    )
    before = [weight.clone() for weight in weights(second)]
    with pytest.raises(CheckpointError, match="by another optimizer: .* -c FILE without -r"):
        second.load_state_dict(first.state_dict(), restart=True)
    assert_same(weights(second), before)


# -- the configs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["copy-bptt", "words-bptt", "words-dni"])
def test_a_config_trains_and_measures(name: str, corpus: Path) -> None:
    trainer = build(name, corpus, ("train/max_steps", "3"))
    before = [weight.clone() for weight in weights(trainer)]
    assert trainer.fit() == "max_steps"
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    figure = "lengths/steps_4" if name.startswith("copy") else "language/perplexity"
    assert trainer.record.value(f"validation/{figure}") > 0


@pytest.mark.parametrize("name", ["copy-dni", "words-ahead"])
def test_command_trains_and_evaluates(
    name: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, files = TASKS[name]
    words = ["run", "-n", "it", "-b", *(str(folder / file) for file in files), "-t"]
    settings = [
        *small(name, corpus),
        ("run/root", str(tmp_path)),
        ("train/max_steps", "6"),
        ("validate/every_steps", "3"),
        ("log/every", "1"),
        ("log/tensorboard", "false"),
    ]
    overrides = [word for key, value in settings for word in (f"--{key}", value)]
    assert main([*words, *overrides]) == 0
    (run,) = tmp_path.iterdir()
    log = read_log(run / "log.jsonl")
    figure = "lengths/steps_4" if name.startswith("copy") else "language/perplexity"
    assert sorted(step for step, _ in log[f"validation/{figure}"]) == [3, 6]
    site = "dni/remember/state/cosine" if name.startswith("copy") else "dni/read/state/cosine"
    assert site in log
    said = capsys.readouterr().out
    assert main(["run", "--resume", str(run)]) == 0
    value = next(line for line in said.splitlines() if line.startswith(f"validation/{figure}"))
    assert value.split()[1][:4] in capsys.readouterr().out


class Interrupt(Callback):
    """Ctrl-C in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_optimizer_end(self, trainer: Trainer, phase: Phase) -> None:
        if trainer.counters.step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["copy-dni", "words-ahead"])
def test_a_run_that_is_interrupted_ends_where_another_does(
    name: str, corpus: Path, tmp_path: Path
) -> None:
    loaded = load(name, corpus, ("train/max_steps", "14"), ("validate/every_steps", "4"))
    if name.startswith("copy"):
        loaded.config.callbacks[0].model_extra["threshold"] = 2.0  # every episode is solved
    else:
        loaded.config.data["train"].batch_size = 24  # three epochs
        loaded.config.schedules["optimizer/read/scale"] = 1.0
    whole = build_trainer(loaded)
    whole.fit()
    ends = set()
    for step in range(0, 13, 3):
        run = Run.create(tmp_path, f"cut-{step}")
        cut = build_trainer(loaded, run)
        cut.callbacks.add(Interrupt(step))
        with pytest.raises(KeyboardInterrupt):
            cut.fit()
        ends.add(cut.step["done"])
        resumed = build_trainer(loaded)
        resumed.load(run.checkpoint())
        assert resumed.counters.step == step + 1
        assert resumed.fit() == "max_steps"
        assert_same(weights(resumed), weights(whole))
        assert resumed.record.latest == whole.record.latest
    assert ends == {True, False}  # cut at the end of an episode, and amid one


def test_a_fit_goes_on_amid_an_episode(corpus: Path) -> None:
    whole, parts = (build("copy-dni", corpus, ("train/max_steps", "9")) for _ in range(2))
    whole.fit()
    for parts.max_steps in (2, 3, 9):
        parts.fit()
    assert_same(weights(parts), weights(whole))


class Files:
    """The files of a task as modules by bare names, as its scripts import them."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """Those of the task that a test is about."""
    folder: Path = request.param
    names = [path.stem for path in folder.glob("*.py")]
    monkeypatch.syspath_prepend(folder)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield Files()
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("files", [COPY], indirect=True)
@pytest.mark.parametrize("method", ["bptt", "dni"])
def test_copy_is_what_the_script_does(files: Files, method: str, corpus: Path) -> None:
    words = ["--method", method, "--units", "8", "--batch-size", "4"]
    options = files.arguments.parse(files.arguments.make_parser(), words)
    torch.manual_seed(0)
    task = files.episodes.TASKS["copy"]
    learner = files.learners.Learner(
        task, units=8, lr=5e-3, window=4, synthesis=files.arguments.synthesis(options)
    )
    settings = files.training.Settings(
        window=4,
        batch=4,
        updates=40,
        row_every=100,
        threshold=2.0,  # every episode is solved
        longest=None,
        foresight=options.foresight or 0,
    )
    progress = files.curriculum.Progress()
    files.training.train(learner, progress, settings, torch.Generator().manual_seed(0))
    # The script ends with an episode.
    loaded = load(f"copy-{method}", corpus, ("train/max_steps", str(progress.updates)))
    loaded.config.callbacks[0].model_extra["threshold"] = 2.0
    trainer = build_trainer(loaded)
    trainer.fit()
    core = getattr(learner.core, "network", learner.core)
    assert_same(weights(trainer), [*core.parameters(), *learner.readout.parameters()])
    curriculum: Curriculum = trainer.callbacks.find(Curriculum)
    assert curriculum.solved == progress.longest.pattern > 1
    assert curriculum.length.pattern == progress.length.pattern


@pytest.mark.parametrize("files", [WORDS], indirect=True)
@pytest.mark.parametrize("name", ["words-bptt", "words-ahead"])
def test_the_language_model_is_what_the_script_does(files: Files, name: str, corpus: Path) -> None:
    every = ("validate/every_steps", "10")
    loaded = load(name, corpus, ("train/max_steps", "40"), every)
    schedules = loaded.config.schedules
    faster = {"start_value": 0.2, "warmup": 5}  # so that the validation gets worse, too
    schedules["optimizer/read/lr"] |= faster
    synthesis = None
    if name == "words-ahead":
        synthesis = files.learners.Synthesis(ahead=8, lr=0.2, warmup=5)
        warm = {"type": "piecewise", "points": [[0, 0.0], [5, 1.0]], "between": "hold"}
        schedules["optimizer/read/grad_lr"] |= faster
        schedules["optimizer/read/scale"] = warm
    trainer = build_trainer(loaded)
    trainer.fit()
    texts = files.data.load_corpus(corpus, characters=False, size=10_000)
    learner = files.learners.Learner(_model(files, texts), lr=0.2, clip=1.0, synthesis=synthesis)
    schedule = files.schedule.Schedule(name="plateau", updates=40, warmup=5)
    *_, row = files.training.train(
        learner,
        texts,
        schedule,
        files.training.Progress(),
        updates=40,
        batch_size=8,
        steps=5,
        evaluate_every=10,
        seed=0,
    )
    assert_same(weights(trainer), list(learner.model.parameters()))
    assert 0 < schedule.falls == trainer.schedules["optimizer/read/lr"].falls
    assert trainer.record.value("validation/loss/read/entropy") == pytest.approx(row.valid)
    assert trainer.record.value("validation/language/perplexity") == pytest.approx(
        files.history.figure(row.valid, characters=False)
    )


@pytest.mark.parametrize("files", [WORDS], indirect=True)
@pytest.mark.parametrize("name", ["words-bptt", "words-dni"])
def test_an_update_of_several_windows_is_the_scripts(files: Files, name: str, corpus: Path) -> None:
    several = ("batches_per_step", "3")
    loaded = load(name, corpus, several, ("train/max_steps", "12"), ("validate/every_steps", "5"))
    loaded.config.schedules = {}
    synthesis = None if name == "words-bptt" else files.learners.Synthesis(warmup=0)
    trainer = build_trainer(loaded)
    trainer.fit()
    texts = files.data.load_corpus(corpus, characters=False, size=10_000)
    learner = files.learners.Learner(
        _model(files, texts), lr=2e-3, clip=1.0, accumulate=3, synthesis=synthesis
    )
    data, epoch = trainer.data["train"], 0
    while learner.updates < 12:
        for batch in data.batches(epoch, training=True):
            if learner.updates < 12:
                window = files.data.Window(
                    inputs=batch["symbols"],
                    targets=batch["targets"],
                    ahead=batch["symbols"][:0],
                    is_last=batch["done"],
                )
                learner.learn(window)
        epoch += 1
    assert epoch > 1  # an update goes on in the next epoch
    assert_same(weights(trainer), list(learner.model.parameters()))


def _model(files: Files, texts: Any) -> nn.Module:
    torch.manual_seed(0)
    symbols = len(texts.vocabulary)
    model: nn.Module = files.model.LanguageModel(symbols, units=16, embedding=16)
    model.start_at(torch.bincount(texts.train, minlength=symbols))
    return model


def test_the_bar_shows_the_length(corpus: Path) -> None:
    loaded = load("copy-bptt", corpus, ("train/max_steps", "8"), ("log/every", "1"))
    loaded.config.callbacks[0].model_extra["threshold"] = 2.0
    trainer, shown = build_trainer(loaded), io.StringIO()
    trainer.callbacks.remove(trainer.callbacks.find(ProgressBar))
    trainer.callbacks.add(ProgressBar(seconds=0.0, file=shown, bar=True))
    trainer.fit()
    lengths = [int(found) for found in re.findall(r" length (\d+)", shown.getvalue())]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]


def test_a_curriculum_ends_where_it_is_told(corpus: Path) -> None:
    loaded = load("copy-bptt", corpus, ("train/max_steps", "50"))
    loaded.config.callbacks[0].model_extra.update(threshold=2.0, longest=2)
    assert build_trainer(loaded).fit() == "patterns up to 2 are solved"


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("copy-bptt", "data/train/task", "cpoy", ["bptt.yaml", "'cpoy'", "'copy'"]),
        ("copy-bptt", "data/train/window", "0", ["`window` is 0", "at least one step"]),
        ("copy-dni", "optimizer/network", "cor", ["optimizer", "'cor'", "'core'"]),
        ("copy-dni", "optimizer/context", "du", ["optimizer/context", "'du'", "'due'"]),
        ("copy-dni", "optimizer/scal", "1.0", ["'scal'", "'scale'"]),
        ("copy-dni", "steps/remember/accumulate", "2", ["`accumulate: 2`", "'output'"]),
        ("words-bptt", "data/train/part", "trian", ["'trian'", "'train'"]),
        ("words-bptt", "data/train/corpus", "nowhere", ["corpus: nowhere", "train.txt"]),
        ("words-bptt", "data/train/batch_size", "5000", ["words to train on", "`batch_size`"]),
        ("words-bptt", "data/train/vocabulary", "1", ["`vocabulary` is 1", "from 2"]),
        ("words-bptt", "data/train/shuffle", "true", ["batches itself", "`shuffle`"]),
        ("words-bptt", "networks/model/cell", "lstn", ["'lstn'", "'lstm'"]),
    ],
)
def test_a_wrong_key_is_refused(
    name: str, key: str, value: str, words: list[str], corpus: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        build(name, corpus, (key, value))
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_curriculum_needs_its_episodes(corpus: Path) -> None:
    loaded = load("copy-bptt", corpus)
    loaded.config.data["train"].type = "tasks.copy.stream.Trials"
    loaded.config.data["train"].model_extra.pop("window")
    with pytest.raises(ConfigError, match="the data 'train' is a `Trials`"):
        build_trainer(loaded).fit()


# -- the data ------------------------------------------------------------------------------------


def test_episodes_need_to_be_told_where_they_were() -> None:
    with pytest.raises(ConfigError, match="`Curriculum`"):
        next(Episodes().batches(0, start=3, training=True))


def test_trials_are_the_same_every_time_and_none_of_training() -> None:
    trials, training = Trials(batch_size=4, longest=3), Episodes(batch_size=4, window=None)
    first, second = ([b["inputs"] for b in trials.batches(0)] for _ in range(2))
    assert_same(first, second)
    assert [len(inputs) for inputs in first] == [4, 6, 8]
    assert trials.count() == len(first)
    assert not torch.equal(first[0], next(training.batches(0))["inputs"])


@pytest.mark.parametrize("start", [0, 2])
def test_a_stream_goes_on_from_any_window(start: int, corpus: Path) -> None:
    data = Streams(corpus=str(corpus), batch_size=8, window=4, ahead=2)
    data.seed = 3
    every = list(data.batches(1, training=True))
    assert_same(
        [b["symbols"] for b in every[start:]],
        [b["symbols"] for b in data.batches(1, start=start, training=True)],
    )
    assert [b["done"] for b in every] == [False] * (len(every) - 1) + [True]
    ahead, following = every[0]["ahead"], every[1]["symbols"]
    assert torch.equal(ahead, following[:2])


def test_an_evaluation_reads_every_symbol_once(corpus: Path) -> None:
    data = Streams("valid", corpus=str(corpus), batch_size=4, window=7)
    batches = list(data.batches(0))
    read = torch.cat([b["symbols"] for b in batches])
    assert torch.equal(read, data.dataset[:-1])
    assert torch.equal(torch.cat([b["targets"] for b in batches]), data.dataset[1:])
    assert [b["done"] for b in batches] == [False] * (len(batches) - 1) + [True]
    assert data.count() == len(batches)
