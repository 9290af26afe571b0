"""The script of tasks/copy, run as a user runs it, and the episodes, windows and lengths it has."""

from __future__ import annotations

import doctest
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from task_scripts import PNG, Scripts, assert_equal

COPY = Scripts("copy")
MODULES = ("episodes", "windows", "curriculum", "learners", "training", "checkpoint", "plots")
SMALL = ["--units", "8", "--batch-size", "4"]


class Files:
    """The task's files as modules: `files.episodes` and so on."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """Import from the task's folder; other tasks have files of the same names."""
    monkeypatch.syspath_prepend(COPY.folder)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield Files()
    for name in MODULES:
        sys.modules.pop(name, None)


# -- episodes, windows, lengths --------------------------------------------------------------


def test_repeat_copy_answers_with_the_pattern_and_an_end_bit(files: Files) -> None:
    episodes = files.episodes
    length = episodes.Length(pattern=3, repeats=2)
    episode = episodes.TASKS["repeat_copy"].make(length, 5, torch.Generator())
    pattern = episode.inputs[1:4, :, :-2]
    assert 0 < pattern.mean() < 1
    assert torch.equal(episode.targets[5:8, :, :-1], pattern)
    assert torch.equal(episode.targets[8:11, :, :-1], pattern)
    assert episode.targets[:, 0, -1].tolist() == [0.0] * 11 + [1.0]
    assert episode.inputs[4, :, -1].tolist() == pytest.approx([0.2] * 5)
    assert episode.inputs[5:].abs().sum() == 0  # nothing to copy from while it answers
    assert episode.asked.tolist() == [0.0] * 5 + [1.0] * 7


def test_copy_answers_with_the_pattern(files: Files) -> None:
    episodes = files.episodes
    episode = episodes.TASKS["copy"].make(episodes.Length(pattern=4), 2, torch.Generator())
    assert torch.equal(episode.targets[6:], episode.inputs[1:5, :, :-2])
    assert episode.inputs[6:].abs().sum() == 0
    assert episode.asked.tolist() == [0.0] * 6 + [1.0] * 4


def test_adding_and_argmax_answer_with_the_mark(files: Files) -> None:
    episodes = files.episodes
    length, places = episodes.Length(pattern=6), set()
    for seed in range(5):
        for name in ("adding", "argmax"):
            generator = torch.Generator().manual_seed(seed)
            episode = episodes.TASKS[name].make(length, 8, generator)
            numbers = episode.inputs[:6].argmax(2)
            assert (episode.inputs[6].argmax(1) == episodes.SYMBOLS).all()
            assert episode.asked.tolist() == [0.0] * 6 + [1.0]
            answers = episode.targets[6, :, 0].tolist()
            for column, answer in zip(numbers.T.tolist(), answers, strict=True):
                last_largest = max(range(6), key=lambda i, c=column: (c[i], i))
                assert answer == (sum(column) if name == "adding" else last_largest)
            places |= set(answers) if name == "argmax" else set()
    assert len(places) > 2


def test_curriculum_visits_the_lattice_of_the_paper(files: Files) -> None:
    episodes, curriculum = files.episodes, files.curriculum
    task, progress = episodes.TASKS["repeat_copy"], curriculum.Progress()
    for _ in range(15):
        assert not progress.record(task, 0.15, 3, threshold=0.15)
        assert progress.record(task, 0.1499, 2, threshold=0.15)
    lattice = [5, 7, 9, 12, 15, 19, 23, 28, 33, 39, 45, 52, 59, 67, 75]
    assert [each.steps for each in progress.solved] == lattice
    assert [each.update for each in progress.solved] == list(range(5, 80, 5))
    restored = curriculum.Progress.from_state(progress.state())
    assert restored == progress
    for name in ("copy", "adding", "argmax"):
        assert episodes.TASKS[name].longer(episodes.Length(pattern=3)).pattern == 4


