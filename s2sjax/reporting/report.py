"""What a run says while it works: lines and a progress bar on stderr, and its records in the workdir.

`metrics.jsonl` has one object a line: `{"step": 200, "kind": "train", "loss": 3.1, ...}`, `kind` being "train" or
"validation"; NaN and infinities are null. `parts` of a validation has the metrics of each set of a mixture or pair of
languages. `time` is UTC, and `seconds` is how long the run has trained, validated and saved until then: over all its
starts, without the time between them and without what was made again. `samples.jsonl` has
`{"step", "source", "reference", "hypothesis"}`. `tensorboard/` holds the same numbers as event files, under `train/`
and `validation/`. A resumed run first cuts from the two files what came after its checkpoint, so that they end, but for
times, as those of a run that was left alone.

A log line is worth less than the run: when one cannot be written, that is said once, counted, and summed up at the end.
"""

import contextlib
import datetime
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import jax

from s2sjax.errors import UserError, in_one_line
from s2sjax.files import jsontext
from s2sjax.metrics.names import part_and_name
from s2sjax.plural import counted
from s2sjax.reporting.display import Display, align
from s2sjax.reporting.history import Record
from s2sjax.reporting.pace import Pace, duration
from s2sjax.reporting.tensorboard import EventFile

# What a line of training shows, in this order: metric, format. The records hold every metric.
_COLUMNS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("loss", lambda x: f"loss {x:7.4f}"),
    ("perplexity", lambda x: f"ppl {x:8.2f}" if x < 1e5 else f"ppl {x:8.1e}"),
    ("tokens_per_second", lambda x: f"{x:7,.0f} tok/s"),
    ("padding", lambda x: f"pad {100 * x:4.1f}%"),
    ("learning_rate", lambda x: f"lr {x:.2e}"),
    ("gradient_norm", lambda x: f"grad {x:7.3f}" if x < 1e3 else f"grad {x:7.1e}"),
)


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
        self._display = Display(stream if jax.process_index() == 0 else open(os.devnull, "w"))  # noqa: SIM115
        self._lost: Counter[tuple[str, str]] = Counter()
        self._loss = "smoothed loss" if smoothed else "loss"
        self._pace = Pace(resumed_from, total_steps)
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._files: dict[str, Record] = {}
        self._events: EventFile | None = None
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
                    self._events = EventFile(self.workdir, first_step=resumed_from + 1)
        self._display.begin("training", total_steps, resumed_from)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, step: int) -> None:
        """Move the bar, where there is one."""
        self._display.move(step, self._pace.left(step))

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
        self._display.move(step, left)
        self._pace.mark(step)
        self._record(step, "train", metrics)

    def validation(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        seconds: float | None = None,
        parts: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Print and record validation metrics, and how long they took.

        Args:
            parts: the metrics of each set of a mixture or pair of languages.
        """
        took = [] if seconds is None else [f"{seconds:.1f} s"]
        self.message(" | ".join([self._at(step), "validation", *_cells(metrics), *took]))
        self._record(step, "validation", metrics, parts)
        for name, values in (parts or {}).items():
            self.message(" | ".join([self._at(step), f"  {name}", *_cells(values)]))

    def samples(self, step: int, rows: Sequence[tuple[str, str, str]]) -> None:
        """Print and record translations: (source, reference, hypothesis) each."""
        for row in rows:
            names = ("source", "reference", "hypothesis")
            # A text's later lines stand below its first.
            texts = (text.replace("\n", "\n" + " " * 16) for text in row)
            self.message("\n".join(f"    {name:10}  {text}" for name, text in zip(names, texts, strict=True)) + "\n")
            self._append("samples.jsonl", {"step": step, **dict(zip(names, row, strict=True))})

    def message(self, text: str) -> None:
        """Print above the bar. Control characters, which text from data may hold, are made visible."""
        with self.losing("the log"):
            self._display.print(text)

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
                    self._display.print(f"warning: {what} cannot be written ({reason}); the run goes on without")

    def close(self) -> None:
        """Take the bar away and say what was lost."""
        self._display.end()
        for record in (*self._files.values(), *([self._events.record] if self._events else ())):
            record.close()
        self._files, self._events = {}, None
        for (what, reason), count in self._lost.items():
            with contextlib.suppress(OSError):
                self._display.print(f"warning: {what}: {counted(count, 'write')} lost ({reason})")
        self._lost.clear()

    def _record(
        self,
        step: int,
        kind: str,
        metrics: Mapping[str, float],
        parts: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        seconds = round(self._seconds_before + time.monotonic() - self._began, 2)
        of_each = {"parts": parts} if parts else {}
        self._append("metrics.jsonl", {"step": step, "kind": kind, "time": now, "seconds": seconds, **values} | of_each)
        if self._events is not None:
            with self.losing("tensorboard"):
                of_parts = {f"{part}/{name}": v for part, each in (parts or {}).items() for name, v in each.items()}
                self._events.scalars(step, {f"{kind}/{name}": value for name, value in (values | of_parts).items()})

    def _append(self, name: str, entry: Mapping[str, Any]) -> None:
        if name in self._files:
            with self.losing(name):
                self._files[name].append((jsontext.dumps(entry, ascii=False) + "\n").encode())

    def _at(self, step: int) -> str:
        return f"step {step:{self._width}}/{self._total}"


def _cells(metrics: Mapping[str, float]) -> list[str]:
    digits = {name: 4 if part_and_name(name)[1] == "loss" else 2 for name in metrics}
    return [f"{name} {value:.{digits[name]}f}" for name, value in metrics.items()]


def _seconds_of(line: bytes) -> float:
    """`seconds` of a line of JSON; 0 if it has none, as those of older runs."""
    try:
        return float(jsontext.parse(line, "a line", most=jsontext.LINE)["seconds"])
    except (ValueError, TypeError, KeyError):
        return 0.0
