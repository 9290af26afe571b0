"""Time of one window with synthetic gradients from beyond it over truncated backpropagation's."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import window_quality
import window_task
from dni import TemporalDNI
from interleave import Spread, Step, cells, interleave, ratios
from report import benchmark_parser, default_output, markdown_table, provenance, write_report
from runs import finished
from window_by_hand import step_by_hand
from workloads import make_optimizer

COLUMNS = ["case", "method", "BPTT ms", "DNI ms", "DNI / BPTT", "quartiles"]
BLOCK_SECONDS = 0.06
BATCHES = 8
BPTT, BY_HAND = "BPTT", "by hand, linear"
BPTT_COMPILED = "BPTT, torch.compile"
TASK = "task"
COMPILED = "DNI, compiled"
METHODS: dict[str, dict[str, Any]] = {
    "DNI": {},
    COMPILED: {},
    "DNI, train_every 2": {"train_every": 2},
    "DNI, train_every 4": {"train_every": 4},
    "DNI, hidden layer of 64": {"dni_params": {"num_layers": 1}, "hidden_size": 64},
    "DNI + aux": {"auxiliary": 1.0},
}
"""Arguments of `TemporalDNI`; by default the synthesizer is a linear map."""

EXPLANATION = """\
One window is forward from the state of the window before, loss, backward, optimizer step and
clearing of gradients; with DNI the synthesizer is asked, learns and steps too, with train_every k
in one of k windows. Nothing of the loop differs but the wrapper. The contenders of a case run in
turns, block of windows by block of windows, in one process. A ratio is taken within one repeat;
the table has the median and the quartiles of {repeats} of them. Times are medians. All use
`torch.optim.Adam`. *By hand* is a loop for this one network (`benchmarks/window_by_hand.py`) that
does the mathematics of *DNI*, and nothing else: no checks, no statistics, no episodes. *DNI,
compiled* is after `net.compile()`, which compiles what the synthesizer computes. `torch.compile`
reads none of torch's recurrent modules; of a model with one it compiles the rest, which is the
first row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A recurrent network with its window, and classes to tell at every step."""

    title: str
    """What is trained, in words."""
    core: Callable[[], nn.Module]
    """Makes the recurrent part."""
    units: int
    """Features of its output."""
    inputs: int
    """Features of a step, or characters if they are embedded."""
    classes: int
    """Number of classes."""
    window: int
    """Steps."""
    batch: int
    """Sequences."""
    is_text: bool = False
    """Whether inputs are class indices, which an embedding of ``units`` features precedes."""


CASES = {
    "copy-64": Case(
        title="bits, LSTM of 64, batch 100",
        core=lambda: nn.LSTM(9, 64),
        units=64,
        inputs=9,
        classes=9,
        window=4,
        batch=100,
    ),
    "copy-128": Case(
        title="bits, LSTM of 128, batch 100",
        core=lambda: nn.LSTM(9, 128),
        units=128,
        inputs=9,
        classes=9,
        window=4,
        batch=100,
    ),
    "characters-128": Case(
        title="characters, LSTM of 128, batch 32",
        core=lambda: nn.LSTM(128, 128),
        units=128,
        inputs=64,
        classes=64,
        window=5,
        batch=32,
        is_text=True,
    ),
    "characters-256": Case(
        title="characters, two LSTMs of 256, batch 32",
        core=lambda: nn.LSTM(256, 256, num_layers=2),
        units=256,
        inputs=64,
        classes=64,
        window=10,
        batch=32,
        is_text=True,
    ),
    "words": Case(
        title="words, GRU of 200, batch 20",
        core=lambda: nn.GRU(200, 200),
        units=200,
        inputs=5000,
        classes=5000,
        window=5,
        batch=20,
        is_text=True,
    ),
}


class Model(nn.Module):
    """Embedding where there is text, the recurrent core (wrapped or not), a linear decoder."""

    def __init__(self, case: Case, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Embedding(case.inputs, case.units) if case.is_text else nn.Identity()
        self.core = wrap(case.core())
        self.decoder = nn.Linear(case.units, case.classes)

    def forward(self, window: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits ``[T * B, classes]`` and the state."""
        output, state = self.core(self.encoder(window), state)
        return self.decoder(output).flatten(0, 1), state


