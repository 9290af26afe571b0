"""Where a benchmark's figures come from, and how they are written down."""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with the flags that every benchmark has.

    Args:
        description: What the benchmark shows.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", type=torch.device, default="cpu", help="such as cpu or cuda")
    parser.add_argument("--threads", type=_set_threads, help="CPU threads; default: torch's choice")
    parser.add_argument("--output", type=Path, help="the page to write; default: docs/results")
    parser.add_argument("--quick", action="store_true", help="a short run, no result; into runs")
    return parser


def default_output(page: str, *, quick: bool) -> Path:
    """Where a benchmark writes its page; a quick run must not overwrite a result."""
    return ROOT / ("runs" if quick else "docs/results") / page


def provenance(device: torch.device) -> dict[str, str]:
    """What a reader needs in order to measure again: command, commit, versions, machine, date."""
    return {
        "command": command_line(),
        "commit": commit(),
        "torch": torch.__version__,
        "device": device_name(device),
        "date": datetime.date.today().isoformat(),
    }


def command_line() -> str:
    """The running command, with every absolute path made relative to the repository."""
    words = [_relative(word) for word in sys.argv]
    return shlex.join(["python", *words])


@functools.cache
def commit() -> str:
    """The short commit of the working tree, marked `dirty` where sources differ from it.

    Asked once: a process runs what it has imported, whatever is committed meanwhile. Results are
    left out of the comparison: writing them is what a benchmark does.
    """
    head = _git("rev-parse", "--short", "HEAD")
    if not head:
        return "not in a commit"
    return f"{head} dirty" if _git("status", "--porcelain", "--", ".", ":!docs/results") else head


def device_name(device: torch.device) -> str:
    """The device in words, with the number of threads that torch uses where it is a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {os.cpu_count()} CPUs, {threads} thread{'s'[: threads != 1]} used"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table padded to be read on a terminal too.

    Example:
        >>> print(markdown_table(["case", "ratio"], [["fcn", "1.25"]]))
        | case | ratio |
        |------|------:|
        | fcn  |  1.25 |
    """
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        texts = [
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(texts)} |"

    rule = [("-" * (w + 1) + ":") if i else "-" * (w + 2) for i, w in enumerate(widths)]
    return "\n".join([line(columns), f"|{'|'.join(rule)}|", *map(line, rows)])


def write_report(path: Path, title: str, paragraphs: Sequence[str], facts: dict[str, str]) -> None:
    """Print the paragraphs, and write them as a Markdown page below a title and the facts.

    Args:
        path: The page; its folder is made where there is none.
        title: The page's heading.
        paragraphs: Text and tables, in order.
        facts: What `provenance` returned, and whatever else there is to state.
    """
    command = facts["command"]
    others = "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if name != "command")
    page = [f"# {title}", f"```\n{command}\n```", others, *paragraphs]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print("\n\n".join(paragraphs), f"\nWritten to {path}.", sep="\n")


def _set_threads(text: str) -> int:
    torch.set_num_threads(int(text))
    return int(text)


def _relative(word: str) -> str:
    flag, equals, value = word.rpartition("=")
    return flag + equals + os.path.relpath(value, ROOT) if os.path.isabs(value) else word


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
