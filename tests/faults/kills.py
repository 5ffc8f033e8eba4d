"""One run, killed again and again at random moments, ends with the bits of one that was left alone."""

import contextlib
import functools
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.lab import Lab, Process

# Lines of as many steps as lie between checkpoints, so that a resumed run has the same.
OPTIONS = {"train__log_every": 5, "checkpoint__every_steps": 5, "evaluate__every_steps": 60}
_STEPS_A_KILL = 20
"""More than what a run gets on with before it is killed, so that it does not end before."""


def kill(place: Path, times: int, *, processes: int = 1, seed: int = 0, family: str = "transformer", **options) -> str:
    """Kill one process of a run so many times, let it end, and compare. Returns a sentence with the counts.

    A third of the kills come while a checkpoint is being written; a third within 50 ms of one; and a third at any
    moment of the start, while JAX is imported, data is read, the checkpoint restored or the step compiled, but no later
    than the first checkpoint, so that a run gets no further before it dies than `_STEPS_A_KILL` allows for.

    Raises:
        AssertionError: something was lost, or one process died and another went on or did not say whose death it was.
    """
    steps, began = times * _STEPS_A_KILL, time.monotonic()
    with contextlib.closing(
        Lab(place, family, processes=processes, **(OPTIONS | {"train__steps": steps} | options))
    ) as lab:
        told = _kill(lab, times, random.Random(seed))
    return f"{told} over {steps} steps: same bits, {time.monotonic() - began:.0f} s"


def _kill(lab: Lab, times: int, rng: random.Random) -> str:
    processes = lab.processes
    lab.undisturbed()
    workdir = lab.workdir("killed")
    checkpoints = workdir / "checkpoints"
    torn, victims, longest = 0, [0] * processes, 0.0
    start = 0.0
    """Seconds that a run took to its first checkpoint."""

    def names() -> set[str]:
        return {path.name for path in checkpoints.glob("[0-9]*")}

    def writing() -> bool:
        return any(checkpoints.glob("tmp-*"))

    for number in range(times):
        before, began = names(), time.monotonic()
        crew = lab.start_all(workdir)
        saved = functools.partial(_differs, names, before)
        if number % 3 == 0:
            _wait(crew, saved)
            start = time.monotonic() - began
            _wait(crew, writing)
        elif number % 3 == 1:
            _wait(crew, saved)
            _wait(crew, _in(rng.uniform(0, 0.05)))
        elif processes == 1:
            _wait(crew, _in(rng.uniform(0, start)), saved)
        else:  # one that dies before they have found each other is the launcher's to notice
            _wait(crew, functools.partial(bool, crew[0].lines))
            _wait(crew, _in(rng.uniform(0, start / processes)), saved)
        victim = rng.randrange(processes)
        victims[victim] += 1
        crew[victim].kill()
        struck = time.monotonic()
        for index, process in enumerate(crew):
            code = process.wait()
            if index != victim:
                assert code == 76, f"exit code {code}:\n{process.text()}"
                process.says(rf"process {victim} .*")
                longest = max(longest, process.ended - struck)
        torn += writing()
    for process in lab.start_all(workdir):
        process.expect(0)
    lab.assert_undisturbed(workdir)
    assert torn >= times // 4, "some kills must tear a checkpoint"
    others = f" (of process 0, 1, ...: {victims}; the others ended within {longest:.1f} s)" if processes > 1 else ""
    return f"{times} kills of a run of {processes}{others}, {torn} while a checkpoint was being written,"


def _wait(crew: list[Process], *until: Callable[[], bool]) -> None:
    """Until any of these holds."""
    while not any(holds() for holds in until):
        assert all(process.running() for process in crew), "the run ended by itself:\n" + crew[0].text()
        time.sleep(0.001)


def _in(seconds: float) -> Callable[[], bool]:
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() >= moment


def _differs(now: Callable[[], set[str]], before: set[str]) -> bool:
    return bool(now() - before)