@pytest.mark.parametrize("name", ["copy", "repeat_copy", "adding", "argmax"])
@pytest.mark.parametrize("offset", [0, 2])
def test_windows_cover_the_episode_and_foresee_its_answers(
    files: Files, name: str, offset: int
) -> None:
    task, length = files.episodes.TASKS[name], files.episodes.Length(pattern=4, repeats=2)
    episode = task.make(length, 3, torch.Generator())
    assert len(episode.inputs) == task.steps(length)
    windows = list(files.windows.cut(episode, 3, offset=offset, foresight=4))
    assert torch.equal(torch.cat([window.inputs for window in windows]), episode.inputs)
    assert torch.equal(torch.cat([window.asked for window in windows]), episode.asked)
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    assert len(windows[0].inputs) == 3 - offset
    end = 0
    for window in windows:
        end += len(window.inputs)
        due = window.due.view(3, 4, task.outputs + 1)
        for ahead in range(4):
            here = due[:, ahead]
            if end + ahead < len(episode.inputs) and episode.asked[end + ahead]:
                assert torch.equal(here[:, :-1], 2 * episode.targets[end + ahead] - 1)
                assert (here[:, -1] == 1).all()
            else:
                assert here.abs().sum() == 0


def test_without_scale_it_is_truncated_backpropagation(files: Files) -> None:
    """And the same updates as by hand; with a scale they are others."""
    learners, windows, episodes = files.learners, files.windows, files.episodes
    task, results = episodes.TASKS["copy"], {}
    for scale in (None, 0.0, 1.0):
        synthesis = (
            scale
            if scale is None
            else learners.Synthesis(
                layers=0, hidden_size=8, lr=1e-2, scale=scale, auxiliary=0.0, foresight=3
            )
        )
        torch.manual_seed(0)
        learner = learners.Learner(task, units=8, lr=1e-2, window=3, synthesis=synthesis)
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            episode = task.make(episodes.Length(pattern=4), 4, generator)
            error, updates = learner.learn(windows.cut(episode, 3, foresight=3))
            assert updates == 4
        core = learner.core if scale is None else learner.core.network
        results[scale] = error, [p.detach() for p in core.parameters()]
    assert results[None][0] == results[0.0][0]
    assert all(map(torch.equal, results[None][1], results[0.0][1]))
    assert not any(map(torch.equal, results[None][1], results[1.0][1]))


@pytest.mark.parametrize("compiles", [False, True])
def test_a_learner_is_compiled_where_it_is_asked_for(files: Files, compiles: bool) -> None:
    synthesis = files.learners.Synthesis(
        layers=0, hidden_size=8, lr=1e-2, scale=1.0, auxiliary=0.0, foresight=3
    )
    task = files.episodes.TASKS["copy"]
    learner = files.learners.Learner(
        task, units=8, lr=1e-2, window=3, synthesis=synthesis, compiles=compiles
    )
    assert (learner.core._seam.compiled is not None) == compiles


# -- the script ------------------------------------------------------------------------------


def test_script_trains_every_task_by_every_method(tmp_path: Path) -> None:
    tasks = {"copy": "bits", "repeat_copy": "bits", "adding": "squared", "argmax": "squared"}
    cases = [(task, method) for task in tasks for method in ("bptt", "dni", "dni+aux")]
    common = [*SMALL, "--updates", "20", "--row-every", "10", "--output", "out"]
    words = [["--task", task, "--method", method, *common] for task, method in cases]
    easy = [*SMALL, "--threshold", "5", "--beyond", "2"]
    lengths = ["--task", "repeat_copy", "--window", "2", "--longest", "3"]
    full = ["--method", "bptt", "--window", "full", "--longest", "4"]
    *results, grown, whole = COPY.run_all(
        tmp_path, "main.py", [*words, [*easy, *lengths], [*easy, *full]]
    )
    for (task, method), (code, output, errors) in zip(cases, results, strict=True):
        assert (code, errors) == (0, "")
        _, header, *rows = output.splitlines()
        assert tasks[task] in header
        assert int(rows[0].split()[0]) >= 10
        assert int(rows[1].split()[0]) >= 20
        # updates, N, steps, error, cosine, seconds
        assert len(rows[1].split()) == (5 if method == "bptt" else 6)
        assert "solved: patterns of" in output
        plot = tmp_path / "out" / f"{task}-{method}-4.png"
        assert plot.read_bytes().startswith(PNG)

    assert (grown[0], grown[2]) == (0, "")  # lengths grow until the longest
    assert "solved: patterns of 3 3 times, episodes of 15 steps" in grown[1]
    assert "19 steps" in grown[1]
    assert "23 steps" in grown[1]
    assert (whole[0], whole[2]) == (0, "")
    assert whole[1].splitlines()[2].split()[:3] == ["4", "4", "10"]  # an update an episode


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    runs = {
        "bptt": ["--method", "bptt"],
        "dni": ["--method", "dni+aux", "--foresight", "3", "--dni-layers", "1"],
    }
    words = []
    for name, flags in runs.items():
        common = [*flags, *SMALL, "--threshold", "0.99", "--row-every", "10", "--beyond", "0"]
        whole, part = f"{name}-whole.pt", f"{name}-part.pt"
        words += [
            [*common, "--updates", "60", "--save", whole],
            [*common, "--updates", "33", "--save", part],
            [*common, "--updates", "60", "--save", part, "--resume", part],
        ]
    for code, _, errors in COPY.run_all(tmp_path, "main.py", words):
        assert (code, errors) == (0, "")
    for name in runs:
        whole, part = (
            torch.load(tmp_path / f"{name}-{which}.pt", weights_only=True)
            for which in ("whole", "part")
        )
        assert whole["progress"]["solved"]  # the lengths are restored too
        for state in (whole, part):  # a row more, where it stopped
            state["progress"] = {**state["progress"], "rows": []}
        assert_equal(part, whole)
    assert not list(tmp_path.glob("*.tmp"))


