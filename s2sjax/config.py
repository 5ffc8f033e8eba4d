"""From nested mappings (ConfigDict, JSON) to frozen dataclasses and back.

Config files and flags speak ml-collections; the code speaks frozen dataclasses, one beside each thing it configures.
This file is the bridge, and knows no particular section.
"""

import dataclasses
import difflib
import functools
import itertools
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from s2sjax.errors import UserError, listed, shown
from s2sjax.upgrade import moved_from

T = TypeVar("T")


def nearest(name: str, known: Iterable[str], moved: Mapping[str, str] | None = None) -> str:
    """A sentence that names the closest known name, or all of them: the way out in an error message.

    Args:
        moved: old names that are close as well, each with what it is called today.
    """
    known, moved = sorted(known), moved or {}
    match = closest(name, [*known, *moved], cutoff=0.5)
    listing = f"known: {listed(known)}"
    return f"did you mean '{moved.get(match[0], match[0])}'? ({listing})" if match else listing


_COMPARED = 20_000
"""Names that are compared with what was typed: each takes some microseconds, and a vocabulary may have millions."""


def closest(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names that somebody may have meant, the likeliest first: those that begin with what was typed, else those
    that hold it, else those that are spelled like it.

    Args:
        most: how many.
        cutoff: how much alike spellings are at least, from 0 to 1 (`difflib`).
    """
    name, known = name[:100], list(itertools.islice(known, _COMPARED))  # a file's may be long: its square counts
    for holds in (str.startswith, str.__contains__) if len(name) > 2 else ():
        if found := [each for each in known if holds(each, name)]:
            return difflib.get_close_matches(name, found, n=most, cutoff=0.0)
    return difflib.get_close_matches(name, known, n=most, cutoff=cutoff)


def to_json(section: Any) -> dict[str, Any]:
    """A dataclass instance as plain JSON values; `build` is its inverse."""
    return _plain(section)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def build(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Build the frozen dataclass `cls` from a mapping, checking names and types.

    Raises:
        UserError: for an unknown key (naming the nearest known one), a value of the wrong type, or no mapping at all.
    """
    check_mapping(values, where)
    return cls(**{name: coerce_field(cls, name, value, where) for name, value in values.items()})


def coerce_field(cls: type, name: str, value: Any, where: str) -> Any:
    """A plain value as this field of the dataclass `cls` takes it. Raises: UserError, as `build`."""
    fields = _hints(cls)
    if name not in fields:
        meant = nearest(name, fields, moved_from(where.partition(".")[2]))
        raise UserError(f"{where}.{name} is not a config key: {meant}")
    hint, most = fields[name]
    return coerce(value, hint, f"{where}.{name}", most)


@functools.cache
def _hints(cls: type) -> Mapping[str, tuple[Any, float | None]]:
    """The type of each field of a dataclass, and the greatest number that it may hold."""
    hints = typing.get_type_hints(cls)
    return {field.name: (hints[field.name], field.metadata.get("most")) for field in dataclasses.fields(cls)}


def check_mapping(value: Any, where: str) -> Mapping[str, Any]:
    """The value, if it is a mapping. Raises: UserError if it is none."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {shown_value(value)}, but a mapping of keys to values was expected")
    return value


def as_in_json(value: Any) -> Any:
    """A value that Python has more forms of than JSON: numpy's scalars, and paths."""
    import numpy as np  # help does without

    if isinstance(value, np.generic):
        value = value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def coerce(value: Any, hint: Any, where: str, most: float | None = None) -> Any:
    """A plain value as a field of type `hint` takes it.

    Raises:
        UserError: it is of another type, or a number out of bounds (`most` of `check_number`).
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hints = [h for h in typing.get_args(hint) if h is not type(None)]
        # Where one value or several may stand, the value says which it is.
        hint = next((h for h in hints if isinstance(value, list | tuple) == (typing.get_origin(h) is tuple)), hints[0])
        origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(coerce(item, typing.get_args(hint)[0], f"{where}[{i}]") for i, item in enumerate(value))
    expected = origin or hint
    number = isinstance(value, int | float if expected is float else int) and not isinstance(value, bool)
    if expected in (int, float) and number:
        return check_number(value, expected, where, most)
    if not isinstance(value, expected) or expected in (int, float):
        raise UserError(f"{where} is {shown_value(value)}, but {_WORDS.get(expected, expected.__name__)} was expected")
    return value


def check_number(value: int | float, of: type, where: str, most: float | None = None) -> Any:
    """A number as a whole number (`of` is int) or a float, if it is one that the devices can hold.

    Args:
        most: the greatest absolute value; None: of a whole number what 32 bits hold, of a float what float32 does.

    Raises:
        UserError: it is larger, not finite, or so small that float32 would take it for 0.
    """
    limit = most if most is not None else _LARGEST[of]
    if not abs(value) <= limit:  # of a NaN nothing is true
        # A whole number has all its digits: 1e+18 would be no one's limit.
        most_text = f"{limit:,}" if isinstance(limit, int) else f"{limit:,.10g}"
        raise UserError(f"{where} is {shown_value(value)}, but a number of at most {most_text} was expected")
    if of is float and 0 < abs(value) < _SMALLEST:
        raise UserError(
            f"{where} is {shown_value(value)}, which float32 cannot tell from 0: give 0, or at least 1.18e-38"
        )
    return of(value)


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", tuple: "a tuple of values"}
MOST_SEED = 2**63 - 1
_LARGEST = {int: 2**31 - 1, float: 3.4028234e38}
_SMALLEST = 2.0**-126
"""Float32's smallest normal number: XLA takes what is below for 0."""


def shown_value(value: Any) -> str:
    """A value of a config for a message, which a long one does not drown."""
    if not isinstance(value, list | tuple | dict):
        return shown(value, most=200)
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> dict[str, tuple[Any, Any]]:
    """Keys at which two nested JSON mappings differ, as `{dotted key: (old, new)}`; a missing key is `None`."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*old, *new}):
        a, b, path = old.get(key), new.get(key), f"{where}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{path}.")
        elif a != b:
            found[path] = (a, b)
    return found


def choose(value: str, choices: Iterable[str], where: str) -> None:
    """Raise a `UserError` unless `value` is one of `choices`."""
    if value not in (choices := tuple(choices)):
        raise UserError(f"{where} is {shown(value)}: {nearest(value, filter(None, choices))}")


def one_of(choices: Iterable[str], default: Any) -> Any:
    """A field of a config dataclass that takes one of `choices`, or a tuple of them.

    Written `kind: str = one_of(KINDS, "bpe")`. `check_choices` validates it, and `--help` and completion list the same
    choices (`s2sjax.commands.reference`).
    """
    return dataclasses.field(default=default, metadata={"choices": tuple(map(str, choices))})


def up_to(most: float, default: Any) -> Any:
    """A number of a config dataclass that may be as large as `most`, where the usual limits are not the right ones."""
    return dataclasses.field(default=default, metadata={"most": most})


def named() -> Any:
    """A field of a config dataclass that maps names of the user's own to values; empty by default.

    Mappings have no hash: two configs that differ in it alone have the same, and are not equal.
    """
    return dataclasses.field(default_factory=dict, hash=False)


def check_choices(section: Any, where: str) -> None:
    """Raise a `UserError` for the first field made by `one_of` that is none of its choices."""
    for field in dataclasses.fields(section):
        if "choices" in field.metadata:
            value = getattr(section, field.name)
            for each in value if isinstance(value, tuple) else (value,):
                choose(each, field.metadata["choices"], f"{where}.{field.name}")


def check_at_least(least: float, section: Any, *names: str, where: str = "config.model") -> None:
    """Raise a `UserError` for the first of these fields of a dataclass that is below `least`."""
    for name in names:
        if getattr(section, name) < least:
            raise UserError(f"{where}.{name} is {getattr(section, name)}, but must be at least {least}")


def check_rate(section: Any, *names: str, where: str = "config.model") -> None:
    """Raise a `UserError` for the first of these fields of a dataclass that is no dropout rate: in 0..1, below 1."""
    for name in names:
        if not 0 <= getattr(section, name) < 1:
            raise UserError(f"{where}.{name} is {getattr(section, name)}, but must be in 0..1, below 1")
