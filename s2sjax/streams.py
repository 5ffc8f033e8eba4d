"""Lines of text in and out: files, pipes, and a terminal."""

import contextlib
import io
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from s2sjax import distributed
from s2sjax.errors import UserError

WINDOW = 2048
"""Lines worked on together at most: sorted by length among themselves, written as soon as all are done."""


@contextlib.contextmanager
def reading(path: str) -> Iterator[IO[bytes]]:
    """What stands in `path`; nothing in all processes but the first, which get its lines by `windows`."""
    path = path if distributed.index() == 0 else os.devnull
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with stream:
        yield stream


@contextlib.contextmanager
def writing(path: str, *read: str) -> Iterator[IO[str]]:
    """A stream of text to `path`, which must be none of the files that are `read` meanwhile: they would be emptied.

    Of several processes the first writes; what the others write is dropped.
    """
    for other in read:
        if "-" not in (path, other) and Path(path).exists() and Path(other).exists() and Path(path).samefile(other):
            raise UserError(f"{path} is read from and cannot be written to at the same time; name another output")
    path = path if distributed.index() == 0 else os.devnull
    if path == "-":
        cast(io.TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8", newline="\n")
        yield sys.stdout
        return
    try:
        stream = open(path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with stream:
            yield stream
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def read_lines(stream: IO[bytes], path: str) -> Iterator[str]:
    """Lines without their ends; only "\\n" and "\\r\\n" end a line."""
    for number, line in enumerate(stream, start=1):
        try:
            # As in training data, a byte order mark at the beginning is no text.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield text.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            name = "standard input" if path == "-" else path
            raise UserError(
                f"{name}, line {number}: byte {error.start} is not valid UTF-8; convert the file first"
            ) from error


def count_lines(path: str) -> int | None:
    if not Path(path).is_file():  # reading a pipe to count its lines would use them up
        return None
    with open(path, "rb") as stream:
        return sum(1 for _ in stream)


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