def test_bad_input_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint", encoding="utf-8")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    cases = [
        (["--save", "run.pt"], None),
        (["--task", "adding", "--resume", "run.pt"], "--task copy and this run has --task adding"),
        (["--window", "5", "--resume", "run.pt"], "--window 4 and this run has --window 5"),
        (["--resume", "absent.pt"], "no such file"),
        (["--resume", "."], "cannot be read"),
        (["--resume", "text.pt"], "not a checkpoint"),
        (["--resume", "other.pt"], "not a checkpoint"),
        (["--window", "0"], "'0' is not a number of steps from 1 up, or full"),
        (["--window", "half"], "'half' is not a number of steps"),
        (["--window", "full"], "leaves nothing beyond the window; it needs --method bptt"),
        (["--window", "12", "--longest", "4"], "episodes of --longest 4 have 10 steps and fit"),
        (["--method", "bptt", "--scale", "0"], "--scale is about synthetic gradients"),
        (["--method", "dni", "--auxiliary", "1"], "it needs dni+aux"),
        (["--method", "bptt", "--compile"], "--compile is about the synthesizer"),
        (["--dni-layers", "1", "--compile"], "one linear map, and `LinearDNI` is not"),
        (["--task", "copi"], "invalid choice: 'copi'"),
        (["--units", "0"], "'0' is not a whole number from 1 up"),
        (["--batch-size", "-3"], "'-3' is not a whole number from 1 up"),
        (["--foresight", "-1"], "'-1' is not a whole number from 0 up"),
        (["--scale", "inf"], "'inf' is not a number from 0 up"),
        (["--threshold", "0"], "'0' is not a number above 0"),
        (["--lr", "fast"], "'fast' is not a number above 0"),
        (["--seed", "-1"], "'-1' is not a whole number from 0"),
        (["--save", "."], "is a folder"),
        (["--output", "text.pt/plots"], "cannot be made"),
    ]
    results = COPY.run_all(
        tmp_path, "main.py", [[*SMALL, "--updates", "4", *words] for words, _ in cases]
    )
    for (code, _, errors), (words, expected) in zip(results, cases, strict=True):
        assert code == (2 if expected else 0), (words, errors)
        assert (expected or "") in errors, words
        last = errors.strip().splitlines()[-1:]
        assert [line.startswith("main.py: error: ") for line in last] == [True] * bool(expected)


def test_interrupt_leaves_the_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = [*SMALL, "--updates", "1000000", "--row-every", "10"]
    assert COPY.interrupt(tmp_path, "main.py", *words)["progress"]["updates"] >= 10


def test_docstring_examples_run(files: Files) -> None:
    for module in (files.episodes, files.windows):
        results = doctest.testmod(module, extraglobs={"TASKS": files.episodes.TASKS})
        assert results.attempted > 0
        assert results.failed == 0
