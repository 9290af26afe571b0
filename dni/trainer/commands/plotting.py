"""``dni plot``: curves of runs, and heat maps of how well their synthesizers predict."""

from __future__ import annotations

import argparse
from pathlib import Path


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
        ConfigError: A folder is no run, or has no log.
    """
    from ..plot import plot_run, save_curves
    from ..run import Run

    folders = [Run.find(path).path for path in options.runs]
    if len(folders) == 1:
        pictures = plot_run(folders[0], options.output)
    else:
        target = Path(options.output or folders[0].parent / "comparison.png")
        pictures = [save_curves(folders, target)]
        pictures += [picture for folder in folders for picture in plot_run(folder)]
    for picture in pictures:
        print(picture)
    return 0
