"""Disks that are full, read-only or broken while a run saves: it trains on, says so, and loses no older checkpoint."""

import subprocess
import time
from pathlib import Path

from tests.faults.lab import Lab, Outcome, is_root, small_disk

MEGABYTES = 12


def _when_4_is_saved(workdir: Path) -> str:
    """Lets the fault of the next step find a checkpoint there."""
    return f"stepping:6=await={workdir / 'checkpoints' / '4'}"


def _said(process, workdir: Path) -> str:
    return process.says(r"checkpoint \d+ could not be saved.*?untouched").replace(f" in {workdir}/checkpoints", "")


def full_for_a_while(lab: Lab, workdir: Path) -> Outcome:
    """Found before anything is written. The next save, when there is room again, is made."""
    with small_disk(workdir.with_suffix(".disk"), MEGABYTES) as disk:
        run = disk / "run"
        process = lab.start(
            run, faults=(_when_4_is_saved(run), f"stepping:7=full={disk}", f"stepping:9=room={disk}")
        ).expect(0)
        saved = process.at(r"step +10/20 \| validation")
        lab.assert_undisturbed(run)
        happened = f"exit 0: {_said(process, run)}; the one at 10 is"
        return Outcome(happened, saved - process.struck(), 0)


def full_while_writing(lab: Lab, workdir: Path) -> Outcome:
    """From the moment that the arrays are being written until the end."""
    with small_disk(workdir.with_suffix(".disk"), MEGABYTES) as disk:
        run = disk / "run"
        process = lab.start(run, faults=(f"writing:8=full={disk}",)).expect(2)
        said = _said(process, run)
        (disk / "filler").unlink()
        return lab.go_on(run, process.ended, process.last_step(), f"{said}; exit 2 at the end; room was made")


def read_only(lab: Lab, workdir: Path) -> Outcome:
    checkpoints = workdir / "checkpoints"
    try:
        process = lab.start(workdir, faults=(_when_4_is_saved(workdir), f"stepping:7=readonly={checkpoints}")).expect(2)
    finally:
        if is_root():
            subprocess.run(["umount", "-l", checkpoints], check=True)
        else:
            checkpoints.chmod(0o755)
    said = _said(process, workdir)
    return lab.go_on(workdir, process.ended, process.last_step(), f"{said}; exit 2 at the end; mended")


def save_fails_in_the_background(lab: Lab, workdir: Path) -> Outcome:
    process = lab.start(workdir, faults=("sealing:8=fail",)).expect(0)
    lab.assert_undisturbed(workdir)
    assert "8" not in {path.name for path in (workdir / "checkpoints").iterdir()}
    next_one = process.at(r"step +10/20 \| validation")
    return Outcome(f"exit 0: {_said(process, workdir)}; the one at 10 is", next_one - process.struck(), 0)


def last_save_fails(lab: Lab, workdir: Path) -> Outcome:
    process = lab.start(workdir, faults=("sealing:20=fail",)).expect(2)
    return lab.go_on(workdir, process.ended, process.last_step(), f"exit 2: {_said(process, workdir)}")


def second_copy_fails(lab: Lab, workdir: Path) -> Outcome:
    """A full disk under the second copy costs only that, and what is missing follows when there is room."""
    with small_disk(workdir.with_suffix(".disk"), MEGABYTES) as disk:
        flag = f"--config.checkpoint.copy_to={disk}"
        process = lab.start(workdir, flag, faults=(f"stepping:7=full={disk}",)).expect(0)
        said = process.says(r"second copy in .* not up to date: [^:]*$").replace(str(disk), "DISK")
        (disk / "filler").unlink()
        since = time.monotonic()
        again = lab.start(workdir, flag).expect(0)
        lab.assert_undisturbed(workdir)
        names = {path.name for path in (disk / workdir.name / "checkpoints").iterdir()}
        assert names == {path.name for path in (workdir / "checkpoints").glob("[0-9]*")}
        return Outcome(f"exit 0: {said}; the next run copies what is missing", again.ended - since, 0)


def killed_while_copying(lab: Lab, workdir: Path) -> Outcome:
    flag = f"--config.checkpoint.copy_to={workdir.with_suffix('.second')}"
    process = lab.start(workdir, flag, faults=("copying:4=SIGKILL",)).expect(-9)
    reached = process.last_step()
    return lab.go_on(workdir, process.struck(), reached, "died of signal 9", flag)


FAULTS = {
    "disk full, room later": full_for_a_while,
    "disk full while writing a checkpoint": full_while_writing,
    "checkpoints read-only": read_only,
    "save fails in the background": save_fails_in_the_background,
    "last save fails": last_save_fails,
    "second copy's disk full": second_copy_fails,
    "SIGKILL while a second copy is made": killed_while_copying,
}
