"""`s2sjax align`: which words of given pairs belong together, by the attention of forced decoding."""

import contextlib
from pathlib import Path
from typing import Any

from s2sjax.commands.opening import open_run
from s2sjax.commands.remarks import print_source_remarks
from s2sjax.commands.streams import all_lines, reading, writing
from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.inference.counts import RequestCounts
from s2sjax.inference.word_alignment import Alignment
from s2sjax.plural import counted
from s2sjax.processes import distributed
from s2sjax.reporting.display import progress
from s2sjax.reporting.plots import attention_map
from s2sjax.runs.counted import CountedRun

_TOGETHER = 512
"""Pairs whose attention is kept at a time."""


def run(values: dict[str, Any]) -> int:
    layer = _layer(values["layer"])
    with contextlib.ExitStack() as stack:
        names = (values["source"], values["target"])
        if names == ("-", "-"):
            raise UserError("--source and --target are both -, but standard input can be one of them; give a file")
        sources, targets = (all_lines(stack.enter_context(reading(name)), name) for name in names)
        if len(sources) != len(targets):
            raise UserError(
                f"{names[0]} has {counted(len(sources), 'line')} and {names[1]} has {len(targets)}; line N of one "
                "must belong to line N of the other"
            )
        opened = open_run(values)
        counting, counts = CountedRun(opened), RequestCounts()
        counting.align([], [], layer=layer)  # a run that cannot align says so before anything is written
        output = stack.enter_context(writing(values["output"]))
        advance = stack.enter_context(progress("aligning", len(sources)))
        for first in range(0, len(sources), _TOGETHER):
            pairs = (sources[first : first + _TOGETHER], targets[first : first + _TOGETHER])
            aligned = counting.align(*pairs, layer=layer, progress=advance)
            counts += aligned.counts
            triples = zip(*pairs, aligned.result, strict=True)
            for number, (source, target, alignment) in enumerate(triples, start=first + 1):
                output.write(_format(source, target, alignment, values["format"]))
                if values["plot"] and alignment.links and distributed.index() == 0:
                    _plot(alignment, Path(values["plot"]) / f"attention_{number}.png")
            output.flush()
    print_source_remarks(opened, counts)
    return 0


def _layer(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"--layer is '{text[:40]}': expected all, or a number: 1 is the lowest layer, -1 the highest"
        ) from None


def _format(source: str, target: str, alignment: Alignment, kind: str) -> str:
    if kind == "pharaoh":
        return alignment.pharaoh() + "\n"
    record = {
        "source": source,
        "target": target,
        "alignment": alignment.links,
        "source_tokens": alignment.source_tokens,
        "target_tokens": alignment.target_tokens,
        "attention": alignment.rounded(),
    }
    return jsontext.printed_line(record)


def _plot(alignment: Alignment, path: Path) -> None:
    try:
        attention_map(alignment.source_tokens, alignment.target_tokens, alignment.attention, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
