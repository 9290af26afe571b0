"""Time of one training step with synthetic gradients over the time of the same by backprop."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from tqdm import tqdm

from by_hand import step_by_hand
from dni import DNI
from interleave import Spread, Step, cells, interleave, ratios
from multiply_adds import multiply_adds
from peer import peer_paragraphs
from report import benchmark_parser, default_output, markdown_table, provenance, write_report
from workloads import CLASSES, WORKLOADS, Workload, backprop, make_optimizer

COLUMNS = [
    "case",
    "synthesizer",
    "λ",
    "backprop ms",
    "DNI ms",
    "DNI / backprop",
    "quartiles",
    "floor",
]
MIXINGS = (0.5, 0.0)
BLOCK_SECONDS = 0.06
BACKPROP, CRITIC, BY_HAND = "backprop", "critic", "by hand"
COMPILED_BACKPROP = "backprop, compiled"
EVERY = (1, 2, 4)  # updates of the network for one of a critic
STEPS_TO_COMPILE = 12
IN_CPP = {"cpp_wrapper": True}  # small operations called from C++; for both contenders

EXPLANATION = """\
One step is forward, loss, backward, optimizer step and clearing of gradients; with DNI the
synthesizers learn and step too. The contenders of a case run in turns, block of steps by block of
steps, in one process. A ratio is taken within one repeat; the table has the median and the
quartiles of {repeats} of them. Times are medians. All use the same optimizer,
`torch.optim.Adam` with its defaults.

*Floor* is what the ratio would be if only multiply-adds took time: (M + S) / M, with M those of a
step by backpropagation and S those of the synthesizers. A layer with m multiply-adds in its
forward pass counts 3 m in a step: forward, gradient of the weights, gradient of the input. It
counts 2 m where the input needs no gradient: in the network's first layer and in every
synthesizer's first. Elementwise work, normalisation and optimizers count nothing there, and they
are a large part of a small network's step. With `train_every` a block of steps is a whole number of
periods; the floor is of a step in which synthesizers learn, in the others a layer saves m.

*By hand* is no training: loops of about ten lines (`benchmarks/by_hand.py`) ask a fixed linear head
at every site and send down what it says, unlocked with a step of the optimizer for each block. No
head learns and nothing is measured. What they take is the least that this can cost with torch's
operations called one by one."""
COMPILED = """\
*Compiled*: both contenders are, the network by `torch.compile(network, options=…)` and the wrapped
one by `net.compile(options=…)`, with `{"cpp_wrapper": True}` as options; backprop's time and the
ratio are those of the compiled one, in the same run. The row without a synthesizer has compiled
backprop over backprop as it is. Optimizers are called as ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A synthesizer, its size and a mixing."""

    synthesizer: str
    """Registered name of the synthesizer."""
    hidden_size: int
    """Units (filters, in a convolutional synthesizer) of the hidden layer."""
    mixing: float
    """λ: the share of the true gradient."""
    unlock: str = "none"
    """Which unlocking."""
    train_every: int = 1
    """Updates of the network for one of the synthesizers."""
    is_compiled: bool = False
    """Whether it and what it is compared with are compiled."""

    @property
    def name(self) -> str:
        """The synthesizer as the table says it."""
        if self.synthesizer == BY_HAND:
            return "by hand, fixed heads"
        if self.synthesizer == COMPILED_BACKPROP:
            return "none, compiled"
        if self.synthesizer != CRITIC:
            return f"{self.synthesizer}, {self.hidden_size}"
        often = f", `train_every={self.train_every}`" if self.train_every > 1 else ""
        return CRITIC + often + (", compiled" if self.is_compiled else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The step time of one contender beside backpropagation's."""

    backprop: Spread
    """Seconds of a step by backpropagation."""
    dni: Spread
    """Seconds of a step with synthetic gradients."""
    ratio: Spread
    """The second over the first."""
    floor: float | None
    """The same ratio by multiply-adds; ``None`` where nothing learns."""


def dni_step(workload: Workload, contender: Contender, device: torch.device) -> tuple[DNI, Step]:
    """A wrapped network and its training step; the wrapper steps and clears gradients by itself."""
    network, value, target = workload.on(device)
    wrapped = DNI(
        network,
        dni_network=contender.synthesizer,
        optim=make_optimizer,
        grad_lr=1e-3,
        hidden_size=contender.hidden_size,
        lambda_=contender.mixing,
        sites=list(workload.sites),
        context_size=CLASSES if contender.synthesizer == CRITIC else None,
        unlock=contender.unlock,
        train_every=contender.train_every,
    )
    context = {"context": target} if contender.synthesizer == CRITIC else {}
    if contender.is_compiled:
        wrapped.compile(options=dict(IN_CPP))

    def step() -> None:
        nn.functional.cross_entropy(wrapped(value, **context), target).backward()

    return wrapped, step


