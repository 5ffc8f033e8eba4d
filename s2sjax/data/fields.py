"""How a record is made of the fields of a JSON object, or of the columns of a row."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from s2sjax.config import closest
from s2sjax.data.config import DataConfig
from s2sjax.data.lines import BadRecord
from s2sjax.data.records import Record, make_record
from s2sjax.errors import UserError, listed

Get = Callable[[Any, str], str | list[str]]
"""From a row and the name of a field to its text, or several texts; raises `BadRecord` where there is none."""

_PARTS = re.compile(r"(?P<literal>(?:[^{}]|\{\{|\}\})+)|\{(?P<name>[^{}]+)\}")


@dataclass(frozen=True)
class Template:
    """A text made of fields: "{lemma} {features}", where "{{" and "}}" stand for braces. Without a brace it is the name
    of one field.

    Attributes:
      text: as the config has it.
      parts: (literal text, name of a field), one of the two empty.
    """

    text: str
    parts: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str, key: str) -> "Template":
        """Args: key: where the config has it, for the message.

        Raises:
          UserError: a brace is neither doubled nor around a name, or no field is named.
        """
        if not re.search("[{}]", text):
            return cls(text, (("", text),))
        found = list(_PARTS.finditer(text))
        parts = [((p["literal"] or "").replace("{{", "{").replace("}}", "}"), p["name"] or "") for p in found]
        if "".join(part.group() for part in found) != text or not any(name for _, name in parts):
            raise UserError(
                f"{key} is {text!r}; expected the name of a field, or text with fields in braces as in "
                "'{lemma} {features}', where a brace that is text is doubled: '{{' and '}}'"
            )
        return cls(text, tuple(parts))

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.parts if name]

    def read(self, row: Any, get: Get) -> str | list[str]:
        """One text, or several where the template is one field that holds them."""
        if len(self.parts) == 1:
            return get(row, self.parts[0][1])
        return "".join(_only(get(row, name), name) if name else literal for literal, name in self.parts)


def _only(found: str | list[str], name: str) -> str:
    if not isinstance(found, str):
        raise BadRecord(f"field {name!r} is a list, expected text")
    return found


@dataclass(frozen=True)
class Fields:
    """Which fields source and targets are made of. Without a source there are targets only."""

    source: Template | None
    targets: tuple[Template, ...]

    @classmethod
    def of(cls, config: DataConfig) -> "Fields":
        source = Template.parse(config.source, "config.data.source") if config.source else None
        return cls(source, tuple(Template.parse(text, "config.data.target") for text in config.targets))

    @property
    def names(self) -> list[str]:
        """Of all fields that are read."""
        return [name for template in (self.source, *self.targets) if template for name in template.names]

    @property
    def parts(self) -> tuple[str, str]:
        """For a fingerprint."""
        targets = [template.text for template in self.targets]
        return self.source.text if self.source else "", targets[0] if len(targets) == 1 else json.dumps(targets)

    def record(self, row: Any, get: Get) -> Record:
        """Raises: BadRecord: a field is not there, or is not text; where that is, the caller has to add."""
        source = ""
        if self.source:
            read = self.source.read(row, get)
            source = read[0] if isinstance(read, list) and len(read) == 1 else _only(read, self.source.text)
        targets: list[str] = []
        for template in self.targets:
            found = template.read(row, get)
            targets += [found] if isinstance(found, str) else found
        return make_record(source, targets)


def alternatives(name: str, names: Sequence[str]) -> str:
    """For a message: the nearest of the names that there are, and all of them."""
    near = closest(name, names)
    return (f"did you mean {near[0]!r}? " if near else "") + f"there are: {listed(names) or 'none'}"
