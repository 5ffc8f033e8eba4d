"""Lines of UTF-8 files by number, however large the file."""

import codecs
import gzip
import hashlib
import lzma
import mmap
import zlib
from pathlib import Path

import numpy as np

from s2sjax.errors import UserError

_CHUNK = 1 << 24  # bytes looked at in one go while indexing: bounds memory whatever the size of the file


class BadRecord(UserError):
    """One record that cannot be read, among others that may well be."""


class Lines:
    r"""The lines of one UTF-8 file (plain, .gz or .xz), by number from 0.

    Only "\n" ends a line: U+2028, \x0b and their like are text. One "\r" before it is dropped, so is a byte order mark.

    Args:
      strict: check all of it now; else a line that is not UTF-8 raises `BadRecord` when it is read.

    Raises:
      UserError: the file cannot be read or is not UTF-8 (line and byte offset are named).
    """

    def __init__(self, path: Path, *, strict: bool = True) -> None:
        self.path = path
        self.data = _read(path)
        newlines = [np.zeros(0, np.int64)]
        decoder = codecs.getincrementaldecoder("utf-8")()
        for begin in range(0, len(self.data), _CHUNK):
            chunk = self.data[begin : begin + _CHUNK]
            newlines.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + begin)
            if not strict:
                continue
            try:
                decoder.decode(chunk, final=begin + _CHUNK >= len(self.data))
            except UnicodeDecodeError as error:
                # The decoder's positions count from the bytes that it kept from the chunk before.
                offset = begin + len(chunk) - len(error.object) + error.start
                line = int(np.searchsorted(np.concatenate(newlines), offset))
                raise self._not_utf8(line, offset, error) from None
        ends = np.concatenate(newlines)
        if len(self.data) and self.data[-1:] != b"\n":
            ends = np.append(ends, len(self.data))
        self._ends = ends
        self._starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)].astype(np.int64)
        if len(ends) and self.data[:3] == codecs.BOM_UTF8:
            self._starts[0] = len(codecs.BOM_UTF8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        try:
            return self.data[self._starts[index] : self._ends[index]].decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise self._not_utf8(index, int(self._starts[index]) + error.start, error) from None

    def _not_utf8(self, index: int, offset: int, error: UnicodeDecodeError) -> BadRecord:
        return BadRecord(
            f"{self.where(index)}, byte offset {offset}: not valid UTF-8 ({error.reason}, byte "
            f"0x{self.data[offset]:02x}); convert the file, for instance with iconv -f latin1 -t utf-8"
        )

    def where(self, index: int) -> str:
        return f"{self.path}, line {index + 1}"

    def digest(self) -> str:
        """Hash of the file as it is stored."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def misalignment(source: Lines, target: Lines) -> str:
    """Says where two files of different line counts first go wrong, as well as that can be seen.

    That is the first line where exactly one side is empty; without one, the place where the shorter file ends.
    """
    shorter, longer = sorted((source, target), key=len)
    message = f"line counts differ: {source.path} has {len(source)}, {target.path} has {len(target)}. "
    for i in range(len(shorter)):
        if bool(source[i]) != bool(target[i]):
            return message + f"First differing place: line {i + 1}, {_cut(source[i])} beside {_cut(target[i])}"
    end = len(shorter)
    place = f"{_cut(longer[end])} in {longer.path} has no partner"
    last = f"; line {end} is {_cut(source[end - 1])} beside {_cut(target[end - 1])}" if end else ""
    return message + f"First differing place: line {end + 1}, {place}{last}"


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _read(path: Path) -> bytes | mmap.mmap:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        if path.suffix == ".xz":
            with lzma.open(path) as file:
                return file.read()
        if path.stat().st_size == 0:
            return b""  # mmap refuses empty files
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
