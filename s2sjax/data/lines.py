r"""Lines of UTF-8 files: by number, however large the file (`Lines`), or one after the other (`iterate_lines`).

Everything that reads lines reads them alike. Only "\n" ends a line: U+2028, \x0b and their like are text. One "\r"
before it is dropped, so is a byte order mark at the beginning. A file whose first bytes are those of gzip or xz is
read decompressed, whatever it is called. Text in UTF-16 or UTF-32, and text whose lines end with "\r" alone, is refused
by name: read as UTF-8 it would be nonsense, or one long line.
"""

import codecs
import contextlib
import gzip
import hashlib
import io
import lzma
import mmap
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from s2sjax.errors import UserError

_CHUNK = 1 << 24  # bytes looked at in one go while indexing: bounds memory whatever the size of the file
_HEAD = 1024  # first bytes by which compression and encoding are recognised
_COMPRESSED: dict[str, tuple[bytes, str, Callable[..., Any]]] = {
    ".gz": (b"\x1f\x8b", "gzip", gzip.open),
    ".xz": (b"\xfd7zXZ\x00", "xz", lzma.open),
}
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_ZEROS = {  # by the width of a unit: which of its bytes are zero in at least such a share of them, and which seldom are
    4: {"UTF-32LE": ([2, 3], 0.99, [0]), "UTF-32BE": ([0, 1], 0.99, [3])},
    2: {"UTF-16LE": ([1], 0.05, [0]), "UTF-16BE": ([0], 0.05, [1])},
}
_SELDOM = 0.25  # as often, at most: U+0100 has its zero on the other side
_WHITE = b"\t\n\v\f\r"
_DECOMPRESSION_ERRORS = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class BadRecord(UserError):
    """One record that cannot be read, among others that may well be.

    Its reason can be written as UTF-8: a lone surrogate, of a file's name or of a field's, becomes "\\ud800".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason.encode(errors="backslashreplace").decode())


class Lines:
    """The lines of one file by number from 0.

    Args:
      strict: check all of it now; else a line that is not UTF-8 raises `BadRecord` when it is read.
      only_line_feeds: refuse a file whose lines end with carriage returns alone. CSV has a reader that knows them.

    Raises:
      UserError: the file cannot be read or is not UTF-8 (line and byte offset are named).
    """

    def __init__(self, path: Path, *, strict: bool = True, only_line_feeds: bool = True) -> None:
        self.path = path
        self.data = _read(path)
        check_encoding(self.data[:_HEAD], str(path))
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
        if only_line_feeds and not len(ends) and _old_line_ends(self.data):
            raise UserError(_OLD_LINE_ENDS.format(name=path))
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

    def filled(self) -> np.ndarray:
        """Numbers of the lines that hold anything, ascending."""
        lengths = self._ends - self._starts
        empty = lengths == 0
        single = np.flatnonzero(lengths == 1)
        empty[single] = np.frombuffer(self.data, np.uint8)[self._starts[single]] == ord("\r")
        return np.flatnonzero(~empty)

    def count(self, character: str) -> np.ndarray:
        """How often each line holds an ASCII character that ends no line, int64."""
        before, total = np.zeros(len(self) + 1, np.int64), 0  # how many stand before the end of each line
        for begin in range(0, len(self.data), _CHUNK):
            chunk = np.frombuffer(self.data[begin : begin + _CHUNK], np.uint8)
            places = np.flatnonzero(chunk == ord(character)) + begin
            first, last = np.searchsorted(self._ends, [begin, begin + len(chunk)])
            before[1 + first : 1 + last] = total + np.searchsorted(places, self._ends[first:last])
            total += len(places)
        # The end of a last line without a line feed is that of the file.
        before[1 + np.searchsorted(self._ends, len(self.data)) :] = total
        return np.diff(before)

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


def check_encoding(head: bytes, name: str) -> None:
    """Refuse text that is not UTF-8 but UTF-16 or UTF-32, by the first bytes of a file.

    Raises:
      UserError: they begin with a byte order mark of those encodings, or hold zeros where these put them.
    """
    encoding = _encoding(head)
    if encoding:
        raise UserError(
            f"{name} is text in {encoding}, and UTF-8 is read; convert it: iconv -f {encoding.lower()} -t utf-8 OLD > "
            "NEW"
        )


def iterate_lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """The lines of a stream, such as `open_bytes` gives, one after the other.

    Raises:
      UserError: a line is not UTF-8, the text is of another encoding, or what is compressed is damaged.
    """
    try:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                # A line of UTF-16 in little-endian order breaks within its line end; the rest of that is the next line.
                check_encoding(line[:_HEAD], name)
                if not line.endswith(b"\n") and _old_line_ends(line):
                    raise UserError(_OLD_LINE_ENDS.format(name=name))
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name}, line {number}: byte {error.start} is not valid UTF-8; convert the file first, for "
                    "instance with iconv -f latin1 -t utf-8"
                ) from error
            yield text.removesuffix("\n").removesuffix("\r")
    except _DECOMPRESSION_ERRORS as error:
        raise UserError(_damaged(name, error)) from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from error


@contextlib.contextmanager
def open_bytes(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to read as a stream, decompressed if its first bytes say that it is gzip or xz.

    Raises:
      UserError: it cannot be opened, or its name ends with .gz or .xz and it is not that.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            stream = stack.enter_context(decompressed(file, str(path)))
        except UserError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        yield stream


def decompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    """The same stream, decompressed if its first bytes are those of gzip or xz; nothing of it is lost.

    Args:
      stream: one that can be peeked into, as `open` and `sys.stdin.buffer` give.

    Raises:
      UserError: its name ends with .gz or .xz and it is not that.
    """
    # A pipe may hand over less than the six bytes that xz begins with, but never none before its end.
    head = cast(io.BufferedReader, stream).peek(_HEAD)[:_HEAD]
    for suffix, (magic, kind, opener) in _COMPRESSED.items():
        if head.startswith(magic):
            return cast(IO[bytes], opener(stream))
        if head and name.endswith(suffix):
            raise UserError(f"cannot read {name}: it is not {kind}, as its name says; rename it, or compress it again")
    return stream


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


_OLD_LINE_ENDS = (
    "{name} has lines that end with a carriage return alone, as old Macintosh files have; convert it: "
    r"tr '\r' '\n' < OLD > NEW"
)


def _old_line_ends(data: bytes | mmap.mmap) -> bool:
    """Whether bytes without a line feed hold several lines all the same."""
    return 0 <= data.find(b"\r") < len(data) - 1


def _encoding(head: bytes) -> str:
    """UTF-16 or UTF-32, with its byte order where no mark says it; empty if it is neither."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" not in head:
        return ""
    # Letters of one script, spaces and line ends have zeros in always the same places, and seldom elsewhere.
    for width, orders in _ZEROS.items():
        units = np.frombuffer(head[: len(head) // width * width], np.uint8).reshape(-1, width)
        zeros = (units == 0).mean(axis=0) if len(units) else np.zeros(width)
        for encoding, (often, least, seldom) in orders.items():
            if zeros[often].min() >= least and zeros[seldom].max() <= _SELDOM * zeros[often].min():
                return "" if _utf8_but_for_zeros(head, encoding) else encoding
    return ""


def _utf8_but_for_zeros(head: bytes, encoding: str) -> bool:
    """Whether bytes that may be of this encoding are rather UTF-8 with a few zeros among them.

    Read as UTF-8, the other encodings are invalid, or have a zero beside every letter or line end, or a control
    character for the upper half of each letter: "\\x04" of Cyrillic, "\\t" of Devanagari.
    """
    text = head.replace(b"\0", b"")
    control = [byte for byte in text if byte < ord(" ")]
    line_end = "\n".encode(encoding)
    line_feeds = head.count(b"\n") - (line_end.startswith(b"\n") and head.endswith(b"\n"))  # of a line that is cut
    if (
        4 * (len(head) - len(text)) >= len(head)
        or 4 * len(control) >= len(text)
        or not set(control) <= set(_WHITE)
        or 0 < line_feeds == head.count(line_end)
    ):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
    return True


def _damaged(name: str, error: Exception) -> str:
    return f"cannot read {name}: the compressed data is damaged or cut off ({error}); compress or copy it again"


def _read(path: Path) -> bytes | mmap.mmap:
    try:
        with path.open("rb") as file, decompressed(file, str(path)) as stream:
            if stream is not file:
                return stream.read()
            if path.stat().st_size == 0:
                return b""  # mmap refuses empty files
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except _DECOMPRESSION_ERRORS as error:
        raise UserError(_damaged(str(path), error)) from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
