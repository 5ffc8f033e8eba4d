"""One run, killed again and again at random moments, ends with the bits of one that was left alone."""

import contextlib
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
    torn, started, victims, longest = 0, 0.0, [0] * processes, 0.0

    def wait(crew: list[Process], moment: Callable[[], bool]) -> None:
        while not moment():
            assert all(process.running() for process in crew), "the run ended by itself:\n" + crew[0].text()
            time.sleep(0.001)

    def names() -> set[str]:
        return {path.name for path in checkpoints.glob("[0-9]*")}

    def writing() -> bool:
        return any(checkpoints.glob("tmp-*"))

    for number in range(times):
        before, since = names(), time.monotonic()
        crew = lab.start_all(workdir)

        def saved(before=before) -> bool:
            return bool(names() - before)

        if number % 3 == 2:
            if processes > 1:  # one that dies before they have found each other is the launcher's to notice
                wait(crew, lambda crew=crew: bool(crew[0].lines))
            moment = (since if processes == 1 else time.monotonic()) + rng.uniform(0, started / processes)
            wait(crew, lambda moment=moment, saved=saved: time.monotonic() >= moment or saved())
        else:
            wait(crew, saved)
            started = time.monotonic() - since
            moment = time.monotonic() + rng.uniform(0, 0.05)
            wait(crew, writing if number % 3 == 0 else lambda moment=moment: time.monotonic() >= moment)
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
    assert torn or times < 3, "some kills must tear a checkpoint"
    others = f" (of process 0, 1, ...: {victims}; the others ended within {longest:.1f} s)" if processes > 1 else ""
    return f"{times} kills of a run of {processes}{others}, {torn} while a checkpoint was being written,"
