"""Signals at every phase of a run."""

import functools
from pathlib import Path

from tests.faults.lab import Lab, Outcome

MOMENTS = {
    "before anything is imported": "start",
    "preparing data": "preparing",
    "compiling the step": "compiling",
    "at a step": "stepping:7",
    "validating": "validating:10",
    "writing a checkpoint": "writing:8",
    "sealing a checkpoint": "sealing:8",
    "between a checkpoint's writing and its renaming": "naming:8",
    "deleting an old checkpoint": "deleting",
}
"""Phases, and where `tests.faults.child` strikes in them."""


def _struck(lab: Lab, workdir: Path, *, moment: str, signal: str, codes: tuple[int, ...]) -> Outcome:
    # Data that is prepared already is not prepared again.
    flags = (f"--config.data.cache_dir={workdir.with_suffix('.cache')}",) if moment == "preparing" else ()
    struck = lab.start(workdir, *flags, faults=(f"{moment}={signal}",)).expect(*codes)
    last = next((line for _, line in reversed(struck.lines) if "stopped" in line), "")
    ended = f"died of signal {-struck.code}" if struck.code < 0 else f"exit {struck.code}"
    happened = f"{ended}: {last}" if last else ended
    return lab.go_on(workdir, struck.struck(), struck.last_step(), happened, *flags)


def _faults(signal: str, moments: dict[str, str], *codes: int, **others: tuple[int, ...]) -> dict:
    """Args: others: exit codes of single moments."""
    return {
        f"{signal} {phase}": functools.partial(
            _struck, moment=moment, signal=signal, codes=others.get(moment.partition(":")[0], codes)
        )
        for phase, moment in moments.items()
    }


FAULTS = (
    _faults("SIGKILL", MOMENTS, -9)
    # Old checkpoints are deleted in the background: the last step may have been taken by then.
    | _faults("SIGTERM", MOMENTS, 75, start=(-15,), deleting=(75, 0))
    | _faults("SIGUSR1", {phase: MOMENTS[phase] for phase in ("at a step", "validating")}, 75)
    | _faults("SIGINT", {"at a step": "stepping:7"}, 75)
)
