"""The one exception that is shown to a user as a sentence instead of a traceback, and sentences made of the others."""

import itertools
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable

from s2sjax.plural import counted


class UserError(ValueError):
    """A mistake in what the user gave: a config, a file, a command line.

    The message names the value, what was expected, and the way out. The command line prints the message alone
    and exits with code 2; from Python it is an ordinary `ValueError`. A message that is longer than anybody reads loses
    its middle: it begins with what is wrong, and ends with the way out.
    """

    def __init__(self, message: str) -> None:
        left_out = len(message) - _LONGEST_MESSAGE
        if left_out > 0:
            head, tail = message[: _LONGEST_MESSAGE * 3 // 4], message[-_LONGEST_MESSAGE // 4 :]
            message = f"{head} ... ({counted(left_out, 'character')} more) ... {tail}"
        super().__init__(message)


def without_controls(text: str) -> str:
    """Text to print, which may hold values from files: without what would steer a terminal, or turn the direction of
    what is shown. Line ends stay."""
    return "".join("\ufffd" if c != "\n" and _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return turns or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """Text to print within a line: as `without_controls`, and without what would end the line or turn its direction."""
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else "\ufffd" for c in text)


_LONGEST_MESSAGE = 8000
_LONGEST_VALUE = 1000


def flag(name: str, value: object) -> str:
    """An option of the command line as a shell takes it, to be copied from a message whatever its value is.

    What cannot be seen is not in it: nobody could judge it. Values that are no text are written as in Python. Nobody
    copies the longest ones from a message either: they are left out.
    """
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _LONGEST_VALUE:
        return f"--{name}=... (as it is, {counted(len(text), 'character')})"
    return f"--{name}=" + (_quoted("".join(c if c.isprintable() else "\ufffd" for c in text)) if text else "")


def _quoted(text: str) -> str:
    """One word of a shell. Double quotes are easier to read around single ones, where nothing in them is expanded."""
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text)


def shown(value: object, most: int = 50) -> str:
    """A value for a message, cut where it is long; of what is neither number nor text, the type."""
    if hasattr(value, "item") and not hasattr(value, "__len__"):  # numpy's scalars
        value = value.item()
    if isinstance(value, int) and abs(value) >= 10**30:  # Python refuses to print the longest at all
        return f"a whole number of {counted(value.bit_length(), 'bit')}"
    if isinstance(value, str):
        value = str(value)  # of a subclass, such as numpy's, the text alone
    if value is not None and not isinstance(value, str | bytes | int | float):
        return f"of type {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def listed(names: Iterable[object], most: int = 2000) -> str:
    """Names for a message, with commas between them: as many as have `most` characters together; of the others, how
    many there are. A name alone is cut at 200."""
    texts = [text if len(text) <= 200 else f"{text[:200]}..." for text in map(str, names)]
    ends = itertools.accumulate(len(text) + 2 for text in texts)
    count = max(sum(1 for _ in itertools.takewhile(lambda end: end <= most, ends)), 1)
    more = f" and {len(texts) - count:,} more" if len(texts) > count else ""
    return ", ".join(texts[:count]) + more


def in_one_line(error: BaseException) -> str:
    """What to tell a user of an error from below: the operating system's words where there are any."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if type(error).__module__.startswith("s2sjax."):
        return str(error)
    text = str(error)
    code, file = re.search(r"os_error_code='(\d+)'", text), re.search(r'local file "([^"]+)"', text)  # tensorstore's
    if code:
        return os.strerror(int(code[1]))
    if file:
        kind = re.search("|".join(_TENSORSTORE), text)
        return f"file {file[1]}: {_TENSORSTORE[kind[0]] if kind else 'damaged'}"
    return f"{type(error).__name__}: {next(iter(text.splitlines()), '')[:200]}"


_TENSORSTORE = {"NOT_FOUND": "missing", "OUT_OF_RANGE": "too short"}
"""What tensorstore calls what it cannot read, in a page that names the file somewhere."""
