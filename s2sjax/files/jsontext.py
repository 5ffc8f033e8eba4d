"""JSON, read and written in one place: whatever is wrong with what comes from a file becomes a sentence, and what
goes into one can be read by any other program.

`json.loads` alone lets through what fails later, each in its own way: NaN and infinities, integers that no float can
hold, lone surrogates that cannot be printed, nesting that ends in a RecursionError. It also takes more memory than the
text has: an empty list of three characters becomes 64 bytes. So a text is held to a `Bound` before it is parsed.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from s2sjax.errors import UserError
from s2sjax.plural import counted

DEEPEST = 64
"""Levels of nesting. What s2sjax writes has at most 6."""
_LEAST, _BEYOND = -(2**63), 2**64


@dataclass(frozen=True)
class Bound:
    """What a JSON text may have: far more than an honest one of its kind, and little enough to be held.

    Parsed, it takes up to 9 bytes for each byte (text with one character beyond U+FFFF has 4 bytes a character, and so
    have the strings in it) and 90 for each separator (measured in CPython 3.11: 88 for a list or a short string).

    Attributes:
      size: bytes.
      separators: how many of `[{,:` stand outside of strings. Every value but the first has one before it.
    """

    size: int
    separators: int


SMALL = Bound(1 << 22, 100_000)
"""For a file of a few lines: 100,000 entries would be some 3 MB."""
LINE = Bound(1 << 20, 10_000)
"""For a line of a file that grows. Ours have at most some 50 values, and a text or two."""


def parse(
    content: bytes | str, where: object, *, most: Bound | None = SMALL, of: type = dict, strict: bool = True
) -> Any:
    """The value in a JSON text.

    Args:
        where: the file, and the line if it is one of many, for the message.
        most: what the text may have; None: it is as large as its reader likes it to be.
        of: the type that the whole has to be, such as `dict`; `object` for any.
        strict: refuse too what only fails when it is used: NaN, numbers beyond 64 bits, lone surrogates. Records of a
            data set are not read so: most of their fields are none of our business.

    Raises:
        UserError: it is not valid UTF-8 or not JSON, is nested deeper than `DEEPEST`, is of another type, or has more
            than `most`.
    """
    if most is not None:
        check(content, where, most)
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = (_STRICT if strict else _PLAIN).decode(text)
        # Most texts have not as many brackets: counting those is quick.
        if text.count("{") + text.count("[") > DEEPEST and not _is_shallow(value):
            raise ValueError(f"nested more than {counted(DEEPEST, 'level')} deep")
        if strict and ("\\ud" in text or "\\uD" in text):  # the only way to spell a lone surrogate in valid UTF-8
            for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):  # not in one: that takes as much again
                piece.encode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not valid JSON: byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise UserError(f"{where} is not valid JSON: it spells half of a character (a lone surrogate)") from None
    except RecursionError:
        raise UserError(f"{where} is not valid JSON: nested more than {counted(DEEPEST, 'level')} deep") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " * ("\n" in text[:-1])  # of one among many lines, `where` says the number
        raise UserError(f"{where} is not valid JSON: {error.msg} ({line}column {error.colno})") from None
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, of):
        raise UserError(f"{where} holds {NAMES[type(value)]}, expected {NAMES.get(of, of.__name__)}")
    return value


def dumps(value: Any, *, indent: int | None = None, sort_keys: bool = False, ascii: bool = True) -> str:
    """A value as JSON text, without a line end. NaN and infinities, which JSON does not have, become null.

    Args:
        indent: spaces for each level; None puts all on one line.
        ascii: escape every character beyond ASCII.

    Raises: TypeError for what is no value of JSON, such as an array.
    """
    encoder = json.JSONEncoder(ensure_ascii=ascii, allow_nan=False, indent=indent, sort_keys=sort_keys)
    try:
        return encoder.encode(value)
    except ValueError:  # rare, so that only then all values are looked at
        return encoder.encode(with_nulls(value))


def printed(value: Any, *, indent: int | None = None) -> str:
    """As `dumps`, to be printed: what would end a line for some reader, steer a terminal or turn the direction of what
    is shown is escaped, and so is half of a character. Other letters stand as they are."""
    return dumps(value, indent=indent, ascii=False).translate(_ESCAPED)


def printed_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON, its end included; texts are exact, and the line is one to every reader."""
    return printed(record) + "\n"


_SPANS = ((0x7F, 0x9F), (0x2028, 0x202E), (0x2066, 0x2069), (0xD800, 0xDFFF))
_ESCAPED = {code: f"\\u{code:04x}" for first, last in _SPANS for code in range(first, last + 1)}
"""What JSON lets stand as it is; it can stand in strings only."""


def pieces(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> Iterator[str]:
    """As `dumps`, piece by piece: all of them at once take thirty times the memory of the text. Raises: ValueError for
    NaN and infinities."""
    return json.JSONEncoder(allow_nan=False, indent=indent, sort_keys=sort_keys).iterencode(value)


def with_nulls(value: Any) -> Any:
    """A value of JSON with null in place of NaN and infinities."""
    if isinstance(value, dict):
        return {name: with_nulls(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_nulls(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check(content: bytes | str, where: object, most: Bound) -> None:
    """Raise a UserError if a JSON text has more than `most`. It takes no more memory than the text; whether that is
    valid is not looked at. Who writes a file that will be read within a bound checks it too, before it is too late."""
    if len(content) > most.size:  # of a str, which has no more characters than bytes
        raise UserError(f"{where} has {counted(len(content), 'byte')}, expected at most {most.size:,}")
    kind = str if isinstance(content, str) else bytes
    marks: Any = "[{,:" if kind is str else [b"[", b"{", b",", b":"]
    if sum(map(content.count, marks)) <= most.separators:  # quick, and enough for most: strings are counted too
        return
    found = 0
    for match in _PARTS[kind].finditer(content):
        if match.lastindex is not None:
            found += sum(map(match[1].count, marks))
        if found > most.separators:
            raise UserError(
                f"{where} holds more than {counted(most.separators, 'value')}, which no file of its kind does"
            )


_PATTERN = r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|([^"]++)'
"""A string, also one that does not end, or what stands between two. Nothing in it is tried twice."""
_PARTS: dict[type, re.Pattern] = {
    str: re.compile(_PATTERN, re.DOTALL), bytes: re.compile(_PATTERN.encode(), re.DOTALL),
}  # fmt: skip


NAMES: dict[type, str] = {  # what a user calls values of JSON
    dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false",
    type(None): "null",
}  # fmt: skip


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not _LEAST <= (value := int(digits)) < _BEYOND:
        raise ValueError(f"the integer {digits[:20]}{'...' * (len(digits) > 20)} has more than 64 bits")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]}{'...' * (len(digits) > 20)} is too large")
    return value


_STRICT = json.JSONDecoder(parse_constant=_constant, parse_int=_integer, parse_float=_number)
_PLAIN = json.JSONDecoder()


def _is_shallow(value: Any) -> bool:
    """Level by level: a walk that calls itself would fail where this has to decide."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False
