"""What decode reads: lines of a file or of standard input, one text, or the sources of a split."""

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from s2sjax.commands.remarks import print_remark
from s2sjax.commands.streams import count_lines, read_lines, reading
from s2sjax.data.parts import without_prompt
from s2sjax.data.records import Source
from s2sjax.data.splits import open_split
from s2sjax.errors import UserError
from s2sjax.processes import distributed
from s2sjax.runs import home
from s2sjax.runs.run import Run

_GIVEN = ("input", "prompt", "prompt-file", "split")


@dataclass(frozen=True)
class Sources:
    texts: Iterable[str]
    """In the order in which they are to be written."""
    count: int | None
    """How many they are; None if that cannot be known before."""
    split: Source | None = None
    """Where they come from, if that is a split."""

    def references(self, number: int) -> list[str] | None:
        """Of source `number`, from 0: what the split has for it; None if they are not of a split."""
        if self.split is None:
            return None
        record = self.split[number]
        return record.get("references", [record["target"]])


def check_given(values: dict[str, Any]) -> None:
    """Raise a `UserError` if sources are to come from several places."""
    given = [name for name in _GIVEN if name in values["given"]]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} both say what to decode; give one of them")


def open_sources(values: dict[str, Any], run: Run, stack: contextlib.ExitStack) -> Sources:
    """The sources that the options name, before the run's prompt.

    Raises:
        UserError: a file or a split cannot be read, or the run's data has no sources.
    """
    if "prompt" in values["given"]:  # which may be empty
        return Sources([_unescaped(_text_of_argument(values["prompt"], "prompt"))], 1)
    if values["prompt-file"]:
        return Sources([_whole(values["prompt-file"], run)], 1)
    if values["split"]:
        data = run.experiment.data
        if "source" not in run.experiment.task.columns:
            raise UserError(
                f"--split is '{values['split']}', but the data of {run.workdir} is plain text without sources; give "
                "--prompt=TEXT, --prompt-file=FILE, or lines to go on with by --input"
            )
        home.check_data(run.workdir, data, run.saved, run.said)
        split = open_split(without_prompt(data), values["split"])  # the run adds its prompt
        if split.unreadable:
            print_remark(split.unreadable)
        return Sources((record["source"] for record in split), len(split), split)
    stream = stack.enter_context(reading(values["input"]))
    return Sources(read_lines(stream, values["input"]), count_lines(values["input"]))


def _whole(path: str, run: Run) -> str:
    """A file as one text. Its last line end is of the file and not of the text, but where a text runs over lines."""
    with reading(path) as stream:
        lines = list(read_lines(stream, path))
        whole = "\n".join(lines) + ("\n" if lines and run.predictor.requests.over_lines else "")
    (shared,) = distributed.shared([whole])
    return shared


def _text_of_argument(text: str, name: str) -> str:
    """The UTF-8 of an argument, which Python reads by the locale: bytes that are none of its letters are half of a
    surrogate pair each. Raises: UserError if the bytes are no UTF-8 either."""
    if text.isascii() or not re.search("[\udc80-\udcff]", text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeError as error:
        raise UserError(
            f"--{name} is not valid UTF-8 ({getattr(error, 'reason', error)}); write it to a file, convert that (iconv "
            f"-t utf-8), and give --{name}-file"
        ) from None


def _unescaped(text: str) -> str:
    r"""Text of the command line, in which \n is a line end, \t a tab and \\ a backslash."""
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t", "\\": "\\"}.get(m[1], m[0]), text)
