"""What a run says while it works: lines and a progress bar on stderr, and its records in the workdir.

`metrics.jsonl` has one object a line: `{"step": 200, "kind": "train", "loss": 3.1, ...}`, `kind` being "train" or
"validation"; NaN and infinities are null. `time` is UTC, and `seconds` is how long the run has trained, validated and
saved until then: over all its starts, without the time between them and without what was made again. `samples.jsonl`
has `{"step", "source", "reference", "hypothesis"}`. `tensorboard/` holds the same numbers as event files, under
`train/` and `validation/`. A resumed run first cuts from the two files what came after its checkpoint, so that they
end, but for times, as those of a run that was left alone.

A log line is worth less than the run: when one cannot be written, that is said once, counted, and summed up at the end.
"""

import contextlib
import datetime
import os
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, overload

import jax
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from s2sjax import distributed, jsontext
from s2sjax.errors import UserError, in_one_line, printable, without_controls
from s2sjax.history import Record
from s2sjax.pace import Pace, duration

# What a line of training shows, in this order: metric, format. The records hold every metric.
_COLUMNS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("loss", lambda x: f"loss {x:7.4f}"),
    ("perplexity", lambda x: f"ppl {x:8.2f}" if x < 1e5 else f"ppl {x:8.1e}"),
    ("tokens_per_second", lambda x: f"{x:7,.0f} tok/s"),
    ("padding", lambda x: f"pad {100 * x:4.1f}%"),
    ("learning_rate", lambda x: f"lr {x:.2e}"),
    ("gradient_norm", lambda x: f"grad {x:7.3f}" if x < 1e3 else f"grad {x:7.1e}"),
)
# Seconds between two lines about other long work where there is no terminal.
_PLAIN_INTERVAL = 5.0


