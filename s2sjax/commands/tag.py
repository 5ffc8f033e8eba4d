"""`s2sjax tag`: the hidden states of a hidden Markov model for every token of every line, by Viterbi."""

import contextlib
from typing import Any

from s2sjax.commands.opening import open_run
from s2sjax.commands.streams import count_lines, read_lines, reading, windows, writing
from s2sjax.files import jsontext
from s2sjax.reporting.display import progress


def run(values: dict[str, Any]) -> int:
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(reading(values["input"]))
        opened = open_run(values)
        opened.tag([])  # a run that cannot tag says so before anything is written
        output = stack.enter_context(writing(values["output"], values["input"]))
        advance = stack.enter_context(progress("tagging", count_lines(values["input"])))
        for lines in windows(read_lines(source, values["input"])):
            for line, tagged in zip(lines, opened.tag(lines, progress=advance), strict=True):
                output.write(_format(line, tagged, values["format"]))
            output.flush()
    return 0


def _format(line: str, tagged: list[tuple[str, int]], kind: str) -> str:
    tokens, states = zip(*tagged, strict=True)
    if kind == "text":
        return " ".join(map(str, states[:-1])) + "\n"  # without end-of-sentence's: a number for every token of the line
    return jsontext.printed_line({"text": line, "tokens": tokens, "states": states})
