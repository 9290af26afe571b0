"""The command ``dni``: run, eval, plot, list and doctor."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from ..errors import ConfigError, DNIError

OK, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
_SHORT = ("run", "eval", "plot", "list", "doctor")

_TOP = """\
Trains PyTorch networks from configs, by backpropagation or by synthetic gradients.

  dni run -n demo -b base.yaml -t                train; the run goes to runs/<time>_demo/
  dni run -n demo -b base.yaml dni.yaml -t       the same by what dni.yaml changes
  dni run --resume runs/<time>_demo              evaluate it
  dni run --resume runs/<time>_demo -t           go on training where it ended
  dni eval runs/<time>_demo -c module:function   a function on what an evaluation stored
  dni plot runs/<time>_demo                      curves, and heat maps of its synthesizers
  dni list                                       what a config can name, with arguments
  dni doctor                                     versions, devices, what does not fit
"""
_EXIT_CODES = """\
exit codes:
  0    done
  1    the run failed: an error in the networks, a loss that is not finite, a full disk
  2    something in the config or on the command line has to be changed
  130  Ctrl-C; 143  SIGTERM: the step was finished and a checkpoint saved, go on with --resume
"""


class BadUsage(ConfigError):
    """A command line that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadUsage(f"{message}. `{self.prog} --help` shows how.")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, without what overrides a config."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="dni", description=_TOP, epilog=_EXIT_CODES, formatter_class=raw, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(
        name: str, summary: str, description: str | None = None, epilog: str | None = None
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=summary,
            formatter_class=raw,
            allow_abbrev=False,
            description=description or summary,
            epilog=epilog,
        )
        made.add_argument("--debug", "-d", action="store_true", help="show where an error arose")
        return made

    from .commands import doctor, evaluating, listing, plotting, running

    running.add_arguments(
        command(
            "run",
            "train (-t) or evaluate what a config describes",
            description=running.DESCRIPTION,
            epilog=_EXIT_CODES,
        )
    )
    evaluating.add_arguments(
        command(
            "eval",
            "call functions on the stored outputs of a run",
            description=evaluating.DESCRIPTION,
            epilog=_EXIT_CODES,
        )
    )
    plotting.add_arguments(command("plot", "draw the curves of runs, and per-site heat maps"))
    listing.add_arguments(command("list", "show what a config can name, with arguments"))
    doctor.add_arguments(command("doctor", "show versions and devices, and what does not fit"))
    return parser


def split_overrides(
    words: Sequence[str], known: set[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Take ``--key/path value`` and ``--key/path=value`` out of a command line.

    Args:
        words: The command line.
        known: The flags that are not overrides.

    Returns:
        The other words, and the overrides: paths and values.

    Raises:
        ConfigError: An override without a value.

    Example:
        >>> split_overrides(["-b", "a.yaml", "--seed", "3", "--log/every=5", "-t"], {"--debug"})
        (['-b', 'a.yaml', '-t'], [('seed', '3'), ('log/every', '5')])
    """
    others: list[str] = []
    found: list[tuple[str, str]] = []
    waiting = iter(words)
    for word in waiting:
        name, equals, value = word.partition("=")
        if not word.startswith("--") or word == "--" or name in known:
            others.append(word)
            continue
        if not equals:
            value = next(waiting, "--")
            if value.startswith("--"):
                raise BadUsage(f"{name} sets a key of the config and needs a value: {name} VALUE.")
        found.append((name[2:], value))
    return others, found


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        words: Its words; ``None``: the process's own.

    Returns:
        The exit code: 0, or 1, 2, 130, 143 as ``dni --help`` explains.
    """
    given = list(sys.argv[1:] if words is None else words)
    # A console script, unlike `python -m`, does not look for modules in the current folder.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    is_debug = "--debug" in given or "-d" in given
    prog = f"dni {given[0]}" if given and given[0] in _SHORT else "dni"
    try:
        return _dispatch(given)
    except KeyboardInterrupt:
        return _end(f"{prog}: interrupted", INTERRUPTED)
    except BrokenPipeError:  # `dni list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except ConfigError as error:
        return _end(_lines(prog, error), BAD_INPUT, is_debug=is_debug)
    except Exception as error:
        return _end(_lines(prog, error), FAILED, is_debug=is_debug)


def _dispatch(words: list[str]) -> int:
    parser = make_parser()
    overrides: list[tuple[str, str]] = []
    if words[:1] in (["run"], ["eval"]):
        from .commands import evaluating, running

        flags = running.FLAGS if words[0] == "run" else evaluating.FLAGS
        words, overrides = split_overrides(words, flags)
    options = parser.parse_args(words)
    options.overrides = overrides
    call = options.call
    code: int = call(options)
    return code


def _lines(prog: str, error: Exception) -> str:
    from .making import in_short

    if isinstance(error, DNIError):
        lines = str(error).splitlines()
    elif isinstance(error, OSError) and error.strerror:
        lines = [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    else:
        first = (in_short(error).splitlines() or [""])[0]
        frames = traceback.extract_tb(error.__traceback__)
        where = f" (in {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        lines = [f"{type(error).__name__}: {first}{where}; --debug shows how it came to that."]
    return "\n".join(f"{prog}: error: {line}" for line in lines)


def _end(message: str, code: int, *, is_debug: bool = False) -> int:
    if is_debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
