"""The command line: s2sjax COMMAND.

Every command that opens a --workdir takes `--config.KEY=VALUE`. `train` starts from `--config=FILE.py[:argument]`, a
Python file of the user's own that is run; the others start from the config that the run directory keeps as JSON.
"""

import contextlib
import errno
import importlib
import platform
import sys
from collections.abc import Sequence
from importlib import metadata

from absl import flags

from s2sjax.commands.flags import help_for, parse
from s2sjax.commands.helptext import asked, overview
from s2sjax.commands.table import COMMANDS
from s2sjax.config import nearest
from s2sjax.errors import UserError, in_one_line, without_controls
from s2sjax.processes import distributed

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run_command(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0, 2 for a mistake of the user's, 75 for a training run told to stop that saved, 76 for
    a process of a run of several that lost another one."""
    argv = list(sys.argv[1:] if argv is None else argv)
    text = ""
    bug: Exception | None = None
    try:
        code = _dispatch(argv)
    except UserError as error:
        # Values of files may have line ends: what comes after one does not look like a message of its own.
        code, text = 2, without_controls(str(error)).replace("\n", "\n  ")
    except BrokenPipeError:
        code = 141
    except KeyboardInterrupt:
        code, text = 130, "interrupted"
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except OSError as error:
        code, text, bug = 1, in_one_line(error), error
        if error.filename is None and error.errno in _FULL:  # of a stream that was open: what is printed goes there
            code, text, bug = 2, f"cannot write standard output: {error.strerror}", None
    except Exception as error:
        code, text, bug = 1, in_one_line(error), error
    lost = _flush()
    if isinstance(lost, BrokenPipeError):
        code, text, bug = 141, "", None  # the reader of our output has gone, as `head` does
    elif lost and code == 0:
        code, text, bug = 2, f"cannot write standard output: {lost.strerror}", None
    sys.exit(distributed.finish(code, text, bug))


def _flush() -> OSError | None:
    """What keeps standard output from taking what was printed, if anything does; then it is closed."""
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return error
    return None


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help", *argv[2:]]
    if argv and argv[0].startswith("--help="):
        argv = ["train", *argv]  # which has every config key
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(COMMANDS), end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] in ("--version", "-V") or (argv[0] in COMMANDS and "--version" in argv[1:]):
        print(_versions())
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"'{argv[0]}' is not a command: {nearest(argv[0], COMMANDS)} (s2sjax --help explains)")
    command, rest = COMMANDS[argv[0]], argv[1:]
    # grain reads absl flags, and refuses to work until they are parsed.
    flags.FLAGS.mark_as_parsed()
    if (prefix := asked(rest)) is not None:
        print(without_controls(help_for(rest, command, prefix)), end="")
        return 0
    distributed.start()
    if command.alone and distributed.count() > 1:
        raise UserError(
            f"{command.name} is work for one process, and {distributed.count()} were started: start it once"
        )
    values = parse(rest, command)
    return importlib.import_module(f"s2sjax.commands.{command.name}").run(values)


def _versions() -> str:
    """Of the program and of what its results depend on, by the installed packages: JAX is not loaded."""
    versions = [f"{name} {metadata.version(name)}" for name in ("s2sjax", "jax", "jaxlib", "flax")]
    return ", ".join([*versions, f"Python {platform.python_version()}"])
