"""Train a recurrent language model with short windows, with or without synthetic gradients."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

import arguments
from checkpoint import check, read_checkpoint, save_checkpoint
from data import Corpus, DataError, check_length, load_corpus
from dni.errors import DNIError
from dni.scripts import set_random_state
from history import figure, header, line, unit
from learners import Learner
from model import LanguageModel
from plots import save_plot
from schedule import Schedule
from training import Progress, mean_loss, train

_INTERRUPTED = 130  # what shells use for Ctrl-C
_BAD_INPUT = 2


def main(words: list[str] | None = None) -> int:
    """Run the script.

    Args:
        words: The command line; ``None`` for the process's own.

    Returns:
        The exit code: 0, 2 for anything the user has to change, 130 after Ctrl-C.
    """
    parser = arguments.make_parser()
    options = arguments.parse(parser, words)
    try:
        _run(options)
    except (DataError, DNIError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:  # a full disk, a folder without leave to write
        where = f"{error.filename}: " if error.filename else ""
        print(f"{parser.prog}: error: {where}{error.strerror}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print(f"\n{_how_to_go_on(options.save)}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    corpus = load_corpus(options.data, characters=options.characters, size=options.vocabulary)
    synthesis = arguments.synthesis(options)
    ahead = 0 if synthesis is None else synthesis.ahead
    steps = options.window * options.accumulate
    check_length(corpus, batch_size=options.batch_size, steps=steps, ahead=ahead)
    binding = arguments.binding(options)
    torch.manual_seed(options.seed)
    model = LanguageModel(len(corpus.vocabulary), **arguments.model(options))
    model.start_at(torch.bincount(corpus.train, minlength=len(corpus.vocabulary)))
    model.to(options.device)
    learner = Learner(
        model,
        lr=options.lr,
        clip=options.clip,
        accumulate=options.accumulate,
        synthesis=synthesis,
    )
    schedule = Schedule(
        name=options.schedule,
        updates=options.updates,
        warmup=options.lr_warmup,
        patience=options.patience,
    )
    progress = Progress()
    if options.resume:
        progress, schedule = _go_on(options, learner, binding, corpus)
    if learner.updates >= options.updates or schedule.is_over:
        print(f"{options.resume} has {learner.updates} updates already; ask for more: --updates.")
        return

    def save() -> None:
        if options.save:
            save_checkpoint(
                options.save,
                arguments=binding,
                vocabulary=corpus.vocabulary,
                model=arguments.model(options),
                learner=learner.saved(),
                schedule=schedule.saved(),
                progress=progress.saved(),
            )

    print(_summary(options, corpus))
    print(header(characters=options.characters, cosine=synthesis is not None))
    shown = list(progress.rows)
    for row in train(
        learner,
        _moved(corpus, options.device),
        schedule,
        progress,
        updates=options.updates,
        batch_size=options.batch_size,
        steps=options.window,
        evaluate_every=options.evaluate_every,
        seed=options.seed,
        max_steps=options.max_steps,
    ):
        shown.append(row)
        epoch = row.symbols / len(corpus.train)
        print(line(row, epoch=epoch, characters=options.characters), flush=True)
        save()
    if learner.updates < options.updates and not schedule.is_over:
        print(f"stopped after {learner.updates} of {options.updates} updates")
    else:
        _test(model, corpus, progress, options)
        save()
    level = "characters" if options.characters else "words"
    name = f"language-{level}-{options.method}-window{options.window}.png"
    title = _summary(options, corpus)
    save_plot(options.output / name, shown, title=title, characters=options.characters)
    print(f"plot: {options.output / name}")
    if options.save:
        print(f"checkpoint: {options.save}")


def _go_on(
    options: argparse.Namespace, learner: Learner, binding: dict[str, object], corpus: Corpus
) -> tuple[Progress, Schedule]:
    """Put a checkpoint into a learner; how far it had come, and its schedule."""
    state = read_checkpoint(options.resume)
    check(options.resume, state, binding, corpus.vocabulary)
    learner.load(state["learner"])
    set_random_state(state["rng"])
    wanted = {"updates": options.updates, "patience": options.patience}
    return Progress.loaded(state["progress"]), Schedule(**state["schedule"] | wanted)


def _test(
    model: LanguageModel, corpus: Corpus, progress: Progress, options: argparse.Namespace
) -> None:
    """Measure the best model on the test text; the one that was trained stays as it is."""
    last = {name: weight.clone() for name, weight in model.state_dict().items()}
    if progress.best:
        model.load_state_dict(progress.best)
    progress.test = mean_loss(model, corpus.test.to(options.device))
    model.load_state_dict(last)
    best = min(progress.rows, key=lambda row: row.valid)
    valid, test = (
        figure(loss, characters=options.characters) for loss in (best.valid, progress.test)
    )
    print(
        f"best: update {best.update}, valid {valid:.4f}, test {test:.4f} "
        f"{unit(characters=options.characters)}"
    )


def _moved(corpus: Corpus, device: str) -> Corpus:
    texts = {part: getattr(corpus, part).to(device) for part in ("train", "valid", "test")}
    return dataclasses.replace(corpus, **texts)


def _summary(options: argparse.Namespace, corpus: Corpus) -> str:
    level = "characters" if options.characters else "words"
    window = f"window {options.window}"
    if options.accumulate > 1:
        window += f" ({options.accumulate} an update)"
    parts = [f"{options.method}, {window}", f"{options.cell} {options.layers} x {options.units}"]
    count = f"{len(corpus.train):,} {level}, {len(corpus.vocabulary):,} different"
    return f"{', '.join(parts)}; {corpus.name}: {count}"


def _how_to_go_on(saved: Path | None) -> str:
    if saved is None:
        return "Interrupted; nothing was saved. With --save FILE a run can be resumed."
    if not saved.exists():
        return f"Interrupted before the first evaluation; {saved} was not written yet."
    return (
        f"Interrupted. {saved} has the last evaluation: go on with the same arguments and "
        f"--resume {saved}"
    )


if __name__ == "__main__":
    sys.exit(main())
