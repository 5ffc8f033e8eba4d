"""Configs as users hold them: what `base_config` returns. Each shows the keys that apply to it, and takes more.

Keys are found by their old names too (`s2sjax.upgrade`). And which task a config is of may be said last: until then it
takes the keys of all tasks, and `resolve` refuses what is not the task's own.
"""

from typing import Any

from ml_collections import ConfigDict

from s2sjax import tasks
from s2sjax.upgrade import current_key, say_moved


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
