"""A watchdog over the training loop: when steps stop, it writes what the process was doing, and ends it.

Two watch. A thread looks at the heartbeat; it writes `stuck-TIME-PROCESS.txt` into the workdir, with the Python stacks
of all threads, the last steps, and what the devices hold, and ends the process with exit code `STUCK`. It cannot run
while some library holds the interpreter's lock for good; so a small process of its own listens for signs of life from
that thread. Without any it sends SIGUSR2, upon which `faulthandler` writes the stacks without asking the interpreter,
and then SIGKILL.
"""

import contextlib
import datetime
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO

import jax

from s2sjax.plural import counted

STUCK = 76
"""Exit code of a process that was stuck: EX_PROTOCOL. Restarted, the same command goes on from the last checkpoint."""

_PATIENCE = 4
"""Compiling, validating, saving and restoring may take so many times as long as a step."""
_GRACE = 20.0  # seconds more that the other process waits, and that asking the devices may take

# Reads signs of life from its input until that ends; without one for so many seconds it kills the process. Twice half
# of them, since it may itself have been stopped in the meantime; as long as the process is, nothing is asked of it.
_GUARD = """
import os, select, signal, sys, time
process, seconds = int(sys.argv[1]), float(sys.argv[2])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)

def stopped():
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False

silent = 0
while silent < 2:
    if select.select([0], [], [], seconds / 2)[0]:
        if not os.read(0, 4096):
            sys.exit()
        silent = 0
    elif not stopped():
        silent += 1
sys.stderr.write(f"s2sjax: process {process} gives no sign of life for {seconds:.0f} s and is killed; its threads:\\n")
sys.stderr.flush()
os.kill(process, signal.SIGUSR2)
time.sleep(2)
os.kill(process, signal.SIGKILL)
"""


class Watchdog:
    """A context manager. `step` is called after every step, `phase` around everything else that takes long.

    Args:
        seconds: without a step, or four times as many within a phase, after which it acts; 0: never.
        report: is called with one sentence before the process ends.
    """

    def __init__(self, workdir: Path, seconds: float, report: Callable[[str], None]) -> None:
        self._workdir, self._seconds, self._report = workdir, seconds, report
        self._phase, self._limit = "starting", _PATIENCE * seconds
        self._beat = time.monotonic()
        self._steps: deque[tuple[int, float]] = deque(maxlen=20)
        self._closed = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._interval = min(max(self._seconds / 10, 0.05), 10.0)
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
            patience = str(self._seconds + 4 * self._interval + _GRACE)
            command = [sys.executable, "-S", "-E", "-c", _GUARD, str(os.getpid()), patience]
            self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seconds:
            self._closed.set()
            self._thread.join()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()
            faulthandler.unregister(signal.SIGUSR2)

    def step(self, step: int) -> None:
        """So many steps are done."""
        self._steps.append((step, time.time()))
        self._beat = time.monotonic()  # first: the thread may look at any moment
        self._phase, self._limit = f"after step {step}", self._seconds

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Something that may take longer than a step."""
        before = self._phase, self._limit
        self._phase, self._limit, self._beat = f"during {name}", _PATIENCE * self._seconds, time.monotonic()
        try:
            yield
        finally:
            self._beat = time.monotonic()
            self._phase, self._limit = before

    def _watch(self) -> None:
        assert self._guard.stdin is not None
        looked = time.monotonic()
        while not self._closed.wait(self._interval):
            with contextlib.suppress(OSError):  # without its guard the run goes on
                self._guard.stdin.write(b".")
            now = time.monotonic()
            if now - looked > 2 * self._interval + 1:
                self._beat += now - looked  # nothing in this process has run, as when a scheduler suspends it
            looked = now
            if now - self._beat > self._limit:
                self._end(now - self._beat)

    def _end(self, silent: float) -> None:
        """Write all that can be found out, the surest first; never returns."""
        try:
            now = datetime.datetime.now(datetime.UTC)
            path = self._workdir / f"stuck-{now:%Y%m%dT%H%M%SZ}-{jax.process_index()}.txt"
            head = f"{now:%Y-%m-%d %H:%M:%S} UTC: nothing for {silent:.0f} s, {self._phase}; process {os.getpid()}"
            message = f"{head}, which ends with exit code {STUCK}; its threads' stacks and its devices: {path}"
            print(f"s2sjax: {message}", file=sys.__stderr__, flush=True)
            with open(path, "x", encoding="utf-8") as file:
                file.write(f"{head}\n\nlast steps\n")
                for step, at in self._steps:
                    file.write(f"  {step:>9} at {datetime.datetime.fromtimestamp(at, datetime.UTC):%H:%M:%S.%f} UTC\n")
                _write_stacks(file)
                file.flush()
                # The devices may be what is stuck, and then so is whoever asks them.
                for task in (lambda: _write_devices(file), lambda: self._report(message)):
                    asking = threading.Thread(target=task, daemon=True)
                    asking.start()
                    asking.join(_GRACE / 4)
        except BaseException as error:
            print(f"s2sjax: what was going on could not be written: {error!r}", file=sys.__stderr__, flush=True)
        finally:
            os._exit(STUCK)


def _write_stacks(file: TextIO) -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        file.write(f"\nthread {names.get(ident, ident)}\n")
        file.writelines(traceback.format_stack(frame))


def _write_devices(file: TextIO) -> None:
    """Memory of each device, and the largest kinds of arrays that are alive."""
    file.write("\ndevices\n")
    for device in jax.local_devices():
        statistics = device.memory_stats() or {"memory": "not told by this backend"}
        file.write(f"  {device}: {', '.join(f'{name} {value}' for name, value in statistics.items())}\n")
    arrays = jax.live_arrays()
    kinds = Counter((array.dtype.name, array.shape) for array in arrays)
    size = {(array.dtype.name, array.shape): array.nbytes for array in arrays}
    file.write(
        f"\n{counted(len(arrays), 'array')} alive, {counted(sum(array.nbytes for array in arrays), 'byte')}; the "
        "largest kinds:\n"
    )
    for kind in sorted(kinds, key=lambda kind: -kinds[kind] * size[kind])[:20]:
        name, shape = kind
        file.write(
            f"  {kinds[kind]:>5} of {name}[{','.join(map(str, shape))}], {counted(kinds[kind] * size[kind], 'byte')}\n"
        )
    file.flush()
