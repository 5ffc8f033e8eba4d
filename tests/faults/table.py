"""The faults by name, what trying one gives, and the table of it."""

import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import deaths, disks, files, peers, steps
from tests.faults.lab import Lab, Outcome, Skip

FAULTS: dict[str, Callable[[Lab, Path], Outcome]] = {
    **files.FAULTS, **deaths.FAULTS, **disks.FAULTS, **steps.FAULTS, **peers.FAULTS
}  # fmt: skip
"""Each strikes a run in the given workdir, lets it recover, and raises an AssertionError unless it did as promised."""


@dataclass(frozen=True)
class Tried:
    name: str
    took: float
    """Seconds for all of it, the undisturbed parts included."""
    outcome: Outcome | None = None
    skipped: str = ""
    """Why it could not be tried here."""
    failure: str = ""

    @property
    def verdict(self) -> str:
        return "FAILED" if self.failure else "skipped" if self.skipped else "survived"


def attempt(lab: Lab, name: str) -> Tried:
    workdir, began = lab.workdir(re.sub(r"\W+", "-", name).strip("-")), time.monotonic()
    try:
        outcome = FAULTS[name](lab, workdir)
    except Skip as skip:
        return Tried(name, time.monotonic() - began, skipped=str(skip))
    except Exception:
        return Tried(name, time.monotonic() - began, failure=traceback.format_exc())
    return Tried(name, time.monotonic() - began, outcome)


def markdown(tried: Sequence[Tried]) -> str:
    rows = ["| fault | what happened | back after | steps again | end |", "|---|---|---|---|---|"]
    for each in tried:
        if each.outcome is None:
            reason = each.skipped or each.failure.strip().splitlines()[-1]
            rows.append(f"| {each.name} | {each.verdict}: {_cell(reason)} | | | |")
            continue
        seconds = "" if each.outcome.seconds is None else f"{each.outcome.seconds:.1f} s"
        repeated = "" if each.outcome.repeated is None else str(each.outcome.repeated)
        rows.append(f"| {each.name} | {_cell(each.outcome.happened)} | {seconds} | {repeated} | {each.outcome.end} |")
    return "\n".join([*rows, "", _LEGEND]) + "\n"


_LEGEND = (
    "Back after: seconds from the fault to the first step that was not taken before it, the start of a new process "
    "included; for files of a checkpoint, in a process that has JAX imported. Same bits: of every array of the last "
    "checkpoint, and the same losses on record, as the run that nothing happened to."
)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:240]
