"""What commands say on standard error when they are done."""

import sys

from s2sjax.errors import without_controls
from s2sjax.runs.run import Run


def print_remark(remark: str) -> None:
    """Say something that does not stop a command."""
    print(f"s2sjax: {without_controls(remark)}", file=sys.stderr)


def print_source_remarks(run: Run) -> None:
    """Say what the run could not read of the texts it was given: what its vocabulary lacks, and what is too long."""
    translator = run.translator
    if translator.unknown:
        print_remark(translator.unknown.sentence("sources"))
    if translator.unknown_targets:
        print_remark(translator.unknown_targets.sentence("targets"))
    if not translator.truncated:
        return
    limits = {member.experiment.data.max_source_length for member in (run, *run.others)}
    key = "data.max_source_length" if translator.max_source_length in limits else "model.max_positions"
    print_remark(
        f"{translator.truncated} of {translator.sources} sources were longer than config.{key} "
        f"{translator.max_source_length} tokens of {run.workdir} and were cut there"
    )
