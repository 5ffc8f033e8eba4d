"""Where faults are tried: a tiny run, its undisturbed twin, and real processes whose every line has its time."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import assert_same_state, config_file, environment, read_state, records, write_text

STEPS, EVERY = 20, 4
OPTIONS = {
    "model__dropout": 0.2,
    "train__steps": STEPS,
    "train__ema_decay": 0.99,
    "checkpoint__every_steps": EVERY,
    "evaluate__every_steps": 10,
}
"""Checkpoints at 4, 8, 10, 12, 16 and 20, of which the first, the best and the last three stay."""
_STEP = re.compile(r"step +(\d+)/\d+ \| (?:smoothed )?loss")
_FAULT = re.compile(r"fault: (?!await)")
_PATIENCE = 300.0
PEER_TIMEOUT = 10.0
"""Seconds of silence after which a process is taken for lost."""


class Skip(Exception):
    """This machine cannot try the fault; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault. Whoever makes one has compared the end with the undisturbed run's."""

    happened: str
    """Exit codes and messages."""
    seconds: float | None = None
    """From the fault to the first step that had not been taken before it, or to what else `happened` ends with."""
    repeated: int | None = None
    """Steps that were computed again."""
    end: str = "same bits"
    """The end state against that of the undisturbed run."""


class Lines:
    """What a command writes to stderr, line by line, each with its time (`time.monotonic`)."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self.ended = 0.0

    def at(self, pattern: str) -> float:
        """When the first line came that has it. Raises: AssertionError if there is none."""
        found = next((at for at, line in self.lines if re.search(pattern, line)), None)
        assert found, f"no line with {pattern}:\n{self.text()}"
        return found

    def says(self, pattern: str) -> str:
        """The first match. Raises: AssertionError if there is none."""
        found = next((match for _, line in self.lines if (match := re.search(pattern, line))), None)
        assert found, f"no line with {pattern}:\n{self.text()}"
        return found[0]

    def steps(self) -> list[tuple[float, int]]:
        return [(at, int(match[1])) for at, line in self.lines if (match := _STEP.search(line))]

    def last_step(self) -> int:
        return max((step for _, step in self.steps()), default=0)

    def struck(self) -> float:
        """When the fault came, if one was ordered; else when the process ended."""
        return next((at for at, line in self.lines if _FAULT.match(line)), None) or self.ended

    def text(self) -> str:
        return "\n".join(line for _, line in self.lines[-40:])


class Process(Lines):
    """A running command."""

    def __init__(self, arguments: list[str], variables: dict[str, str], log: Path) -> None:
        super().__init__()
        self._log = log
        self._process = subprocess.Popen(
            arguments, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with open(self._log, "a") as log:
            for line in self._process.stderr:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                log.write(line)
                log.flush()

    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code; minus the number of the signal that ended it."""
        try:
            code = self._process.wait(_PATIENCE)
        finally:
            self._process.kill()
        self.ended = time.monotonic()
        self._reader.join(10)  # a child that outlives it may hold the pipe
        return code

    def expect(self, *codes: int) -> "Process":
        self.code = self.wait()
        assert self.code in codes, f"exit code {self.code} instead of {codes}:\n{self.text()}"
        return self