class Reporter:
    """The voice of a training run; a context manager. In a run of several processes only process 0 has one.

    Args:
        workdir: an existing directory.
        total_steps: where the run will end.
        resumed_from: the step of the checkpoint that the run goes on from; records beyond it are cut off.
        smoothed: the training loss is that of smoothed targets, and is called so in the log.
        tensorboard: write event files too.
        stream: where lines and the bar go, `sys.stderr` if None.
    """

    def __init__(
        self,
        workdir: Path | str,
        *,
        total_steps: int,
        resumed_from: int = 0,
        smoothed: bool = False,
        tensorboard: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.workdir = Path(workdir)
        self._total = total_steps
        self._width = len(str(total_steps))
        self._voice = _Voice(stream if jax.process_index() == 0 else open(os.devnull, "w"))  # noqa: SIM115
        self._lost: Counter[tuple[str, str]] = Counter()
        self._loss = "smoothed loss" if smoothed else "loss"
        self._pace = Pace(resumed_from, total_steps)
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._files: dict[str, Record] = {}
        self._events: _Events | None = None
        if jax.process_index() == 0:
            for name in ("metrics.jsonl", "samples.jsonl"):
                with self.losing(name):
                    record = Record(self.workdir, name)
                    try:
                        last = record.cut_after(resumed_from)
                    except BaseException:
                        record.close()
                        raise
                    self._files[name] = record
                    if name == "metrics.jsonl":
                        self._seconds_before = _seconds_of(last)
            if tensorboard:
                with self.losing("tensorboard"):
                    self._events = _Events(self.workdir, first_step=resumed_from + 1)
        self._voice.begin("training", total_steps, resumed_from)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, step: int) -> None:
        """Move the bar, where there is one."""
        self._voice.move(step, self._pace.left(step))

    def leave_out(self, seconds: float) -> None:
        """Time that no later step will take again, such as compiling: the estimate of what is left goes without it."""
        self._pace.leave_out(seconds)

    def step_line(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print and record training metrics.

        Args:
            metrics: printed are `loss` (nats a target token), `perplexity`, `tokens_per_second` (target tokens),
                `padding` (a share, 0..1), `learning_rate` and `gradient_norm`; recorded are all.
        """
        cells = [show(metrics[name]) for name, show in _COLUMNS if name in metrics]
        if "loss" in metrics:
            cells[0] = cells[0].replace("loss", self._loss, 1)
        left = self._pace.left(step)
        self.message(" | ".join([self._at(step), *cells, f"eta {duration(left)}"]))
        self._voice.move(step, left)
        self._pace.mark(step)
        self._record(step, "train", metrics)

    def validation(self, step: int, metrics: Mapping[str, float], *, seconds: float | None = None) -> None:
        """Print and record validation metrics, and how long they took."""
        cells = [f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.2f}" for name, value in metrics.items()]
        took = [] if seconds is None else [f"{seconds:.1f} s"]
        self.message(" | ".join([self._at(step), "validation", *cells, *took]))
        self._record(step, "validation", metrics)

    def samples(self, step: int, rows: Sequence[tuple[str, str, str]]) -> None:
        """Print and record translations: (source, reference, hypothesis) each."""
        for row in rows:
            names = ("source", "reference", "hypothesis")
            self.message("\n".join(f"    {name:10}  {text}" for name, text in zip(names, row, strict=True)) + "\n")
            self._append("samples.jsonl", {"step": step, **dict(zip(names, row, strict=True))})

    def message(self, text: str) -> None:
        """Print above the bar. Control characters, which text from data may hold, are made visible."""
        with self.losing("the log"):
            self._voice.say(text)

    def table(self, title: str, rows: Sequence[Sequence[object]]) -> None:
        """Print rows of cells under a title, columns aligned: numbers right, text left."""
        self.message("\n".join([title, *align(rows)]))

    @contextlib.contextmanager
    def losing(self, what: str) -> Iterator[None]:
        """Let an `OSError` (a full disk), or a file that is not as it should be (a link, too large), cost only what is
        made inside: a line, a plot."""
        try:
            yield
        except (OSError, UserError) as error:
            reason = in_one_line(error)
            self._lost[what, reason] += 1
            if sum(self._lost.values()) == 1:
                with contextlib.suppress(OSError):  # the log itself may be what is full; close says so once more
                    self._voice.say(f"warning: {what} cannot be written ({reason}); the run goes on without")

    def close(self) -> None:
        """Take the bar away and say what was lost."""
        self._voice.end()
        for record in (*self._files.values(), *([self._events.record] if self._events else ())):
            record.close()
        self._files, self._events = {}, None
        for (what, reason), count in self._lost.items():
            with contextlib.suppress(OSError):
                self._voice.say(f"warning: {what}: {count} writes were lost ({reason})")
        self._lost.clear()

    def _record(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        seconds = round(self._seconds_before + time.monotonic() - self._began, 2)
        self._append("metrics.jsonl", {"step": step, "kind": kind, "time": now, "seconds": seconds, **values})
        if self._events is not None:
            with self.losing("tensorboard"):
                self._events.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})

    def _append(self, name: str, entry: Mapping[str, Any]) -> None:
        if name in self._files:
            with self.losing(name):
                self._files[name].append((jsontext.dumps(entry, ascii=False) + "\n").encode())

    def _at(self, step: int) -> str:
        return f"step {step:{self._width}}/{self._total}"


class Progress:
    """How far some long work is: a bar on a terminal, else a line every few seconds. Made by `progress`."""

    _description: str
    _total: int | None
    _done: int

    def __init__(self, voice: "_Voice", description: str, total: int | None) -> None:
        self._voice = voice
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
        self._voice.move(done, self._pace.left(done))
        now = time.monotonic()
        if not self._voice.has_bar and now - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = now
            with contextlib.suppress(OSError):  # nowhere to say it, and the work is worth more than the line
                self._voice.say(self._line())

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self(count)

    def _begin(self, description: str, total: int | None, done: int) -> None:
        self._description = description
        self._total = total
        self._done = done
        self._pace = Pace(done, total)
        self._voice.begin(description, total, done)

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
    voice = _Voice(stream if distributed.index() == 0 else open(os.devnull, "w"))  # noqa: SIM115
    try:
        yield Progress(voice, description, total)
    finally:
        voice.end()


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


class _Voice:
    """Lines on a stream, above a bar if the stream is a terminal."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = sys.stderr if stream is None else stream
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

    def say(self, text: str) -> None:
        text = without_controls(text)
        if self.has_bar:
            self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()


class _Events:
    """A TensorBoard event file of scalars.

    Written here, with the protocol buffers and the checksum of tensorboardX: that package's own writer puts events in a
    queue of ten, and blocks its caller for ever once its thread has died of a full disk.
    """

    def __init__(self, workdir: Path, *, first_step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.record = Record(workdir, f"tensorboard/events.out.tfevents.{time.time_ns()}")
        self._write(Event(file_version="brain.Event:2"))
        # Hides from TensorBoard what an interrupted run recorded of this step and later ones.
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Any) -> None:
        """One TFRecord: length, its checksum, the event, its checksum, little-endian."""
        from tensorboardX.record_writer import masked_crc32c

        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self.record.append(
            length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
        )


def _seconds_of(line: bytes) -> float:
    """`seconds` of a line of JSON; 0 if it has none, as those of older runs."""
    try:
        return float(jsontext.parse(line, "a line")["seconds"])
    except (ValueError, TypeError, KeyError):
        return 0.0
