"""The scripts of tasks/word_language_model, run as a user runs them, on small texts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from task_scripts import PNG, ROOT, Scripts, assert_equal

WORDS = Scripts("word_language_model")
BROWN = ROOT.parent / "shared" / "data" / "brown"
SMALL = ["--units", "16", "--batch-size", "8", "--evaluate-every", "10"]
LINE = "a cat sat on the mat and a dog lay by the door\n"


def write_corpus(folder: Path, **texts: str | bytes) -> Path:
    """A corpus of some lines, or what is given for a part."""
    folder.mkdir()
    for part in ("train", "valid", "test"):
        text = texts.get(part, LINE * (60 if part == "train" else 5))
        data = text.encode() if isinstance(text, str) else text
        (folder / f"{part}.txt").write_bytes(data)
    return folder


def test_every_cell_and_method_trains_and_draws(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    cases = [
        ["--method", "bptt", "--cell", "gru", "--characters"],
        ["--method", "dni", "--cell", "lstm", "--ahead", "3", "--tied", "--warmup", "3"],
        ["--method", "dni+aux", "--cell", "rnn", "--layers", "2", "--dropout", "0.2"],
        ["--method", "dni", "--dni-layers", "1", "--hidden-size", "8", "--accumulate", "2"],
        ["--dni-network", "least_squares", "--ahead", "3", "--behind", "2", "--dni-memory", "9"],
        ["--no-shrink", "--ahead", "1", "--warmup", "2"],
    ]
    end = ["--data", corpus, "--updates", "20", "--lr", "0.02", "--output", "out", *SMALL]
    results = WORDS.run_all(tmp_path, "main.py", [[*words, *end] for words in cases])
    for (code, output, errors), words in zip(results, cases, strict=True):
        assert (code, errors) == (0, ""), words
        _, header, first, last, best, *_ = output.splitlines()
        assert ("cosine" in header) == (words[1] != "bptt")
        assert float(last.split()[3]) < float(first.split()[3]), words  # valid
        assert best.startswith("best: update 20, valid"), words
    plots = [path.read_bytes() for path in (tmp_path / "out").iterdir()]
    assert len(plots) == 3
    assert all(plot.startswith(PNG) for plot in plots)


def test_embedded_text_needs_no_files(tmp_path: Path) -> None:
    done = WORDS.run(tmp_path, "main.py", "--max-steps", "3", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    summary, _, row, note, *_ = done.stdout.splitlines()
    assert "Python's help topics" in summary
    assert 1 < float(row.split()[3]) < 10_000
    assert note == "stopped after 3 of 2000 updates"


@pytest.mark.parametrize("method", ["bptt", "dni+aux"])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, method: str) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    # 60 windows of an epoch, so that the resume is within the second.
    common = ["--data", corpus, "--method", method, "--updates", "40", "--dropout", "0.1", *SMALL]
    common += ["--accumulate", "3", "--characters", *(["--ahead", "2"] * (method != "bptt"))]
    results = WORDS.run_all(
        tmp_path,
        "main.py",
        [
            [*common, "--save", "whole.pt"],
            [*common, "--save", "part.pt", "--max-steps", "27"],
            [*common, "--save", "part.pt", "--resume", "part.pt"],
        ],
    )
    assert [(code, errors) for code, _, errors in results] == [(0, "")] * 3
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert whole["progress"]["epoch"] >= 1
    assert_equal(torch.load(tmp_path / "part.pt", weights_only=True), whole)
    assert [row["update"] for row in whole["progress"]["rows"]] == [10, 20, 30, 40]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_checkpoint_of_before_there_was_shrink_goes_on(tmp_path: Path) -> None:
    common = ["--data", str(write_corpus(tmp_path / "corpus")), *SMALL, "--save", "run.pt"]
    (first,) = WORDS.run_all(tmp_path, "main.py", [[*common, "--max-steps", "5"]])
    assert first[0] == 0
    older = torch.load(tmp_path / "run.pt", weights_only=True)
    del older["arguments"]["shrink"]
    torch.save(older, tmp_path / "run.pt")
    words = [*common, "--max-steps", "10", "--resume", "run.pt"]
    (refused, resumed) = WORDS.run_all(tmp_path, "main.py", [[*words, "--no-shrink"], words])
    assert "saved with --shrink and this run has no --shrink" in refused[2]
    assert (resumed[0], resumed[2]) == (0, "")


def test_plateau_slows_down_and_stops_early(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus", valid="the the the the\n" * 20))
    words = ["--data", corpus, "--lr", "0.1", "--patience", "2", "--updates", "1000", *SMALL]
    ((code, output, _),) = WORDS.run_all(tmp_path, "main.py", [[*words, "--save", "run.pt"]])
    assert code == 0
    rows = torch.load(tmp_path / "run.pt", weights_only=True)["progress"]["rows"]
    assert 3 <= len(rows) < 100
    best = min(rows, key=lambda row: row["valid"])
    assert best is rows[-3]
    assert rows[-1]["lr"] < best["lr"]
    assert f"best: update {best['update']}," in output


def test_interrupt_leaves_the_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = [*SMALL, "--updates", "100000", "--patience", "10000"]
    corpus = write_corpus(tmp_path / "corpus")
    state = WORDS.interrupt(tmp_path, "main.py", *words, "--data", str(corpus))
    assert state["progress"]["rows"]


def test_bad_input_gives_one_sentence(tmp_path: Path) -> None:
    write_corpus(tmp_path / "good")
    write_corpus(tmp_path / "other", train="zebra yak\n" * 300)
    write_corpus(tmp_path / "empty", train=" \n")
    write_corpus(tmp_path / "latin", test="caf\xe9".encode("latin-1"))
    write_corpus(tmp_path / "short", train="a few words only\n")
    write_corpus(tmp_path / "without")
    (tmp_path / "without" / "valid.txt").unlink()
    (tmp_path / "text.pt").write_text("no checkpoint", encoding="utf-8")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "stranger.pt")
    good = ["--data", "good", *SMALL]
    small = [*good, "--max-steps", "2"]
    cases = [
        ([*small, "--save", "run.pt"], ""),
        (["--window", "0"], "'0' is not a whole number from 1 up"),
        (["--data", "empty"], "empty/train.txt holds no text"),
        (["--data", "without"], "there is no valid.txt; a corpus is a folder with train.txt"),
        (["--data", "absent"], "there is no train.txt"),
        (["--data", "latin"], "latin/test.txt: the bytes from 3 on are not UTF-8"),
        (["--data", "short"], "short has 5 words to train on, and 32 streams"),
        ([*good, "--window", "500"], "take a smaller --batch-size or --window"),
        ([*good, "--ahead", "50000"], "take a smaller --batch-size, --ahead or --window"),
        (["--method", "bptt", "--no-shrink"], "--no-shrink is about synthetic gradients"),
        (["--tied", "--embedding", "3"], "--tied needs --embedding 128"),
        (["--method", "bptt", "--scale", "0"], "--scale is about synthetic gradients"),
        (["--dni-network", "lineal", *good], "linear"),
        (["--dni-network", "least_squares", "--dni-lr", "1"], "--dni-lr has no meaning for"),
        (["--dni-memory", "9"], "--dni-memory is about --dni-network least_squares"),
        (["--behind", "9"], "--behind 9 is more than --window 5"),
        (["--dropout", "1"], "'1' is not a number from 0 to below 1"),
        (["--lr", "nan"], "'nan' is not a number above 0"),
        (["--device", "abacus"], "'abacus' cannot be used here"),
        (["--save", "."], "is a folder"),
        (["--output", "text.pt/plots"], "cannot be made"),
        ([*small, "--resume", "absent.pt"], "absent.pt: there is no such file"),
        ([*small, "--resume", "."], "cannot be read"),
        ([*small, "--resume", "text.pt"], "this is not a checkpoint"),
        ([*small, "--resume", "stranger.pt"], "this is not a checkpoint"),
        (
            [*small, "--cell", "gru", "--resume", "run.pt"],
            "--cell lstm and this run has --cell gru",
        ),
        (
            ["--data", "other", *SMALL, "--resume", "run.pt"],
            "vocabulary of 13 symbols is not that of this corpus, which has 4, such as 'yak'",
        ),
    ]
    results = WORDS.run_all(tmp_path, "main.py", [words for words, _ in cases])
    assert results[0][0] == 0, results[0]
    for (code, _, errors), (words, expected) in list(zip(results, cases, strict=True))[1:]:
        assert code == 2, (words, errors)
        assert expected in errors, (words, errors)
        assert errors.strip().splitlines()[-1].startswith("main.py: error: "), errors


def test_generate_writes_what_the_model_has_learnt(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    words = ["--data", corpus, "--method", "bptt", "--updates", "150", "--lr", "0.02"]
    done = WORDS.run(
        tmp_path, "main.py", *words, *SMALL, "--evaluate-every", "50", "--save", "run.pt"
    )
    assert done.returncode == 0, done.stderr
    likely = ["run.pt", "--length", "30", "--temperature", "1e-6"]
    cases = [
        likely,
        ["run.pt", "--length", "30", "--top-k", "1", "--seed", "5"],
        ["run.pt", "--length", "300", "--seed", "1", "--temperature", "30"],
        ["run.pt", "--length", "300", "--seed", "1", "--temperature", "30"],
        ["run.pt", "--length", "300", "--seed", "2", "--temperature", "30"],
        ["run.pt", "--length", "2", "--prompt", "a dog", "--top-k", "1"],
        ["run.pt", "--length", "9000", "--memory", "0.5"],
        ["run.pt", "--prompt", "xylophone"],
        ["absent.pt"],
        ["run.pt", "--temperature", "0"],
    ]
    results = WORDS.run_all(tmp_path, "generate.py", cases)
    texts = [output.rstrip("\n") for _, output, _ in results]
    line = LINE.rstrip("\n")
    assert texts[0] == texts[1]
    assert line in texts[0].splitlines()
    assert texts[2] == texts[3] != texts[4]
    assert set(texts[2].split()) == set(line.split())  # hot: every word, never <unk>
    assert texts[5] == "a dog lay by"
    for (code, _, errors), expected in zip(
        results[6:],
        [
            "--length 9000 needs about 0.8 MiB and --memory allows 0.5; ask for at most 5461",
            "has no symbol the model knows; it knows 13 words",
            "absent.pt: there is no such file",
            "'0' is not a number above 0",
        ],
        strict=True,
    ):
        assert code == 2
        assert expected in errors
        assert errors.strip().splitlines()[-1].startswith("generate.py: error: ")


def test_perplexity_is_that_of_the_scores(tmp_path: Path) -> None:
    """The table's figure, against a sum over single steps in one stream."""
    corpus = write_corpus(tmp_path / "corpus", test="the cat and the dog\n")
    words = ["--data", str(corpus), "--method", "bptt", "--updates", "10", *SMALL]
    done = WORDS.run(tmp_path, "main.py", *words, "--save", "run.pt")
    assert done.returncode == 0, done.stderr
    code = """
import sys, math, json, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from checkpoint import best_model, read_checkpoint
from training import mean_loss
state = read_checkpoint(Path("run.pt"))
model, vocabulary = best_model(state)
numbers = vocabulary.encode("the cat and the dog\\n")
half = len(numbers) // 2
print(json.dumps([state["progress"]["test"], mean_loss(model, numbers)]))
total, count = 0.0, 0
for stream in (numbers[:2], numbers[2:4], numbers[4:]):
    hidden = None
    for first, second in zip(stream[:-1], stream[1:]):
        scores, hidden = model(first.view(1, 1), hidden)
        total -= scores.log_softmax(-1)[0, 0, second].item()
        count += 1
print(total / count)
"""
    checked = WORDS.python(tmp_path, "-c", code, str(WORDS.folder))
    assert checked.returncode == 0, checked.stderr
    lines = checked.stdout.splitlines()
    saved, measured = json.loads(lines[0])
    assert saved == pytest.approx(measured, abs=1e-6)
    assert float(lines[1]) == pytest.approx(measured, abs=1e-5)
    assert f"test {math.exp(measured):.4f} perplexity" in done.stdout


@pytest.mark.skipif(not BROWN.exists(), reason="no Brown corpus beside the repository")
def test_brown_corpus_is_read(tmp_path: Path) -> None:
    done = WORDS.run(tmp_path, "main.py", "--data", str(BROWN), "--max-steps", "2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "10,000 different" in done.stdout


def test_docstring_examples_run() -> None:
    for name in ("data", "model", "history", "schedule"):
        assert WORDS.python(WORDS.folder, "-m", "doctest", f"{name}.py").returncode == 0, name