def windows(case: Case, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """A few windows with their targets."""
    shape = case.window, case.batch
    found = []
    for _ in range(BATCHES):
        bits = torch.randint(2, (*shape, case.inputs)).float()
        window = torch.randint(case.inputs, shape) if case.is_text else bits
        targets = torch.randint(case.classes, (case.window * case.batch,))
        found.append((window.to(device), targets.to(device)))
    return found


def detached(state: Any) -> Any:
    """The state without its graph, as a loop of truncated backpropagation has it."""
    return tuple(t.detach() for t in state) if isinstance(state, tuple) else state.detach()


def training_step(
    case: Case,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module],
    *,
    compiles: bool = False,
) -> Step:
    """Train a new model on one window after the other, in a loop that every method shares."""
    model = Model(case, wrap).to(device)
    call = torch.compile(model) if compiles else model
    optimizer = make_optimizer(model.parameters())
    batches = windows(case, device)
    state: Any = None
    number = 0

    def step() -> None:
        nonlocal state, number
        window, targets = batches[number % BATCHES]
        number += 1
        logits, state = call(window, None if state is None else detached(state))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()

    return step


def wrapped(core: nn.Module, options: dict[str, Any], *, compiles: bool) -> TemporalDNI:
    """The recurrent part with an interface."""
    net = TemporalDNI(core, **options)
    if compiles:
        net.compile()
    return net


def measure(
    case: Case, device: torch.device, *, repeats: int
) -> dict[str, tuple[Spread, Spread, Spread]]:
    """For every method the seconds by truncated backpropagation, its own, and their ratio."""
    steps = {
        BPTT: training_step(case, device, lambda core: core),
        BPTT_COMPILED: training_step(case, device, lambda core: core, compiles=True),
    }
    for name, options in METHODS.items():
        steps[name] = training_step(
            case,
            device,
            lambda core, options=options, name=name: wrapped(
                core, options, compiles=name == COMPILED
            ),
        )
    by_hand = Model(case, lambda core: core).to(device)
    steps[BY_HAND] = step_by_hand(by_hand, windows(case, device))
    return beside_bptt(steps, device, repeats=repeats)


def beside_bptt(
    steps: dict[str, Step], device: torch.device, *, repeats: int
) -> dict[str, tuple[Spread, Spread, Spread]]:
    """For every other method the seconds by truncated backpropagation, its own, and their ratio."""
    seconds = interleave(
        steps, device, repeats=repeats, block_seconds=BLOCK_SECONDS, period=window_task.EPISODES
    )
    return {
        name: (
            Spread.of(seconds[BPTT]),
            Spread.of(seconds[name]),
            ratios(seconds[name], seconds[BPTT]),
        )
        for name in steps
        if name != BPTT
    }


def rows(title: str, measured: dict[str, tuple[Spread, Spread, Spread]]) -> Iterator[list[str]]:
    """Table rows of a case."""
    for name, spreads in measured.items():
        yield [title, name, *cells(*spreads)]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, TASK], default=[*CASES, TASK])
    parser.add_argument("--repeats", type=int, default=30, help="blocks of each method, from 2")
    options = parser.parse_args()
    options.output = options.output or default_output("window_time.md", quick=options.quick)
    if options.quick:
        options.repeats = 2
    if options.repeats < 2:
        parser.error(f"--repeats was {options.repeats}; quartiles need at least 2.")
    return options


def main() -> None:
    """Measure, print and write the report."""
    options = arguments()
    torch.set_flush_denormal(True)  # see step_time.py
    table: list[list[str]] = []
    for name in tqdm(options.cases, desc="window time", unit="case", disable=None):
        if name == TASK:  # its script runs on the CPU
            steps, device = window_task.episode_steps(), torch.device("cpu")
            table += rows(window_task.TITLE, beside_bptt(steps, device, repeats=options.repeats))
            continue
        case = CASES[name]
        found = measure(case, options.device, repeats=options.repeats)
        table += rows(f"{case.title}, window {case.window}", found)
    paragraphs = [markdown_table(COLUMNS, table), EXPLANATION.format(repeats=options.repeats)]
    if TASK in options.cases:
        paragraphs.append(window_task.EXPLANATION)
    runs = finished(window_quality.plans(), [window_quality.FILE])
    paragraphs += window_quality.paragraphs(runs)
    title = "Time of a window over truncated backpropagation"
    write_report(options.output, title, paragraphs, provenance(options.device))


if __name__ == "__main__":
    main()
