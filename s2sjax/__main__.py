"""`s2sjax` and `python -m s2sjax`."""

import functools
import logging
import os
import signal
import sys
from types import FrameType

from s2sjax.processes.hugepages import restart_with_huge_pages

_SEVERAL = ("S2SJAX_COORDINATOR", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE")
"""What the environment of one of several processes holds: see `processes.distributed`."""


def main() -> None:
    restart_with_huge_pages()
    _fill_closed_streams()
    _answer_signals()
    logging.addLevelName(logging.WARNING, "warning")
    logging.basicConfig()
    from s2sjax.cli import run_command
    from s2sjax.processes.root_logger import Formatter

    for handler in logging.root.handlers:
        handler.setFormatter(Formatter("%(levelname)s: %(message)s"))

    if sys.argv[1:2] != ["train"] and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on `run_command` has a word for it
    run_command()


def _fill_closed_streams() -> None:
    """A standard stream that is closed (`2>&-`) leads to /dev/null. Otherwise the next file that is opened, a
    checkpoint perhaps, gets its number, and with it whatever a package writes to standard error; and `print`, told to
    write to None, takes standard output. `sys.stdin` and `sys.stdout` stay None: who needs them says so."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace")  # noqa: SIM115 - as long as the process lives


def _answer_signals() -> None:
    """While packages are loaded, a training ends as it does later on where nothing is to be saved, and Ctrl-C is no
    traceback. What whoever started this process ignores stays ignored.

    One of several processes first waits for the others, where no handler of Python's would run.
    """
    training = sys.argv[1:2] == ["train"] and not any(map(os.environ.get, _SEVERAL))
    for number in (signal.SIGINT, *((signal.SIGTERM, signal.SIGUSR1) if training else ())):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, functools.partial(_leave, 75 if training else 130))


def _leave(code: int, number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    text = f"stopped by {name} where there was nothing to save; the same command goes on"
    os.write(2, f"{text if code == 75 else 's2sjax: interrupted'}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    main()
