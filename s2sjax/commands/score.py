"""`s2sjax score`: the log-probability of given targets, or of hypotheses that decode wrote."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from s2sjax.commands.opening import open_run
from s2sjax.commands.records import read_record
from s2sjax.commands.remarks import print_source_remarks
from s2sjax.commands.streams import all_lines, reading, writing
from s2sjax.commands.table import COMMANDS
from s2sjax.errors import UserError
from s2sjax.experiment import as_experiment
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.plural import counted
from s2sjax.reporting.display import progress
from s2sjax.runs.counted import CountedRun


def run(values: dict[str, Any]) -> int:
    wanted = ("hypotheses",) if values["hypotheses"] else as_experiment(values["config"]).task.columns
    for name in ("source", "target", "hypotheses"):
        if (name in wanted) != bool(values[name]):
            raise COMMANDS["score"].misuse(
                f"--{name} is {'missing' if name in wanted else 'not read beside --' + wanted[-1]}"
            )
    with contextlib.ExitStack() as stack:
        read = [all_lines(stack.enter_context(reading(values[name])), values[name]) for name in wanted]
        if values["hypotheses"]:
            pairs: list[tuple[str, str | Hypothesis]] = list(_hypotheses(read[0], values["hypotheses"]))
        elif len(wanted) == 1:
            pairs = [("", target) for target in read[0]]
        elif len(read[0]) == len(read[1]):
            pairs = list(zip(*read, strict=True))
        else:
            raise UserError(
                f"{values['source']} has {counted(len(read[0]), 'line')} and {values['target']} has {len(read[1])}; "
                "line N of one must belong to line N of the other"
            )
        opened = open_run(values)
        output = stack.enter_context(writing(values["output"]))
        advance = stack.enter_context(progress("scoring", len(pairs)))
        sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
        scored = CountedRun(opened).score(sources, targets, progress=advance)
        output.writelines(f"{score:.6f}\n" for score in scored.result)
    print_source_remarks(opened, scored.counts)
    return 0


def _hypotheses(lines: Sequence[str], path: str) -> Iterator[tuple[str, Hypothesis]]:
    """The pairs of source and hypothesis in what `decode --format=jsonl` wrote."""
    for number, line in enumerate(lines, start=1):
        record, hypotheses = read_record(line, path, number)
        yield from ((record["source"], hypothesis) for hypothesis in hypotheses)
