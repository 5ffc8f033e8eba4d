"""Configs as users hold them: what `base_config` returns. Each shows the keys that apply to it, and takes more.

Keys are found by their old names too (`s2sjax.upgrade`). And which task a config is of may be said last: until then it
takes the keys of all tasks, and `resolve` refuses what is not the task's own.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from s2sjax import tasks
from s2sjax.config import build, coerce_field, shown_value
from s2sjax.errors import UserError, listed, shown
from s2sjax.tasks.language import Language
from s2sjax.tasks.text import Text
from s2sjax.upgrade import current_key, say_moved

_log = logging.getLogger(__name__)


class Config(ConfigDict):
    """A ConfigDict whose sections are each a `Section`."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, dict | ConfigDict):
            value = Section(value, self.is_type_safe)
            object.__setattr__(value, "_place", (self, key))
        super().__setitem__(key, value)

    __eq__ = ConfigDict.eq_as_configdict


class Section(ConfigDict):
    """A section of a `Config`. What it holds, and what `in` finds, has today's names only."""

    def __getitem__(self, key: str) -> Any:
        holder, name, default = self._home(key)
        return ConfigDict.__getitem__(holder, name) if default is None else default

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, dict):  # ConfigDict would make it a section
            value = ConfigDict(value, self.is_type_safe)
        ConfigDict.__setitem__(*self._room(key), value)

    def get_ref(self, key: str) -> Any:
        return ConfigDict.get_ref(*self._room(key))

    def _home(self, key: str) -> tuple[ConfigDict, str, Any]:
        """The section that a key belongs to today, its name there, and its default if that section lacks it because it
        is of another task; else None."""
        config, own = self.__dict__.get("_place", (None, ""))
        if config is None or key in self:
            return self, key, None
        current = current_key(f"{own}.{key}")
        if current != f"{own}.{key}":
            say_moved(f"{own}.{key}")
        section, _, name = current.partition(".")
        holder = config[section]
        return holder, name, None if name in holder else tasks.settings(section).get(name)

    def _room(self, key: str) -> tuple[ConfigDict, str]:
        """As `_home`; if the section lacks the key, it has it from now on."""
        holder, name, default = self._home(key)
        if default is not None:
            with holder.unlocked():
                ConfigDict.__setitem__(holder, name, default)
        return holder, name

    def __getstate__(self) -> dict[str, Any]:  # of a copy, the config sets the place
        return {name: value for name, value in self.__dict__.items() if name != "_place"}

    __eq__ = ConfigDict.eq_as_configdict


def sections_of_task(values: Mapping[str, dict[str, Any]], *, plain_text: bool, say: bool) -> dict[str, Any]:
    """The sections `tasks.SECTIONS` of an experiment, built.

    A key of another task is left out where it has its default, and one of `decode` in any case: it has no effect. Text
    without sources is what a language model is of, also in configs that name no task.

    Args:
        values: of each of these sections.
        plain_text: the data has no sources.
        say: so, of each that has no effect.

    Raises:
        UserError: as `build`; or a key is of another task.
    """
    name = values["task"].pop("name", Text.name)
    chosen = tasks.named(Language.name if name == Text.name and plain_text else name)
    made: dict[str, Any] = {}
    for section, given in values.items():
        where, own = f"config.{section}", {}
        for key, value in given.items():
            others = tasks.with_setting(section, key)
            if chosen in others or not others:
                own[key] = value
                continue
            value = coerce_field(tasks.section_of(others[0], section), key, value, where)
            if value == tasks.settings(section)[key]:
                continue
            if section == "task":
                why = " (config.data.source is empty)" if chosen.name != name else ""
                raise UserError(
                    f"{where}.{key} is {shown(value)}, but it is a key of the task {listed([t.name for t in others])}, "
                    f"and config.task.name is '{chosen.name}'{why}: leave it out, or choose that task"
                )
            if say:
                _say_without_effect(f"{where}.{key}", shown_value(value), chosen.name)
        made[section] = build(tasks.section_of(chosen, section), own, where)
    return made


@functools.cache
def _say_without_effect(key: str, value: str, task: str) -> None:
    """Say once that a task has no such key. It is no mistake: configs of all tasks had the keys of a search once."""
    _log.warning("%s is %s, but the predictions of %s are not searched for: it has no effect", key, value, task)