class Worker:
    """One process for many commands: see `tests.faults.worker`."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker"], env=variables, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        self._mutex = threading.Lock()

    def run(self, arguments: list[str], log: Path, code: int) -> Lines:
        with self._mutex, open(log, "a") as file:
            told = Lines()
            self._process.stdin.write(json.dumps(arguments) + "\n")
            self._process.stdin.flush()
            for line in self._process.stderr:
                if line.startswith("exited "):
                    told.ended = time.monotonic()
                    assert line == f"exited {code}\n", f"{line}{told.text()}"
                    return told
                told.lines.append((time.monotonic(), line.rstrip("\n")))
                file.write(line)
            raise AssertionError(f"the worker died:\n{told.text()}")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


class Lab:
    """A directory with one config. Runs of it share data and compiled programs, as a user's do.

    Args:
        processes: that every run has.
        spoil: is called with the directory of the data, to harm it.
        cache: of another lab, for compiled programs.
    """

    def __init__(
        self,
        place: Path,
        family: str = "lstm_lm",
        *,
        processes: int = 1,
        spoil: Callable[[Path], None] | None = None,
        cache: Path | None = None,
        **options,
    ) -> None:
        self.place, self.processes = place, processes
        self._cache, self._steps = cache or place / "cache", (OPTIONS | options)["train__steps"]
        self._data = write_text(place / "data")
        if spoil:
            spoil(self._data)
        self._variants: dict[str, Lab] = {}
        self._config = config_file(place / "config.py", self._data, family, **(OPTIONS | options))
        self._mutex, self._made = threading.RLock(), {}
        self._worker: Worker | None = None
        self._started: list[Process] = []

    def variant(self, name: str, **options) -> "Lab":
        """A lab that differs in some arguments. Made once."""
        with self._mutex:
            if name not in self._variants:
                self._variants[name] = Lab(self.place / name, cache=self._cache, **options)
            return self._variants[name]

    def workdir(self, name: str) -> Path:
        return self.place / "runs" / name

    def start(
        self,
        workdir: Path,
        *flags: str,
        faults: tuple[str, ...] = (),
        variables: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> Process:
        """`s2sjax train` in a workdir, in a process of its own."""
        program = ["tests.faults.child", *faults, "--"] if faults else ["s2sjax"]
        command = [*prefix, sys.executable, "-m", *program, *self._arguments(workdir, flags)]
        process = Process(command, self.variables() | (variables or {}), workdir.with_suffix(".log"))
        self._started.append(process)
        return process

    def start_all(
        self,
        workdir: Path,
        *flags: str,
        faults: dict[int, str] | None = None,
        hosts: Sequence[str] = (),
        address: str = "localhost",
    ) -> list[Process]:
        """The same with as many processes as the lab has.

        Args:
            faults: by the number of a process.
            hosts: network namespaces, one for each.
            address: of the first.
        """
        faults = faults or {}
        if self.processes == 1:
            return [self.start(workdir, *flags, faults=tuple(faults.values()))]
        shared = {
            "S2SJAX_COORDINATOR": f"{address}:{_free_port()}",
            "S2SJAX_PROCESSES": str(self.processes),
            "S2SJAX_PEER_TIMEOUT": str(PEER_TIMEOUT),
        }
        return [
            self.start(
                workdir,
                *flags,
                faults=(faults[index],) if index in faults else (),
                variables=shared | {"S2SJAX_PROCESS": str(index)},
                prefix=("ip", "netns", "exec", hosts[index]) if hosts else (),
            )
            for index in range(self.processes)
        ]

    def run_warm(self, workdir: Path, *flags: str, code: int = 0) -> Lines:
        """The same in a process that has done it before."""
        with self._mutex:
            self._worker = self._worker or Worker(self.variables())
        return self._worker.run(self._arguments(workdir, flags), workdir.with_suffix(".log"), code)

    def _arguments(self, workdir: Path, flags: tuple[str, ...]) -> list[str]:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        return ["train", f"--config={self._config}", f"--workdir={workdir}", *flags]

    def close(self) -> None:
        """End what still runs, as after a failure."""
        for variant in self._variants.values():
            variant.close()
        for process in self._started:
            if process.running():
                process.kill()
        if self._worker:
            self._worker.close()

    def variables(self) -> dict[str, str]:
        return environment(self._cache)

    def undisturbed(self) -> Path:
        """The run that nothing happened to. Made once."""
        return self._once("undisturbed", lambda workdir: [process.expect(0) for process in self.start_all(workdir)])

    def killed_at_19(self, workdir: Path) -> Path:
        """A copy of a run that was killed between the checkpoints of 16 and 20, and has those of 4, 10, 12 and 16."""

        def make(directory: Path) -> None:
            saved = directory / "checkpoints" / "16"
            self.start(directory, faults=(f"stepping:18=await={saved}", "stepping:19=SIGKILL")).expect(-9)

        return Path(shutil.copytree(self._once("killed_at_19", make), workdir))

    def _once(self, name: str, make) -> Path:
        with self._mutex:
            workdir = self.workdir(name)
            if name not in self._made:
                make(workdir)
                self._made[name] = True
            return workdir

    def go_on(
        self,
        workdir: Path,
        since: float,
        reached: int,
        happened: str,
        *flags: str,
        warm: bool = False,
        records_from: int = 1,
    ) -> Outcome:
        """Run the same command to the end, and compare it with the undisturbed run.

        Args:
            since: when the fault came.
            reached: the last step before it.
            warm: in a process that has JAX imported already.
            records_from: as `assert_undisturbed`.
        """
        if warm:
            process = self.run_warm(workdir, *flags)
        else:
            process = [each.expect(0) for each in self.start_all(workdir, *flags)][0]
        self.assert_undisturbed(workdir, records_from=records_from)
        first = process.steps()[0][1] if process.steps() else STEPS + 1
        new = next((at for at, step in process.steps() if step > reached), process.ended)
        return Outcome(happened, new - since, max(reached + 1 - first, 0))

    def assert_undisturbed(self, workdir: Path, *, records_from: int = 1) -> None:
        """State and records are as if nothing had happened, and nothing lies about.

        Args:
            records_from: the step with which the records begin, where the run directory was lost.
        """
        alone = self.undisturbed()
        with self._mutex:
            assert_same_state(alone, workdir)
            assert read_state(workdir)["step"] == self._steps
        for kind in ("train", "validation"):
            mine, theirs = ({r["step"]: r["loss"] for r in records(w, kind)} for w in (workdir, alone))
            kept = {step: loss for step, loss in theirs.items() if step >= records_from}
            assert mine == kept, f"{kind} records differ"
        assert not list((workdir / "checkpoints").glob("tmp-*")), "what was left behind is tidied up"


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory. Raises: Skip where it cannot be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        raise Skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def is_root() -> bool:
    return os.geteuid() == 0
