"""What commands say on standard error when they are done."""

import sys

from s2sjax.run import Run


def say_cut(run: Run) -> None:
    """Say how many of the sources that the run was given were longer than it reads; nothing if none was."""
    translator = run.translator
    if not translator.truncated:
        return
    limits = {member.experiment.data.max_source_length for member in (run, *run.others)}
    key = "data.max_source_length" if translator.max_source_length in limits else "model.max_positions"
    print(
        f"s2sjax: {translator.truncated} of {translator.sources} sources were longer than config.{key} "
        f"{translator.max_source_length} tokens of {run.workdir} and were cut there",
        file=sys.stderr,
    )
