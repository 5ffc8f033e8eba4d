"""Goodput: the share of the time in which a run's processes ran that went into steps whose result it still has.

All of that time is itemised, and the items add up. Time when nobody ran does not count, be it a queue's or a week-end:
`Goodput.down` has it. What a process did between its last line in the ledger and its death is not known, and is part of
that. Within one stretch of training all steps are taken to have lasted equally long. A clock that is set back costs the
time between the two lines before and after that, and no more.
"""

import datetime
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2sjax.errors import UserError
from s2sjax.files import rundir
from s2sjax.plural import counted
from s2sjax.reporting import events
from s2sjax.reporting.display import align

ITEMS = {
    "counted": "steps that count",
    "skipped": "steps whose update was not taken",
    "again": "steps made again, or given up",
    "compile": "compiling",
    "start": "starting: data, model, first parameters",
    "restore": "restoring",
    "save": "waiting for checkpoints",
    "validate": "validating",
    "plot": "drawing plots",
}
_MOST_STARTS = 100_000
_SET_BACK = 1.0  # seconds: lines of two threads may be that much out of order
_WAITS = ("compile", "restore", "save", "validate", "plot")


@dataclass(frozen=True)
class Goodput:
    began: float
    """Seconds since 1970."""
    seconds: Mapping[str, float]
    """By item, in the order of `ITEMS`."""
    steps: Mapping[str, int]
    """Of the items that are steps."""
    down: float
    """Seconds between a process's last line and the next start, which are no part of `total`."""
    starts: int
    crashes: int
    """Starts without a stop after them: processes that were killed, one that is running now included."""

    @property
    def total(self) -> float:
        """Seconds in which processes ran, over all starts."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """0..1."""
        return self.seconds["counted"] / self.total if self.total > 0 else 0.0


@dataclass
class _Stretch:
    """Steps `first + 1` .. `last`, one after the other."""

    first: int
    last: int
    seconds: float = 0.0
    skipped: list[int] = field(default_factory=list)


def compute(entries: Iterable[Mapping[str, Any]]) -> Goodput:
    """From what `events.read` gives.

    Raises:
        UserError: nothing has started yet, or more often than anything can have.
    """
    entries = itertools.dropwhile(lambda entry: entry["event"] != "start", entries)
    if (opening := next(entries, None)) is None:
        raise UserError("no start is recorded, so there is nothing to compute goodput from")
    seconds = dict.fromkeys(ITEMS, 0.0)
    stretches: list[_Stretch] = []
    starts = stops = 0
    down = 0.0
    stretch: _Stretch | None = None
    began = opening["time"] - opening["seconds"]
    # Since `mark` there is time that no item has yet.
    mark = last = began
    behind = 0.0  # by so much the clock has been set back until now
    up = False

    def close(now: float) -> None:
        nonlocal mark, stretch, down
        spent, mark = max(now - mark, 0.0), now
        if stretch is not None:
            stretch.seconds += spent
            stretch = None
        elif up:
            seconds["start"] += spent
        else:
            down += spent

    for entry in itertools.chain([opening], entries):
        event, step = entry["event"], int(entry["step"])
        if entry["time"] + behind < last - _SET_BACK:
            behind = last + entry["seconds"] - entry["time"]  # what it tells has taken so long, at least
        now = max(entry["time"] + behind, last)
        if event == "start":
            close(last)  # of a process that was killed nothing is known after its last line
            up = False
            close(min(max(now - entry["seconds"], last), now))
            up, starts = True, starts + 1
        elif event == "train":
            close(now)
            stretch = _Stretch(step, step)
            stretches.append(stretch)
            if len(stretches) > _MOST_STARTS:
                raise UserError(f"training is recorded to have begun more than {counted(_MOST_STARTS, 'time')}")
        elif event == "rollback":
            close(now)
        elif event == "stop":
            close(now)
            up, stops = False, stops + 1
        elif stretch is not None:
            stretch.last = max(stretch.last, step)
            if event == "skip":
                stretch.skipped.append(step)
        if event in _WAITS:
            spent = min(entry["seconds"], now - mark)
            seconds[event] += spent
            mark += spent
        last = now
    close(last)

    steps = dict.fromkeys(("counted", "skipped", "again"), 0)
    horizon = math.inf  # steps after it were made again
    for stretch in reversed(stretches):
        of_each = dict.fromkeys(steps, 0)
        kept = int(min(max(horizon - stretch.first, 0), stretch.last - stretch.first))
        of_each["skipped"] = len({step for step in stretch.skipped if step <= stretch.first + kept})
        of_each["counted"] = kept - of_each["skipped"]
        of_each["again"] = stretch.last - stretch.first - kept
        made = sum(of_each.values())
        for item, count in of_each.items():
            steps[item] += count
            seconds[item] += stretch.seconds * count / made if made else 0.0
        seconds["again"] += 0.0 if made else stretch.seconds
        horizon = min(horizon, stretch.first)
    return Goodput(began, seconds, steps, down, starts, starts - stops)


def of_run(workdir: Path) -> Goodput:
    """Raises: UserError if the directory has no ledger."""
    path = workdir / events.NAME
    try:
        rundir.check(workdir)
        return compute(events.read(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the --workdir of a run") from error


def table(goodput: Goodput) -> str:
    """As the command prints it."""
    since = datetime.datetime.fromtimestamp(goodput.began, datetime.UTC)
    crashes = f", {goodput.crashes} with no stop after" if goodput.crashes else ""
    rows = [
        (title, f"{duration(goodput.seconds[item]):>11}", f"{goodput.seconds[item] / max(goodput.total, 1e-9):6.1%}",
         counted(goodput.steps[item], "step") if item in goodput.steps else "")
        for item, title in ITEMS.items()
    ]  # fmt: skip
    head = f"goodput {line(goodput)}{crashes}; since {since:%Y-%m-%d %H:%M:%S} UTC"
    down = f"not counted: {duration(goodput.down)} in which nothing ran, or nothing was recorded"
    return "\n".join([head, *align(rows), *([down] if goodput.down else [])])


def line(goodput: Goodput) -> str:
    """Such as "45.3% of the 0:02:27 that it ran, over 2 starts"."""
    starts = "" if goodput.starts == 1 else f", over {counted(goodput.starts, 'start')}"
    return f"{goodput.share:.1%} of the {duration(goodput.total)} that it ran{starts}"


def duration(seconds: float) -> str:
    """3725.25 -> "1:02:05"; 2.25 -> "0:00:02.2": tenths where they matter."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths // 10, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" + (f".{tenths % 10}" if tenths < 600 else "")
