"""Another package's step time over backprop, in a process of its own: it is called `dni` too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from interleave import Spread, Step, cells, interleave, ratios
from report import markdown_table
from workloads import WORKLOADS, backprop, make_optimizer

COLUMNS = ["case", "hidden size", "backprop ms", "peer ms", "peer / backprop", "quartiles"]

EXPLANATION = """\
Measured in a process of its own beside its own backpropagation, interleaved in the same way. The
package puts an interface after every module with parameters and offers no choice of them; the step
is its README's main loop."""


class PeerRatio(NamedTuple):
    """What a peer's process measured."""

    backprop: Spread
    """Seconds of a step by backpropagation, in that process."""
    peer: Spread
    """Seconds of the peer's step."""
    ratio: Spread
    """The second over the first."""


class PeerError(RuntimeError):
    """The peer cannot be installed or cannot train; the message says why in one line."""


def peer_paragraphs(
    requirement: str,
    cases: Sequence[str],
    device: torch.device,
    *,
    hidden_sizes: Sequence[int],
    repeats: int,
    block_seconds: float,
) -> list[str]:
    """Heading, table and explanation of a peer's step time.

    Args:
        requirement: Whatever pip installs: a name on PyPI, a repository's address or a folder.
        cases: Names in `workloads.WORKLOADS`.
        device: Where the steps run.
        hidden_sizes: Sizes of the peer's synthesizers. Where it fails with one, a row says how,
            and the case's others are left out.
        repeats: See `interleave.interleave`.
        block_seconds: See `interleave.interleave`.
    """
    table, faults = [], []
    try:
        with _installed(requirement) as folder:
            for case in cases:
                for size in hidden_sizes:
                    head = [WORKLOADS[case].title, str(size)]
                    try:
                        found = _measure(folder, case, size, device, repeats, block_seconds)
                    except PeerError as error:
                        table.append([*head, "", "", "fails", ""])
                        faults.append(f"- {case} fails: {error}")
                        break
                    table.append([*head, *cells(*found)])
    except PeerError as error:
        return [f"## Beside `{requirement}`", f"Not measured: {error}"]
    texts = [markdown_table(COLUMNS, table), "\n".join(faults), EXPLANATION]
    return [f"## Beside `{requirement}`", *filter(None, texts)]


@contextmanager
def _installed(requirement: str) -> Iterator[Path]:
    """Install a package without its dependencies into a folder that lasts as long as the context.

    Raises:
        PeerError: pip failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries=1"]
        command = [*pip, "--target", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(f"`{requirement}` cannot be installed: {_last_line(done.stderr)}")
        yield Path(folder)


def _measure(
    folder: Path, case: str, size: int, device: torch.device, repeats: int, block_seconds: float
) -> PeerRatio:
    """Measure the package in `folder` beside backpropagation, in a process of its own.

    Raises:
        PeerError: The process failed; the message is its last line.
    """
    words = [folder, case, size, device, repeats, block_seconds, torch.get_num_threads()]
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, words)]
    # The package of 2018 writes a log file into the folder it runs in.
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise PeerError(_last_line(done.stderr))
    return PeerRatio(*(Spread(*values) for values in json.loads(_last_line(done.stdout))))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _measure_here(words: Sequence[str]) -> PeerRatio:
    folder, case, hidden_size, device_name, repeats, block_seconds, threads = words
    sys.path.insert(0, folder)
    import dni

    if not str(dni.__file__).startswith(os.path.join(folder, "")):
        raise PeerError(f"`{folder}` holds no package that is imported as `dni`.")
    torch.set_num_threads(int(threads))
    device = torch.device(device_name)
    network, value, target = WORKLOADS[case].on(device)
    rival = WORKLOADS[case].on(device)[0]
    rival = dni.DNI(rival, grad_optim="adam", grad_lr=1e-3, hidden_size=int(hidden_size))
    optimizer = make_optimizer(rival.parameters())

    # The main loop of the package's README.
    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(rival(value), target).backward()
        optimizer.step()

    contenders: dict[str, Step] = {
        "backprop": partial(backprop(network), value, target),
        "peer": step,
    }
    seconds = interleave(
        contenders, device, repeats=int(repeats), block_seconds=float(block_seconds)
    )
    ratio = ratios(seconds["peer"], seconds["backprop"])
    return PeerRatio(Spread.of(seconds["backprop"]), Spread.of(seconds["peer"]), ratio)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(_measure_here(sys.argv[1:])))
