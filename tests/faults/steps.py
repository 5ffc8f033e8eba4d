"""Steps that go wrong: numbers that are none, records that cannot be read, steps that never end."""

import re
from pathlib import Path

import numpy as np

from tests.faults.lab import STEPS, Lab, Outcome, Process
from tests.tiny import assert_same_state, read_state


def _parameters(workdir: Path, step: int) -> dict[str, bytes]:
    state = read_state(workdir, step)
    assert all(np.isfinite(array).all() for name, array in state.items() if array.dtype == np.float32)
    return {name: array.tobytes() for name, array in state.items() if name.startswith("params/")}


def nan_gradient(lab: Lab, workdir: Path) -> Outcome:
    """The update is not taken: parameters after the step are those before it, and everything stays finite."""
    every_step = ("--config.checkpoint.every_steps=1", f"--config.checkpoint.keep_last={STEPS}")
    process = lab.start(workdir, *every_step, faults=("stepping:7=nan",)).expect(0)
    assert _parameters(workdir, 6) == _parameters(workdir, 7) != _parameters(workdir, 8)
    _parameters(workdir, STEPS)
    skipped, next_one = process.says("step 7 is skipped: [^;]*"), process.at(r"step +8/20 \| (?:smoothed )?loss")
    return Outcome(f"exit 0: {skipped}", next_one - process.struck(), 0, "without one update; parameters never NaN")


def nan_gradients_beyond_the_bound(lab: Lab, workdir: Path) -> Outcome:
    """Rolled back, and on without the batches. A twin that is killed right after the roll-back ends with the same."""
    flag = "--config.faults.max_skips=2"
    bad = tuple(f"stepping:{step}=nan" for step in (9, 10, 11))
    process = lab.start(workdir, flag, faults=bad).expect(0)
    _parameters(workdir, STEPS)
    rolled_back = process.says("roll-back 1 of at most 3.*")
    twin = workdir.with_name(f"{workdir.name}-twin")
    lab.start(twin, flag, faults=(*bad, "naming:12=SIGKILL")).expect(-9)
    lab.start(twin, flag).expect(0)
    assert_same_state(workdir, twin)
    first = next(at for at, line in process.lines if "roll-back" in line)
    reached = max(step for at, step in process.steps() if at < first)
    again, step = next((at, step) for at, step in process.steps() if at > first)
    end = "without the batches left out; the same bits if killed after it"
    return Outcome(f"exit 0: {rolled_back}", again - process.struck(), reached + 1 - step, end)


def _spoil(data: Path, *, drop: bool = False) -> None:
    """One record of the training data is no UTF-8, or is not there at all."""
    for side in ("src", "tgt"):
        path = data / f"train.{side}"
        lines = path.read_bytes().splitlines(keepends=True)
        if drop:
            del lines[40]
        elif side == "src":
            lines[40] = b"ab\xff\n"
        path.write_bytes(b"".join(lines))


def corrupt_record(lab: Lab, workdir: Path) -> Outcome:
    spoilt = lab.variant("spoilt", spoil=_spoil)
    said = spoilt.start(spoilt.workdir("strict")).expect(2).says(r"train\.src.*")
    return Outcome(f"exit 2 (config.data.max_bad_records=0): {said}", None, None, "nothing was begun")


def corrupt_record_left_out(lab: Lab, workdir: Path) -> Outcome:
    """The run is that on the data without the record."""
    spoilt = lab.variant("spoilt", spoil=_spoil)
    without = lab.variant("without", spoil=lambda data: _spoil(data, drop=True))
    lenient = spoilt.workdir("lenient")
    process = spoilt.start(lenient, "--config.data.max_bad_records=1").expect(0)
    said = process.says(r"1 of 90 records.*?left out")
    assert_same_state(without.undisturbed(), lenient)
    return Outcome(f"exit 0: {said}", None, 0, "same bits as without the record")


def stuck_step(lab: Lab, workdir: Path) -> Outcome:
    flag = "--config.faults.watchdog_seconds=10"
    process: Process = lab.start(workdir, flag, faults=("stepping:7=hang",)).expect(76)
    (report,) = workdir.glob("stuck-*.txt")
    text = report.read_text()
    assert re.search(r'File ".*child\.py", line \d+, in act', text), f"the stacks do not show where:\n{text}"
    said = process.says(r"nothing for .*?exit code 76")
    happened = f"exit 76 after {process.ended - process.struck():.0f} s: {said}"
    return lab.go_on(workdir, process.struck(), process.last_step(), happened)


FAULTS = {
    "NaN gradient": nan_gradient,
    "NaN gradients beyond the bound": nan_gradients_beyond_the_bound,
    "corrupt record": corrupt_record,
    "corrupt record, one allowed": corrupt_record_left_out,
    "stuck step": stuck_step,
}
