"""A run that is killed, again and again and while it saves, ends with the bits of one that was left alone."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.tiny import assert_same_state, command, config_file, environment, read_state, records, write_text

STEPS, KILLS = 150, 10

OPTIONS = {
    "model__dropout": 0.2, "train__ema_decay": 0.99, "train__steps": STEPS, "train__log_every": 10,
    "checkpoint__every_steps": 5, "evaluate__every_steps": 60,
}  # fmt: skip


class Runner:
    """Starts the same training command in the same workdir, and kills it."""

    def __init__(self, config: Path, workdir: Path, cache: Path):
        self._arguments = command("train", f"--config={config}", f"--workdir={workdir}")
        self._environment = environment(cache)
        self._log = workdir.with_suffix(".log")
        self.checkpoints = workdir / "checkpoints"

    def start(self) -> subprocess.Popen:
        with open(self._log, "ab") as log:
            return subprocess.Popen(self._arguments, env=self._environment, stdout=log, stderr=log)

    def finish(self) -> None:
        process = self.start()
        try:
            assert process.wait(timeout=280) == 0, self.log()
        finally:
            process.kill()

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def committed(self) -> set[str]:
        """The names of the checkpoints that are there."""
        return {path.name for path in self.checkpoints.glob("[0-9]*")}

    def saving(self) -> bool:
        """Whether a checkpoint is being put together right now."""
        return any(self.checkpoints.glob("tmp-*"))

    def kill(self, when) -> bool:
        """Start, wait for its first checkpoint, kill it once `when()` says so. False if it had ended before."""
        process = self.start()
        try:
            before = self.committed()
            while self.committed() == before and process.poll() is None:
                time.sleep(0.002)
            while not when() and process.poll() is None:
                time.sleep(0)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        finally:
            process.kill()
            process.wait()


def after(seconds: float):
    """A condition that becomes true so long after it is first asked."""
    end = None

    def when() -> bool:
        nonlocal end
        end = end or time.monotonic() + seconds
        return time.monotonic() >= end

    return when


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "family, batching", [("transformer", "bucket"), ("transformer", "pack"), ("rnn_seq2seq", "bucket")]
)
def test_ten_kills_leave_no_trace_in_the_result(tmp_path, family, batching):
    data, cache = write_text(tmp_path / "data"), tmp_path / "cache"
    config = config_file(tmp_path / "config.py", data, family, data__batching=batching, data__buckets=2, **OPTIONS)
    alone = Runner(config, tmp_path / "alone", cache)
    alone.finish()

    killed, rng = Runner(config, tmp_path / "killed", cache), random.Random(family + batching)
    torn = 0
    for number in range(KILLS):
        # Every other one while it saves: a directory that is no checkpoint yet is there.
        moment = killed.saving if number % 2 else after(rng.uniform(0, 0.15))
        assert killed.kill(moment), f"kill {number + 1} of {KILLS} came too late\n{killed.log()}"
        torn += killed.saving()
    killed.finish()

    print(f"{KILLS} kills, {torn} of them while a checkpoint was being written")
    assert torn >= 1, "some kills must tear a checkpoint"
    assert read_state(tmp_path / "killed")["step"] == STEPS
    assert_same_state(tmp_path / "alone", tmp_path / "killed")
    assert not killed.saving(), "what kills left behind is tidied up"
    for kind in ("train", "validation"):
        a, b = records(tmp_path / "alone", kind), records(tmp_path / "killed", kind)
        assert [r["step"] for r in a] == [r["step"] for r in b]
    a, b = records(tmp_path / "alone", "validation"), records(tmp_path / "killed", "validation")
    assert [r["loss"] for r in a] == [r["loss"] for r in b]
