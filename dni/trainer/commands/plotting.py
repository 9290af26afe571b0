"""``dni plot``: curves of runs, and heat maps of how well their synthesizers predict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="picture of the curves (default: curves.png in the run; of several: "
        "comparison.png beside them)",
    )
    parser.set_defaults(call=main)


def main(options: argparse.Namespace) -> int:
    """Carry out the command.

    Raises:
        ConfigError: There is no run, or it has no log.
    """
    from ..plot import plot_run, save_curves

    folders = drawable(options.runs)
    if len(folders) == 1:
        pictures = plot_run(folders[0], options.output)
    else:
        target = Path(options.output or folders[0].parent / "comparison.png")
        pictures = [save_curves(folders, target)]
        pictures += [picture for folder in folders for picture in plot_run(folder)]
    for picture in pictures:
        print(picture)
    return 0


def drawable(paths: Sequence[str]) -> list[Path]:
    """The folders of runs; of several what has no log is passed over: `runs/*` names pictures too.

    Raises:
        ConfigError: A path does not exist, or none is a run with a log.
    """
    from ..plot import read_curves
    from ..run import Run

    folders: list[Path] = []
    faults: list[ConfigError] = []
    for path in paths:
        try:
            folder = Run.find(path).path
            read_curves(folder)
        except ConfigError as err:
            if not Path(path).exists():
                raise
            faults.append(err)
        else:
            folders.append(folder)
    if not folders:
        raise faults[0]
    for fault in faults:
        print(f"dni plot: passed over: {fault}", file=sys.stderr)
    return list(dict.fromkeys(folders))