def contenders(
    chosen: str, hidden_sizes: Sequence[int], *, has_critic: bool, compiles: bool
) -> Iterator[Contender]:
    """Linear synthesizers of every size, the chosen one in the middle one, and critics."""
    kinds = [("linear", size) for size in hidden_sizes]
    if chosen != "linear":
        kinds.append((chosen, hidden_sizes[len(hidden_sizes) // 2]))
    for kind, size in kinds:
        for mixing in MIXINGS:
            yield Contender(synthesizer=kind, hidden_size=size, mixing=mixing)
    if has_critic:
        kinds = [(every, False) for every in EVERY]
        for every, is_compiled in [*kinds, (1, True), (2, True)] if compiles else kinds:
            for unlock in ("none", "update"):
                yield Contender(
                    synthesizer=CRITIC,
                    hidden_size=10,
                    mixing=0.0,
                    unlock=unlock,
                    train_every=every,
                    is_compiled=is_compiled,
                )


def floor(wrapped: DNI, step: Step, network_multiply_adds: int) -> float:
    """Multiply-adds of a step with its synthesizers, which must exist, over those without."""
    inside = set(wrapped.network.modules())
    with multiply_adds(
        module for module in wrapped.modules() if module not in inside
    ) as synthesizers:
        step()
    return (network_multiply_adds + synthesizers.total) / network_multiply_adds


def measure(
    workload: Workload,
    device: torch.device,
    *,
    repeats: int,
    hidden_sizes: Sequence[int],
    compiles: bool,
) -> dict[Contender, Measurement]:
    """Measure every synthesizer size and mixing of a workload against backpropagation."""
    network, value, target = workload.on(device)
    baseline = partial(backprop(network), value, target)
    with multiply_adds(network.modules()) as count:
        baseline()
    wrapped = {
        contender: dni_step(workload, contender, device)
        for contender in contenders(
            workload.chosen, hidden_sizes, has_critic=workload.sees_labels, compiles=compiles
        )
    }
    steps = {contender: step for contender, (_, step) in wrapped.items()}
    if workload.sees_labels:
        for unlock in ("none", "update"):
            contender = Contender(synthesizer=BY_HAND, hidden_size=0, mixing=0.0, unlock=unlock)
            steps[contender] = step_by_hand(workload, device, is_unlocked=unlock == "update")
    named = {BACKPROP: baseline, **{str(contender): step for contender, step in steps.items()}}
    compiled = Contender(synthesizer=COMPILED_BACKPROP, hidden_size=0, mixing=1.0)
    if compiles:
        network, value, target = workload.on(device)
        # Not `network.compile()`, which leaves an `nn.Sequential` as it is, and says nothing.
        compiled_network = torch.compile(network, options=dict(IN_CPP))
        steps[compiled] = partial(backprop(compiled_network), value, target)
        named[str(compiled)] = steps[compiled]
        for step in named.values():
            for _ in range(STEPS_TO_COMPILE):
                step()
    seconds = interleave(
        named,
        device,
        repeats=repeats,
        block_seconds=BLOCK_SECONDS,
        period=max(EVERY),
    )
    found = {}
    for contender in steps:
        beside = str(compiled) if contender.is_compiled else BACKPROP
        plain = replace(contender, is_compiled=False)  # compiled code calls no module to be counted
        found[contender] = Measurement(
            backprop=Spread.of(seconds[beside]),
            dni=Spread.of(seconds[str(contender)]),
            ratio=ratios(seconds[str(contender)], seconds[beside]),
            floor=floor(*wrapped[plain], count.total) if plain in wrapped else None,
        )
    return found


def rows(workload: Workload, measurements: dict[Contender, Measurement]) -> Iterator[list[str]]:
    """Table rows of a workload."""
    for contender, found in measurements.items():
        yield [
            workload.title,
            contender.name,
            f"{contender.mixing:g}" + (", unlocked" if contender.unlock == "update" else ""),
            *cells(found.backprop, found.dni, found.ratio),
            "" if found.floor is None else f"{found.floor:.2f}",
        ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--hidden-sizes", nargs="+", type=int, default=[10, 40, 256])
    parser.add_argument("--repeats", type=int, default=30, help="blocks of each contender, from 2")
    parser.add_argument("--compile", action="store_true", help="measure compiled critics too")
    parser.add_argument("--peer", help="measure this too: pytorch-dni, or what else pip installs")
    options = parser.parse_args()
    options.output = options.output or default_output("step_time.md", quick=options.quick)
    if options.quick:
        options.repeats, options.hidden_sizes = 2, [10]
    if options.repeats < 2:
        parser.error(f"--repeats was {options.repeats}; quartiles need at least 2.")
    return options


def main() -> None:
    """Measure, print and write the report."""
    options = arguments()
    table: list[list[str]] = []
    # One batch is trained on again and again: gradients soon are denormal numbers, which a
    # processor is slow with, and no other training meets.
    torch.set_flush_denormal(True)
    for name in tqdm(options.cases, desc="step time", unit="case", disable=None):
        workload = WORKLOADS[name]
        found = measure(
            workload,
            options.device,
            repeats=options.repeats,
            hidden_sizes=options.hidden_sizes,
            compiles=options.compile,
        )
        table += rows(workload, found)
    paragraphs = [markdown_table(COLUMNS, table), EXPLANATION.format(repeats=options.repeats)]
    if options.compile:
        paragraphs.append(COMPILED)
    if options.peer:
        paragraphs += peer_paragraphs(
            options.peer,
            options.cases,
            options.device,
            hidden_sizes=options.hidden_sizes,
            repeats=options.repeats,
            block_seconds=BLOCK_SECONDS,
        )
    write_report(options.output, "Step time over backprop", paragraphs, provenance(options.device))


if __name__ == "__main__":
    main()
