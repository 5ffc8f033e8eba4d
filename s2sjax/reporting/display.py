"""Lines on a terminal or in a log: messages above a progress bar, the progress of long work, and aligned tables."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TextIO, overload

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from s2sjax.errors import printable, without_controls
from s2sjax.processes import distributed
from s2sjax.reporting.pace import Pace, duration

_PLAIN_INTERVAL = 5.0
"""Seconds between two lines about long work where there is no terminal."""


class Display:
    """Lines on a stream, above a bar if the stream is a terminal."""

    def __init__(self, stream: TextIO | None) -> None:
        # Where a program has no standard error, as a daemon, nobody reads what is shown.
        self._stream = stream or sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
        self._console = Console(file=self._stream)
        self.has_bar = self._stream.isatty() and not self._console.is_dumb_terminal
        self._bar: Bar | None = None

    def begin(self, description: str, total: int | None, done: int) -> None:
        """Show a bar for this work in place of the one before."""
        self.end()
        if self.has_bar:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                console=self._console,
                refresh_per_second=2,  # each costs a few ms of a core that trains
                redirect_stdout=False,  # which may be a pipe that decoded text goes down
                transient=True,
            )
            self._bar.add_task(description, total=total, completed=done, left=duration(None))
            self._bar.start()

    def move(self, done: int, left: float | None) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, left=duration(left))

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def print(self, text: str) -> None:
        text = without_controls(text)
        if self.has_bar:
            self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()


class Progress:
    """How far some long work is: a bar on a terminal, else a line every few seconds. Made by `progress`."""

    _description: str
    _total: int | None
    _done: int

    def __init__(self, display: Display, description: str, total: int | None) -> None:
        self._display = display
        self._last_line = time.monotonic()
        self._begin(description, total, 0)

    @overload
    def __call__(self, count: int, /) -> None: ...
    @overload
    def __call__(self, description: str, done: int, total: int | None, /) -> None: ...
    def __call__(self, what: int | str, done: int = 0, total: int | None = None, /) -> None:
        """Both callbacks that long work takes: `count` more are done; or `done` of `total` (None: unknown) of what is
        described are, where another description begins another stage."""
        if isinstance(what, int):
            done, total = self._done + what, self._total
            what = self._description
        if (what, total) != (self._description, self._total):
            self._begin(what, total, done)
        self._done = done
        self._display.move(done, self._pace.left(done))
        now = time.monotonic()
        if not self._display.has_bar and now - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = now
            with contextlib.suppress(OSError):  # nowhere to say it, and the work is worth more than the line
                self._display.print(self._line())

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self(count)

    def _begin(self, description: str, total: int | None, done: int) -> None:
        self._description = description
        self._total = total
        self._done = done
        self._pace = Pace(done, total)
        self._display.begin(description, total, done)

    def _line(self) -> str:
        if self._total is None:
            return f"{self._description}: {self._done:,}"
        line = f"{self._description}: {self._done:,} of {self._total:,} ({self._done / max(self._total, 1):.0%})"
        left = self._pace.left(self._done)
        return line if left is None else f"{line}, {duration(left)} left"


@contextlib.contextmanager
def progress(description: str, total: int | None = None, *, stream: TextIO | None = None) -> Iterator[Progress]:
    """Show progress of work other than training: `with progress("decoding", 1000) as bar: ... bar.advance(64)`.

    Args:
        total: units of work in all; None if that is unknown, or will be told by calling the result.
        stream: `sys.stderr` if None.
    """
    display = Display(stream if distributed.index() == 0 else open(os.devnull, "w"))  # noqa: SIM115
    try:
        yield Progress(display, description, total)
    finally:
        display.end()


def align(rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table: floats with two decimals, numbers to the right, text to the left, wide characters counted.

    Whatever a text holds, a row is one line, and steers no terminal.
    """
    shown = [[f"{cell:,.2f}" if isinstance(cell, float) else printable(str(cell)) for cell in row] for row in rows]
    widths: dict[int, int] = {}
    for texts in shown:
        for column, text in enumerate(texts):
            widths[column] = max(widths.get(column, 0), cell_len(text))
    lines = []
    for row, texts in zip(rows, shown, strict=True):
        line = ""
        for column, (cell, text) in enumerate(zip(row, texts, strict=True)):
            space = " " * (widths[column] - cell_len(text))
            line += "  " + (space + text if isinstance(cell, int | float) else text + space)
        lines.append(line.rstrip())
    return lines
