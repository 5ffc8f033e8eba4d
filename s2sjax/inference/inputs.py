"""What callers of the Python API pass: texts, and hypotheses. Whatever is wrong with it is said in one sentence.

A list is any iterable with an order: list, tuple, generator, 1-d array, column of a table. A string is none, although
Python would iterate over its characters.
"""

import io
import os
from collections.abc import Callable, KeysView, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from s2sjax.errors import UserError, shown
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.plural import counted

T = TypeVar("T")


def list_of(things: str, given: Any, name: str) -> list[Any]:
    """The items of what should be a list of `things`, "texts" for instance.

    Raises:
        UserError: it is one string, or nothing to iterate over in an order.
    """
    if isinstance(given, str):
        raise UserError(
            f"{name} is one text, {shown(given)}, where a list of {things} was expected: put it into a list"
        )
    if isinstance(given, io.IOBase):
        raise UserError(f"{name} is an open file, whose lines keep their ends: give [x.rstrip('\\n') for x in file]")
    dimensions = getattr(given, "ndim", 1)  # of an array, or of a table, which would iterate over names of columns
    no_list = isinstance(given, bytes | bytearray | memoryview | Mapping | Set) and not isinstance(given, KeysView)
    if no_list or dimensions != 1:
        shape = "" if dimensions == 1 else f" of {counted(dimensions, 'dimension')}"
        raise UserError(f"{name} is {shown(given)}{shape}, but a list of {things} was expected")
    try:
        items = iter(given)
    except TypeError:
        raise UserError(f"{name} is {shown(given)}, but a list of {things} was expected") from None
    return list(items)  # what a generator raises is its caller's


def texts(given: Any, name: str) -> list[str]:
    """The texts of a list of them. Raises: UserError if it is no list, or holds something else."""
    return [text(item, f"{name}[{i}]") for i, item in enumerate(list_of("texts", given, name))]


def targets(given: Any, sources: Sequence[str], name: str = "targets") -> list[str | Hypothesis]:
    """A text or a hypothesis for each source. Raises: UserError if it is no list of them, or not one for each."""
    items = list_of("texts or hypotheses", given, name)
    return for_each(sources, [_target(item, f"{name}[{i}]") for i, item in enumerate(items)], name)


def hypotheses(given: Any, sources: Sequence[str], name: str = "found") -> list[list[Hypothesis]]:
    """A list of hypotheses for each source, as `decode` returns them. Raises: UserError if it is something else."""
    groups = []
    for i, group in enumerate(list_of("lists of hypotheses, as decode returns them,", given, name)):
        if isinstance(group, Hypothesis):
            raise UserError(f"{name}[{i}] is one hypothesis, but a list of them was expected, as decode returns it")
        items = list_of("hypotheses, as decode returns it,", group, f"{name}[{i}]")
        groups.append([_hypothesis(item, f"{name}[{i}][{j}]") for j, item in enumerate(items)])
    return for_each(sources, groups, name)


def phrases(given: Any, sources: Sequence[str], name: str = "phrases") -> list[list[str]]:
    """A list of texts for each source. Raises: UserError if it is something else."""
    listed = list_of("lists of texts", given, name)
    return for_each(sources, [texts(group, f"{name}[{i}]") for i, group in enumerate(listed)], name)


def for_each(sources: Sequence[str], given: list[T], name: str) -> list[T]:
    """What is given, one for each source. Raises: UserError if there are more or fewer."""
    if len(given) != len(sources):
        numbers = f"{counted(len(given), 'item')} for {counted(len(sources), 'source')}"
        raise UserError(f"{name}: {numbers}; give one for each")
    return given


def callback(given: Any, name: str) -> Callable[[int], Any]:
    """A function that is told how many more are done; None stands for none. Raises: UserError if it is neither."""
    if given is None:
        return lambda done: None
    if not callable(given):
        raise UserError(f"{name} is {shown(given)}, but a function of one number was expected, such as print; or None")
    return given


def text(given: Any, name: str, expected: str = "a text") -> str:
    """One text. Raises: UserError if it is something else, or cannot be written as UTF-8."""
    if not isinstance(given, str):
        hint = ""
        if isinstance(given, bytes):
            hint = ": decode it, as in item.decode('utf-8')"
        elif given is None and expected == "a text":
            hint = ": write '' for none"
        elif isinstance(given, int | float | np.number):
            hint = ": make a text of it, as in str(item)"
        raise UserError(f"{name} is {shown(given)}, but {expected} was expected{hint}")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} holds {given[error.start]!r}, half of a surrogate pair, which is no character: read the text with "
            "errors='replace'"
        ) from None
    return str(given)  # of a subclass, such as numpy's, the text alone


def path(given: Any, name: str) -> Path:
    """The path of a directory. Raises: UserError if it is something else."""
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if isinstance(text, str) and text and "\0" not in text:
        return Path(text)
    raise UserError(f"{name} is {shown(given)}, but the path of a run directory was expected")


def _target(item: Any, name: str) -> str | Hypothesis:
    if isinstance(item, list | tuple):
        raise UserError(
            f"{name} is {shown(item)}, but a text or a hypothesis was expected; of what decode returns take one for "
            "each source: [hypotheses[0] for hypotheses in found]"
        )
    return _hypothesis(item, name) if isinstance(item, Hypothesis) else text(item, name, "a text or a hypothesis")


def _hypothesis(item: Any, name: str) -> Hypothesis:
    if not isinstance(item, Hypothesis):
        raise UserError(f"{name} is {shown(item)}, but a hypothesis that decode found was expected")
    if not (isinstance(item.ids, tuple | list) and all(type(i) is int and i >= 0 for i in item.ids)):
        raise UserError(f"{name} has ids {shown(item.ids)} that are no numbers of tokens; give one that decode found")
    return item
