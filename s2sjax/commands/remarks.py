"""What commands say on standard error when they are done."""

import sys

from s2sjax.errors import without_controls
from s2sjax.inference.counts import RequestCounts
from s2sjax.plural import counted
from s2sjax.runs.run import Run


def print_remark(remark: str) -> None:
    """Say something that does not stop a command."""
    print(f"s2sjax: {without_controls(remark)}", file=sys.stderr)


def print_source_remarks(run: Run, counts: RequestCounts) -> None:
    """Say what the run could not read of the texts it was given: what its vocabulary lacks, and what is too long."""
    if counts.unknown:
        print_remark(counts.unknown.sentence("source"))
    if counts.unknown_targets:
        print_remark(counts.unknown_targets.sentence("target"))
    if not counts.truncated:
        return
    limits = {member.experiment.batching.max_source_length for member in (run, *run.others)}
    most = run.predictor.requests.max_source_length
    key = "batching.max_source_length" if most in limits else "model.max_positions"
    were = "was" if counts.sources == 1 else "were"
    print_remark(
        f"{counts.truncated} of {counted(counts.sources, 'source')} {were} longer than config.{key} "
        f"{counted(most, 'token')} of {run.workdir} and {were} cut there"
    )
