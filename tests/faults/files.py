"""Files of a checkpoint, and whole checkpoints, that are damaged or gone when a run is resumed."""

import functools
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.lab import Lab, Outcome

KINDS = {
    "manifest.json": "manifest.json",
    "state/_METADATA": "state/_METADATA",
    "state/_CHECKPOINT_METADATA": "state/_CHECKPOINT_METADATA",
    "state/_sharding": "state/_sharding",
    "state/commit_success.txt": "state/commit_success.txt",
    "state/array_metadatas/process_0": "state/array_metadatas/process_0",
    "state/manifest.ocdbt": "state/manifest.ocdbt",
    "state/d/*": "state/d/*",
    "state/ocdbt.process_0/manifest.ocdbt": "state/ocdbt.process_0/manifest.ocdbt",
    "state/ocdbt.process_0/d/*": "state/ocdbt.process_0/d/*",
}
"""Every kind of file in a checkpoint: ours, then orbax's. A test sees to it that none is missing here."""


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    """One bit in the middle. An empty file, where there is none, gets a byte."""
    content = bytearray(path.read_bytes() or b"\0")
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS: dict[str, Callable[[Path], None]] = {"truncated": truncate, "a bit flipped": flip, "removed": Path.unlink}


def _newest(workdir: Path) -> Path:
    return max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))


def _resume(lab: Lab, workdir: Path, harm: Callable[[Path], None], told: str) -> Outcome:
    """A run that was killed at 19 comes back to a harmed directory of checkpoints."""
    harm(lab.killed_at_19(workdir))
    since = time.monotonic()
    outcome = lab.go_on(workdir, since, 18, "", warm=True)
    log = workdir.with_suffix(".log").read_text()
    said = re.search(told, log)
    assert said, f"no word of it:\n{log[-3000:]}"
    return Outcome(said[0].replace(f"{workdir}/", ""), outcome.seconds, outcome.repeated)


def _harm_file(kind: str, harm: Callable[[Path], None], workdir: Path) -> None:
    # Of several data files, the largest: it has the most bytes to lose.
    harm(max(_newest(workdir).glob(KINDS[kind]), key=lambda path: path.stat().st_size))


def _harm_newest_file(lab: Lab, workdir: Path, *, kind: str, harm: Callable[[Path], None]) -> Outcome:
    return _resume(lab, workdir, functools.partial(_harm_file, kind, harm), r"checkpoint 16: .*from checkpoint 12")


def newest_is_an_empty_directory(lab: Lab, workdir: Path) -> Outcome:
    return _resume(
        lab, workdir, lambda run: (run / "checkpoints" / "17").mkdir(), r"checkpoint 17: .*from checkpoint 16"
    )


def newest_is_gone(lab: Lab, workdir: Path) -> Outcome:
    return _resume(lab, workdir, lambda run: shutil.rmtree(_newest(run)), r"resuming at step 12")


def all_are_gone(lab: Lab, workdir: Path) -> Outcome:
    return _resume(lab, workdir, lambda run: shutil.rmtree(run / "checkpoints"), r"step +1/20")


def all_are_damaged(lab: Lab, workdir: Path) -> Outcome:
    """It stops and touches nothing. Moved away as the message says, the run begins anew."""
    checkpoints = lab.killed_at_19(workdir) / "checkpoints"
    for path in checkpoints.glob("[0-9]*"):
        flip(path / "manifest.json")
    since = time.monotonic()
    # What the flipped bit makes of JSON depends on where the middle of the file is.
    what = "(?:checksum differs|cannot be read as a manifest)"
    said = lab.run_warm(workdir, code=2).says(rf"every checkpoint in .*?: file manifest.json: {what}")
    checkpoints.rename(workdir.with_suffix(".away"))
    outcome = lab.go_on(workdir, since, 18, "", warm=True)
    happened = f"exit 2: {said.replace(f'{workdir}/', '')}...; moved away, it begins anew"
    return Outcome(happened, outcome.seconds, outcome.repeated)


def _copied(lab: Lab, workdir: Path) -> str:
    """A run stopped at 18 with a second copy of all its checkpoints; the flag that names the place."""
    flag = f"--config.checkpoint.copy_to={workdir.with_suffix('.second')}"
    lab.start(workdir, flag, faults=("stepping:18=SIGTERM",)).expect(75)
    return flag


def run_directory_is_lost(lab: Lab, workdir: Path) -> Outcome:
    flag = _copied(lab, workdir)
    shutil.rmtree(workdir)
    since = time.monotonic()
    outcome = lab.go_on(workdir, since, 18, "", flag, warm=True, records_from=19)
    said = re.search(r"no good checkpoint.*", workdir.with_suffix(".log").read_text())
    return Outcome(
        said[0].replace(f"{workdir}/", ""), outcome.seconds, outcome.repeated, "same bits; records from 19 on"
    )


def newest_is_damaged_beside_a_second_copy(lab: Lab, workdir: Path) -> Outcome:
    flag = _copied(lab, workdir)
    _harm_file("state/d/*", flip, workdir)
    since = time.monotonic()
    outcome = lab.go_on(workdir, since, 18, "", flag, warm=True)
    said = re.search(r"checkpoint 18: .*second copy of checkpoint 18", workdir.with_suffix(".log").read_text())
    return Outcome(said[0].replace(f"{workdir}/", ""), outcome.seconds, outcome.repeated)


FAULTS = {
    f"{kind} of the newest checkpoint {name}": functools.partial(_harm_newest_file, kind=kind, harm=harm)
    for kind in KINDS
    for name, harm in HARMS.items()
} | {
    "newest checkpoint is an empty directory": newest_is_an_empty_directory,
    "newest checkpoint removed": newest_is_gone,
    "all checkpoints removed": all_are_gone,
    "all checkpoints damaged": all_are_damaged,
    "run directory lost, second copy left": run_directory_is_lost,
    "newest checkpoint damaged, second copy whole": newest_is_damaged_beside_a_second_copy,
}
