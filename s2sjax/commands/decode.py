"""`s2sjax decode`: sources in, the best hypotheses out, in the order of the sources."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from s2sjax.commands.opening import open_run
from s2sjax.commands.remarks import print_remark, print_source_remarks
from s2sjax.commands.sources import check_given, open_sources
from s2sjax.commands.streams import all_lines, one_line, reading, windows, writing
from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.inference.counts import RequestCounts
from s2sjax.inference.details import Details
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.plural import counted
from s2sjax.reporting.display import progress
from s2sjax.runs.counted import CountedRun
from s2sjax.runs.run import Run

_TOGETHER = 256
"""Lines whose attention is kept at a time."""
_BETWEEN = "-" * 40 + "\n"
"""Between texts of several lines."""
_WIDER = " (a wider config.decode.beam_size may find some)"


def run(values: dict[str, Any]) -> int:
    if values["details"] != "none" and values["format"] == "text":
        raise UserError(f"--details={values['details']} has no place in plain text; give --format=jsonl too")
    check_given(values)
    with contextlib.ExitStack() as stack:
        beside = {name: _beside(values, name, stack) for name in ("prefix", "phrases", "choices")}
        choices = beside.pop("choices")
        opened = open_run(values)
        opened.decode([], choices=choices)  # what cannot be is said before anything is written
        if opened.predictor.requests.runs_on and values["details"] != "none":
            raise UserError(
                f"--details={values['details']} is of outputs that a model reads in one go, and with "
                "config.decode.max_new_tokens these are longer than what it reads at a time; leave one of the two out"
            )
        sources = open_sources(values, opened, stack)
        output = stack.enter_context(writing(values["output"], values["input"], values["prompt-file"] or "-"))
        counting, done, counts = CountedRun(opened), 0, RequestCounts()
        advance = stack.enter_context(progress("decoding", sources.count))
        for lines in windows(sources.texts):
            for name, listed in beside.items():
                if listed is not None and len(listed) < done + len(lines):
                    raise UserError(f"{values[name]} has only {counted(len(listed), 'line')}; each source needs one")
            prefixes, phrases = (listed and listed[done : done + len(lines)] for listed in beside.values())
            wanted = None if phrases is None else [line.split("\t") for line in phrases]
            decoded = counting.decode(lines, prefixes=prefixes, phrases=wanted, choices=choices, progress=advance)
            found, counts = decoded.result, counts + decoded.counts
            if values["format"] == "jsonl":
                references = [sources.references(number) for number in range(done, done + len(lines))]
                output.writelines(_records(opened, lines, references, found, values["details"]))
            elif opened.predictor.requests.runs_on:
                texts = [hypothesis.text for hypotheses in found for hypothesis in hypotheses]
                output.writelines(_BETWEEN * bool(done or n) + text + "\n" for n, text in enumerate(texts))
            else:
                output.writelines(_lines(found, opened.predictor.outputs))
            output.flush()
            done += len(lines)
    for name, listed in beside.items():
        if listed is not None and done < len(listed):
            raise UserError(
                f"{values[name]} has {counted(len(listed), 'line')}, but there were only {counted(done, 'source')}"
            )
    print_source_remarks(opened, counts)
    if counts.unmet:
        print_remark(
            f"for {counts.unmet} of {counted(done, 'source')} nothing was found that meets the constraints; "
            f"their outputs are empty{_WIDER if opened.experiment.decode.method == 'beam' else ''}"
        )
    return 0


def _lines(found: Sequence[Sequence[Hypothesis]], count: int) -> Iterator[str]:
    """So many lines for each source, its hypotheses one after the other; empty where there are fewer."""
    for hypotheses in found:
        texts = [one_line(hypothesis.text) for hypothesis in hypotheses]
        yield from (f"{text}\n" for text in texts + [""] * (count - len(texts)))


def _beside(values: dict, name: str, stack: contextlib.ExitStack) -> list[str] | None:
    """The lines of the file that this option names."""
    path = values[name]
    if path == "-":
        raise UserError(f"--{name} is -, but standard input holds the sources; give it a file")
    return all_lines(stack.enter_context(reading(path)), path) if path else None


def _records(
    run: Run,
    lines: Sequence[str],
    references: Sequence[list[str] | None],
    found: Sequence[Sequence[Hypothesis]],
    wanted: str,
) -> Iterator[str]:
    """A line of JSON for each source, its references if there are any, and its hypotheses."""
    for first in range(0, len(lines), _TOGETHER):
        sources, listed = lines[first : first + _TOGETHER], found[first : first + _TOGETHER]
        explained: Sequence[Sequence[Details | None]] = [[None] * len(hypotheses) for hypotheses in listed]
        if wanted != "none":
            explained = run.explain(sources, listed)
        known = references[first : first + _TOGETHER]
        for source, targets, hypotheses, details in zip(sources, known, listed, explained, strict=True):
            entries = [_entry(h, d, wanted) for h, d in zip(hypotheses, details, strict=True)]
            record = {"source": source} | ({} if targets is None else {"references": targets})
            yield jsontext.printed_line(record | {"hypotheses": entries})


def _entry(h: Hypothesis, details: Details | None, wanted: str) -> dict[str, Any]:
    entry = {"text": h.text, "tokens": h.tokens, "score": h.score, "ranking_score": h.ranking_score, "ids": h.ids}
    if details is None:
        return entry
    alignment = details.alignment
    entry |= {
        "token_log_probs": [round(x, 6) for x in details.token_log_probs],
        "scores": details.scores,
        "alignment": alignment and alignment.links,
    }
    if wanted == "attention":
        entry |= {
            "source_tokens": alignment and alignment.source_tokens,
            "attention": alignment and alignment.rounded(),
        }
    return entry
