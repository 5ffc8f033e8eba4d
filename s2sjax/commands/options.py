"""What a command takes: its options with their meaning, declared once for parsing, help and completion."""

import re
from dataclasses import dataclass
from typing import Literal

from s2sjax.errors import UserError


def whole_number(text: str, where: str, least: int) -> int:
    """A whole number as an option gives it, of at most nine digits. Raises: UserError."""
    if not re.fullmatch(r"-?[0-9]{1,9}", text) or int(text) < least:
        raise UserError(f"{where} is '{text[:40]}', expected a whole number from {least}, of up to nine digits")
    return int(text)


@dataclass(frozen=True)
class Option:
    """One option of a command, `--name=value`.

    Attributes:
      name: without the dashes.
      meaning: what it does, for `--help`.
      value: what stands for its value in help, such as "FILE".
      default: the value if it is not given; None if it must be given.
      choices: all values that it takes; empty: any.
      known: values that a shell offers where others are possible too.
      switch: it is on when it is named, and takes no value.
    """

    name: str
    meaning: str
    value: str = "VALUE"
    default: str | None = ""
    choices: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    switch: bool = False

    @property
    def usage(self) -> str:
        """How it is written, such as "--format=text|jsonl"."""
        return f"--{self.name}" + ("" if self.switch else f"={'|'.join(self.choices) or self.value}")


@dataclass(frozen=True)
class Command:
    """One command, as `--help` explains it and `flags.parse` reads it.

    Attributes:
      name: what stands after `s2sjax`.
      summary: one line for the list of commands.
      description: what it does, in paragraphs.
      options: in the order in which help lists them.
      examples: (what it shows, command line) pairs; the command line without the program's name.
      config: where its config comes from: "none"; "run", from --workdir; or "file", from --config=FILE.py for a run
        that is new.
      sections: config sections whose keys its help lists; empty: all.
      alone: it is work for one process.
      arguments: what stands for its other arguments in help, such as "RUN..."; empty: it takes none.
    """

    name: str
    summary: str
    description: str = ""
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    config: Literal["none", "run", "file"] = "none"
    sections: tuple[str, ...] = ()
    alone: bool = False
    arguments: str = ""

    def misuse(self, message: str) -> UserError:
        """The error for a command line that cannot be understood; it names the way out."""
        return UserError(f"{message} (s2sjax {self.name} --help explains)")
