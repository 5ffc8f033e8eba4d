"""Lines of text in and out: files, pipes, and a terminal."""

import contextlib
import gzip
import io
import lzma
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from s2sjax.data.lines import decompressed, iterate_lines, open_bytes
from s2sjax.errors import UserError
from s2sjax.processes import distributed

WINDOW = 2048
"""Lines worked on together at most: sorted by length among themselves, written as soon as all are done."""


@contextlib.contextmanager
def reading(path: str) -> Iterator[IO[bytes]]:
    """What stands in `path`, decompressed; nothing in all processes but the first, which get its lines by `windows`."""
    path = path if distributed.index() == 0 else os.devnull
    if path == "-":
        if sys.stdin is None:
            raise UserError("standard input is closed; name a file")
        yield sys.stdin.buffer
        return
    with open_bytes(path) as stream:
        yield stream


class Output:
    """Text on its way to a file, a pipe or a screen. What cannot be written is a `UserError` that names the place."""

    def __init__(self, stream: IO[str], name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> None:
        with _naming_errors(self._name):
            self._stream.write(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        with _naming_errors(self._name):
            self._stream.flush()


@contextlib.contextmanager
def _naming_errors(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever reads has gone, which is no mistake
        raise
    except OSError as error:
        raise UserError(f"cannot write {name}: {error.strerror}") from error


@contextlib.contextmanager
def writing(path: str, *read: str) -> Iterator[Output]:
    """What is written to `path`, which must be none of the files that are `read` meanwhile: they would be emptied.

    A path that ends in .gz or .xz is compressed. Of several processes the first writes; what the others write is
    dropped.
    """
    for other in read:
        if "-" not in (path, other) and Path(path).exists() and Path(other).exists() and Path(path).samefile(other):
            raise UserError(f"{path} is read from and cannot be written to at the same time; name another output")
    path = path if distributed.index() == 0 else os.devnull
    if path == "-":
        if sys.stdout is None:
            raise UserError("standard output is closed; name a file with --output")
        cast(io.TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8", newline="\n")
        output = Output(sys.stdout, "standard output")
        yield output
        output.flush()
        return
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    with _naming_errors(path):
        stream = openers.get(Path(path).suffix, open)(path, "wt", encoding="utf-8", newline="\n")
    try:
        yield Output(stream, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            stream.close()
        raise
    with _naming_errors(path):
        stream.close()


_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""What `str.splitlines` ends a line at, and with it what any other reader does."""


def one_line(text: str) -> str:
    """A text as one line, whoever reads it: each character that ends a line for some reader is a space."""
    return text.translate(dict.fromkeys(map(ord, _LINE_ENDS), " "))


def read_lines(stream: IO[bytes], path: str) -> Iterator[str]:
    """Lines without their ends, as training reads them (`data.lines`): only "\\n" and "\\r\\n" end a line."""
    if path == "-":
        path = "standard input"
        # Only now: looking whether it is compressed waits for its first bytes.
        stream = decompressed(stream if hasattr(stream, "peek") else cast(Any, io.BufferedReader)(stream), path)
    yield from iterate_lines(stream, path)


def count_lines(path: str) -> int | None:
    if not Path(path).is_file():  # reading a pipe to count its lines would use them up
        return None
    with open_bytes(path) as stream:
        return sum(1 for _ in iterate_lines(stream, path))


def windows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lists of the lines that are there: at most `WINDOW`, but never waiting for more once there is one.

    A reader thread keeps up with the input, so that a pipe gets its answers line by line and a file is read in windows.
    Of several processes the first reads, and all get what it gets.
    """
    return distributed.shared(_windows(lines))


def all_lines(stream: IO[bytes], path: str) -> list[str]:
    """Every line, also in the processes that do not read."""
    return [line for window in windows(read_lines(stream, path)) for line in window]


def _windows(lines: Iterable[str]) -> Iterator[list[str]]:
    ready: queue.Queue = queue.Queue(maxsize=WINDOW)
    end = object()

    def read() -> None:
        try:
            for line in lines:
                ready.put(line)
            ready.put(end)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=read, name="input", daemon=True).start()
    last = None
    while last is None:
        window, last = _take(ready, end)
        if window:
            yield window
    if last is not end:
        raise last


def _take(ready: queue.Queue, end: object):
    """Wait for one item, then take what is there: the lines, and what ended them (`end`, an error, or None yet)."""
    window: list[str] = []
    item = ready.get()
    while isinstance(item, str):
        window.append(item)
        if len(window) == WINDOW:
            return window, None
        try:
            # A moment's patience lets a file fill a window, and a person typing not notice.
            item = ready.get(timeout=0.02)
        except queue.Empty:
            return window, None
    return window, item
