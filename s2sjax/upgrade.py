"""Configs of earlier versions: what their keys are called today.

`MOVED` is the one place that knows old names. By it the JSON of old run directories is turned into today's, and a
user's own config files, flags and calls go on working when they use an old name: that is said once.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from s2sjax.errors import UserError, shown

VERSION = 3
"""Of configs as they are saved today. Version 1 has no number in its file."""

MOVED: Mapping[int, Mapping[str, str]] = {
    2: {
        "data.batching": "batching.kind",
        "data.batch_tokens": "batching.tokens",
        "data.max_source_length": "batching.max_source_length",
        "data.max_target_length": "batching.max_target_length",
        "data.row_multiple": "batching.row_multiple",
        "data.length_multiple": "batching.length_multiple",
        "data.buckets": "batching.buckets",
        "data.pack_length": "batching.pack_length",
        "data.shuffle": "batching.shuffle",
    },
    3: {
        "data.join": "task.join",
        "data.keep_line_ends": "task.keep_line_ends",
        "data.context": "task.context",
        "data.stride": "task.stride",
        "data.target_order": "task.target_order",
    },
}
"""By the version that moved them, ascending: keys of the configs before it, and what they are called since.

A key is `section.name`, and what it holds stays as it is. An old name never becomes the name of another key. Every
config had those that version 3 moved; today only those of some tasks have them, and `resolve` leaves out what is of
another task and has its default.
"""

_log = logging.getLogger(__name__)


def upgrade(values: Mapping[str, Any], version: int, where: object = "the config") -> dict[str, Any]:
    """The values of a config that was saved by this or an earlier version, as this version has them.

    >>> upgrade({"seed": 1, "data": {"dir": "news", "batch_tokens": 512}}, version=1)
    {'seed': 1, 'data': {'dir': 'news'}, 'batching': {'tokens': 512}}

    Args:
        values: JSON values of all sections, or of some; they are not changed.
        version: of the config; from a file that anybody may have written.
        where: the file, for the message.

    Raises:
        UserError: there is no such version yet, or a key is there by its old and by its new name.
    """
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(
            f"{where} is of version {shown(version)}, but this s2sjax reads versions 1 to {VERSION}: use the s2sjax "
            "that wrote it, or a newer one"
        )
    for since, moved in MOVED.items():
        if since > version:
            for old, new in moved.items():
                values = _with_moved(values, old, new)
    return {**values}


def with_current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a config that a user wrote, in which keys may have old names. Raises: UserError, as `upgrade`."""
    for old in _olds():
        moved = _with_moved(values, old, current_key(old))
        if moved is not values:
            say_moved(old)
        values = moved
    return {**values}


def current_key(key: str) -> str:
    """What a config key of any version is called today; any other text stays as it is.

    >>> current_key("data.batch_tokens"), current_key("data.dir")
    ('batching.tokens', 'data.dir')
    """
    for moved in MOVED.values():
        key = moved.get(key, key)
    return key


def accept_key(key: str) -> str:
    """As `current_key`, of a key that a user wrote. If it is an old one, that is said, once."""
    if (current := current_key(key)) != key:
        say_moved(key)
    return current


def moved_from(section: str = "") -> dict[str, str]:
    """Old names of keys of a section, or of any, with the keys of today: for the advice of `nearest`.

    >>> moved_from("data")["batch_tokens"]
    'config.batching.tokens'
    """
    olds = [old for old in _olds() if not section or old.startswith(f"{section}.")]
    return {old.partition(".")[2]: f"config.{current_key(old)}" for old in olds}


def _olds() -> list[str]:
    return [old for moved in MOVED.values() for old in moved]


@functools.cache
def say_moved(old: str) -> None:
    """Say once what a key that a user wrote is called today."""
    new = current_key(old)
    _log.warning("config.%s is now config.%s; the old name still works, and a later version will refuse it", old, new)


def _with_moved(values: Mapping[str, Any], old: str, new: str) -> Mapping[str, Any]:
    """The values with a key by its new name; the same object if it is not there by its old one."""
    (old_section, old_name), (new_section, new_name) = old.split("."), new.split(".")
    before, after = values.get(old_section), values.get(new_section, {})
    if not (isinstance(before, Mapping) and old_name in before and isinstance(after, Mapping)):
        return values  # what is no section is told by whoever takes the values
    if new_name in after:
        raise UserError(f"config.{old} and config.{new} are one key, by its old and its new name: leave out the former")
    rest = {name: value for name, value in before.items() if name != old_name}
    return {**values, old_section: rest, new_section: {**after, new_name: before[old_name]}}
