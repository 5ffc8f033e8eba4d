"""What roll-backs left out of a run: `skipped.json`, and the checkpoints that are deleted with them."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from s2sjax.checkpoints.restore import STEP
from s2sjax.errors import UserError
from s2sjax.files import rundir


@dataclass(frozen=True)
class Skipped:
    """What roll-backs left out: `skipped.json`. Batch `i` of a run is a function of its config, of this, and of `i`."""

    left_out: tuple[tuple[int, int], ...] = ()
    """Spans (first, end) of batches, ascending: see `Plan.left_out`."""
    roll_backs: tuple[str, ...] = ()
    """A sentence for each, in order: where, and why."""


def read_skipped(workdir: Path) -> Skipped:
    """Raises: UserError if the record is there and damaged: without it another run would go on."""
    path = workdir / "skipped.json"
    try:
        values = rundir.read_json(workdir, path.name)
        spans = tuple((int(first), int(end)) for first, end in values["left_out"])
        if any(not 0 <= first < end for first, end in spans) or list(spans) != sorted(spans):
            raise ValueError("spans")
        return Skipped(spans, tuple(map(str, values["roll_backs"])))
    except FileNotFoundError:
        return Skipped()
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} cannot be read ({error}), and says which batches this run does without; restore it, or use "
            "another workdir"
        ) from error


def write_skipped(workdir: Path, skipped: Skipped) -> None:
    """Raises: UserError if it cannot be written."""
    try:
        rundir.write_json(workdir, "skipped.json", asdict(skipped))
    except OSError as error:
        raise UserError(f"cannot write {workdir / 'skipped.json'}: {error.strerror}") from error


def leave_out(workdir: Path, skipped: Skipped, *, after: int) -> None:
    """Roll a run back to before a step: later checkpoints are deleted, and the record is written.

    The record is written last. Whatever a kill leaves of this, the next start comes by the same steps again, and does
    the same: what it goes on from is from before them, and is the same under the old record and the new.

    Raises: UserError if it cannot be written.
    """
    discard_checkpoints(workdir / "checkpoints", after=after)
    write_skipped(workdir, skipped)


def discard_checkpoints(directory: Path, *, after: int) -> None:
    """Delete the checkpoints of later steps, whole or not, the newest first: a kill leaves the others as they were.

    Raises:
        UserError: they cannot be deleted.
    """
    try:
        with rundir.open_folder(directory.parent, directory.name) as folder:
            steps = [int(name) for name in os.listdir(folder) if STEP.fullmatch(name)]
            for step in sorted(steps, reverse=True):
                if step > after:
                    doomed = f"tmp-{step}-old"  # a name that the next run clears away
                    shutil.rmtree(doomed, ignore_errors=True, dir_fd=folder)
                    os.rename(str(step), doomed, src_dir_fd=folder, dst_dir_fd=folder)
                    shutil.rmtree(doomed, ignore_errors=True, dir_fd=folder)
    except OSError as error:
        raise UserError(f"checkpoints after {after} in {directory} cannot be deleted: {error.strerror}") from error
