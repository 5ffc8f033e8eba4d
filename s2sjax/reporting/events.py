"""The ledger of a run, `events.jsonl`: what happened to it and when, over all its starts; and goodput computed from it.

One object a line: `{"time": "2026-11-21T03:04:05.678Z", "event": "save", "process": 0, "step": 2000, "seconds": 0.8}`.
The file only grows. A process that was killed shows as a start without a stop before it.

    start     a process opened the run; `seconds` since it began, `devices`, `hardware`, `versions`, `commit`
    restore   a checkpoint was read, at `step`
    train     the loop begins, after `step`
    progress  `step` is done; written now and then
    compile   the step for one shape of batch
    validate, save, plot    `seconds` for which the loop waited
    skip      a step whose update was not taken, and the `reason`
    rollback  the steps after `step` are given up, for the `reason`
    preempt   a signal asked the run to stop; `reason` names it
    stuck     the watchdog ended the process
    stop      the process ended by itself, for the `reason`
"""

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import flax
import jax
import optax

from s2sjax.errors import UserError, in_one_line
from s2sjax.files import jsontext, rundir

NAME = "events.jsonl"
LARGEST = 1 << 28
"""Bytes of a ledger. A note of progress every 30 seconds comes to 100 MB a year."""
_BEYOND = 1e11  # steps, and seconds since 1970: the year 5138
_INTERVAL = 30.0  # seconds between two notes of progress: what a kill can leave unrecorded


class Ledger:
    """Writes the ledger; a context manager that ends it with a stop. In a run of several processes only process 0 does.

    Args:
        path: in the run directory; made if it is not there.
        warn: is told once, in a sentence, if a line cannot be written: it is worth less than the run.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path, self._warn = path, warn
        self._noted = time.monotonic()
        self._outcome = "done"
        self._failed = False

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.add("stop", reason=f"{type(error).__name__}: {error}" if error is not None else self._outcome)

    def add(self, event: str, **values: Any) -> None:
        """Append a line, in one piece: also the watchdog's thread does."""
        if jax.process_index() != 0:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        seconds = {"seconds": round(values.pop("seconds"), 3)} if "seconds" in values else {}
        entry = {"time": now, "event": event, "process": 0, **values, **seconds}
        if event == "preempt":
            self._outcome = "preempted"
        try:
            line = (jsontext.dumps(entry, ascii=False) + "\n").encode()
            file = rundir.open_for_appending(self._path.parent, self._path.name)
            try:
                # What a kill or a full disk has cut short stays a line of its own.
                size = os.fstat(file).st_size
                torn = size and os.pread(file, 1, size - 1) != b"\n"
                os.write(file, b"\n" + line if torn else line)
            finally:
                os.close(file)
        except (OSError, UserError) as error:
            if not self._failed:
                self._failed = True
                self._warn(f"warning: {self._path} cannot be written ({in_one_line(error)}); the run goes on without")

    def start(self, seconds: float) -> None:
        """The first line of a process. Args: seconds: since it began."""
        devices = jax.devices()
        self.add(
            "start", seconds=seconds, host=platform.node(), processes=jax.process_count(), devices=len(devices),
            hardware=devices[0].device_kind, commit=_commit(),
            versions={"python": platform.python_version(), "jax": jax.__version__, "flax": flax.__version__,
                      "optax": optax.__version__},
        )  # fmt: skip

    def progress(self, step: int) -> None:
        """Note now and then how far the run is."""
        if time.monotonic() - self._noted >= _INTERVAL:
            self._noted = time.monotonic()
            self.add("progress", step=step)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ledger that are whole, in order, each with `time` (seconds since 1970), `step` and `seconds` as
    numbers. They come one at a time: a ledger may be long.

    Raises:
        OSError: there is none. UserError: it is no regular file, or larger than any.
    """
    with rundir.open_for_reading(path.parent, path.name) as handle, open(handle, "rb", closefd=False) as file:
        rundir.check_size(path, handle, LARGEST)
        while line := file.readline(jsontext.LINE.size):
            try:
                entry = jsontext.parse(line, path, most=jsontext.LINE)
                numbers = {name: float(entry.get(name, 0)) for name in ("step", "seconds")}
                at = datetime.datetime.fromisoformat(entry["time"]).timestamp()
                if not 0 <= numbers["step"] < _BEYOND or not 0 <= numbers["seconds"] <= at < _BEYOND:
                    raise ValueError("no number of steps, or more seconds than since 1970")
                entry |= {"event": str(entry["event"]), "time": at, **numbers}
            except (ValueError, TypeError, KeyError, OverflowError):
                continue  # cut short by a kill
            yield entry


def _commit() -> str | None:
    """The commit that this package is checked out at, if it is."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # or git would name the commit of whatever it was installed into
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
