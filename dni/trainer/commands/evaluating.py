"""``dni eval``: runs functions on the stored outputs of a run, without its networks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ..run import Run

FLAGS = {"--help", "--call", "--split", "--debug"}
DESCRIPTION = """\
Calls functions on what an evaluation stored for each example; no network is run.

  dni eval runs/<time>_demo                           what is stored
  dni eval runs/<time>_demo -c module:function        call one
  dni eval RUN -c fid:package.module.function         the same, its results called `fid`

function(folder, outputs, data, config) -> {name: number or image of bytes}
  folder   the evaluation's folder         outputs[i]   what was stored for example i
  data[i]  example i of the data set       config       the run's, as plain containers

The numbers are printed and written to <folder>/results/<name>.json, images beside it.
Without -c the functions of `evaluation/functions` are called. Any other --key/path VALUE sets a
key of the config, such as where the data is.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a run, or of an evaluation in it")
    add(
        "-c",
        "--call",
        dest="functions",
        nargs="+",
        default=[],
        metavar="FUNCTION",
        help="[name:]module:function",
    )
    add("--split", help="data whose evaluation is meant (default: the newest evaluation)")
    parser.set_defaults(call=main)


def main(options: argparse.Namespace) -> int:
    """Carry out the command.

    Returns:
        The exit code.

    Raises:
        ConfigError: There is no evaluation, it cannot be used, or a function cannot be called.
    """
    from ..build import build_data
    from ..config import load_config
    from ..evaluation import StoredOutputs
    from ..findings import run_function
    from ..run import Run

    run = Run.find(options.run)
    outputs = StoredOutputs(find_evaluation(Path(options.run), run, options.split))
    loaded = load_config([run.config], options.overrides)
    functions = dict(map(named, options.functions)) or loaded.config.evaluation.functions
    print(f"# {outputs.folder}: {len(outputs)} examples of {outputs.index['data']['split']!r}")
    if not functions:
        for key, about in outputs.index["keys"].items():
            print(f"{key}: {about['dtype']} {about['shape']}")
        return 0
    data = build_data(loaded, outputs.index["data"]["split"])
    outputs.check(data)
    for name, path in functions.items():
        found = run_function(name, path, outputs, data.dataset, loaded.resolved)
        width = max(map(len, found.scalars), default=0)
        for key, value in found.scalars.items():
            print(f"{name}  {key:{width}}  {value:.6g}")
        for key in found.images:
            print(f"{name}  {key}: {outputs.folder / 'results' / name / key}.png")
    return 0


def named(word: str) -> tuple[str, str]:
    """The name and import path in ``name:package.module.function`` or ``module:function``.

    Example:
        >>> named("fid:tasks.gan.fid"), named("scores:accuracy"), named("scores.accuracy")
        (('fid', 'tasks.gan.fid'), ('accuracy', 'scores:accuracy'), ('accuracy', 'scores.accuracy'))
    """
    first, _, rest = word.partition(":")
    if rest and ("." in rest or ":" in rest):
        return first, rest
    return word.replace(":", ".").rpartition(".")[2], word


def find_evaluation(given: Path, run: Run, split: str | None) -> Path:
    """The evaluation that is meant: the folder itself, or the newest of a run.

    Args:
        given: What was given: the folder of an evaluation, or of the run.
        run: The run.
        split: Only evaluations of this data; ``None``: of any.

    Raises:
        ConfigError: There is none.
    """
    from ..evaluation import FOLDER, INDEX, evaluations

    if (given / INDEX).is_file() or run.path / FOLDER in given.parents:
        return given
    found = evaluations(run.path)
    splits = [folder.name.rpartition("_step-")[0] for folder in found]
    wanted = [f for f, s in zip(found, splits, strict=True) if split in (None, s)]
    if not wanted:
        hint = did_you_mean(split, splits) if split else ""
        what = f" of {split!r}" if split else ""
        raise ConfigError(
            f"The run {run.path} has no evaluation{what}: `dni run --resume {run.path}` stores "
            f"one, of what `evaluation/keys` names or an `eval_op` gives.{hint}"
        )
    return wanted[-1]
