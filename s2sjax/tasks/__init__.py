"""Tasks: what a batch means. Each module of this folder is one, but for those that begin with an underscore.

A module offers `TASK`, a frozen dataclass that is an `s2sjax.task.Task`. Adding a task is adding a file: the registry
is the folder. A new one needs

1. fields with defaults: the config section `task`, without its `name`, which is the module's. Each stands under
   `Attributes:` in the class's docstring, where help reads it. A field that another task has too has its default;
2. `decode`, the class of the config section `decode`: `DecodeConfig` for what is searched for;
3. `columns`, `offers` and `judges`: what a record has, and which commands a run of it can answer;
4. `check`, which refuses settings and model families in one sentence each;
5. `ports`, where other than tokens are read: what stands at one position of a source, and of what is written;
6. the rest of the protocol. `_tokens.TokenTask` has what tasks that write tokens share, `_labels.LabelTask` what tasks
   that give labels share;
7. a case in `tests/contract/test_tasks.py`, which walks this folder.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from s2sjax.config import nearest
from s2sjax.errors import UserError, shown
from s2sjax.task import Task

SECTIONS = ("task", "decode")
"""Config sections whose keys depend on the task."""


def names() -> tuple[str, ...]:
    """The names of all tasks: the modules of this folder."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def named(name: str) -> type[Task]:
    """The class of one task.

    Raises:
        UserError: if there is no such task; the message names the nearest.
    """
    if not isinstance(name, str) or name not in names():
        raise UserError(f"config.task.name is {shown(name)}: {nearest(str(name), names())}")
    return importlib.import_module(f"{__name__}.{name}").TASK


def check_offers(task: Task, command: str, workdir: object) -> None:
    """Raise a `UserError` if runs of a task do not offer a command. Args: workdir: of the run, for the message."""
    if command not in task.offers:
        others = [name for name in names() if command in named(name).offers]
        raise UserError(
            f"{workdir} is a run of the task {task.name}, which does not offer {command}: choose a run of "
            f"{' or '.join(others)}; what this one has learned, decode writes"
        )


def section_of(task: type[Task], name: str) -> type:
    """The dataclass that a config section of `SECTIONS` is."""
    return task if name == "task" else task.decode


@functools.cache
def settings(section: str) -> Mapping[str, Any]:
    """Keys of a section of `SECTIONS`, those of all tasks, each with its default; empty of another section."""
    return {key: default for key, (default, _) in _settings(section).items()}


def with_setting(section: str, key: str) -> tuple[type[Task], ...]:
    """The tasks that have this key of a section of `SECTIONS`; none has one of another section."""
    return _settings(section).get(key, (None, ()))[1]


@functools.cache
def _settings(section: str) -> Mapping[str, tuple[Any, tuple[type[Task], ...]]]:
    """By the key: its default, and the tasks that have it."""
    found: dict[str, tuple[Any, tuple[type[Task], ...]]] = {}
    for task in map(named, names() if section in SECTIONS else ()):
        for field in dataclasses.fields(section_of(task, section)):
            found[field.name] = field.default, (*found.get(field.name, (None, ()))[1], task)
    return found
