"""The watchdog, in processes of their own: it ends them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2sjax.processes.watchdog import STUCK, Watchdog

PROGRAM = """
import sys, threading, time, ctypes
from pathlib import Path
import jax.numpy as jnp
from s2sjax.processes import watchdog
watchdog._GRACE = {grace}

def wait_in_a_thread():
    threading.Event().wait()

threading.Thread(target=wait_in_a_thread, name="bystander", daemon=True).start()
weights = jnp.ones((123, 45))
with watchdog.Watchdog(Path(sys.argv[1]), {seconds}, lambda text: print("told:", text, flush=True)) as dog:
    for step in (41, 42):
        dog.step(step)
    with dog.phase("compiling"):
        time.sleep(2 * {seconds})
    print("compiled", flush=True)

    def the_step_that_hangs():
        {stuck}

    the_step_that_hangs()
print("went on")
"""


def run(directory: Path, **values):
    command = [sys.executable, "-c", PROGRAM.format(**values), str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])


def test_a_run_whose_steps_stop_writes_what_it_was_doing_and_ends_with_76(tmp_path):
    ended = run(tmp_path, seconds=1.0, grace=20, stuck="time.sleep(60)")
    assert ended.returncode == STUCK == 76, ended.stderr
    assert "compiled" in ended.stdout and "told:" in ended.stdout and "went on" not in ended.stdout
    (written,) = tmp_path.glob("stuck-*-0.txt")
    assert "after step 42; process" in ended.stderr and str(written) in ended.stderr
    text = written.read_text()
    for part in ("nothing for 1 s, after step 42", "41 at ", "thread MainThread", "in the_step_that_hangs",
                 "thread bystander", "in wait_in_a_thread", "float32[123,45], 22,140 bytes", "cpu:0"):  # fmt: skip
        assert part in text, text


@pytest.mark.slow
def test_a_run_that_holds_the_interpreters_lock_is_killed_and_its_stacks_are_on_stderr(tmp_path):
    # A mutex that waits for itself, in a library that was called without letting go of the lock.
    twice = (
        "lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64); lock(mutex); lock(mutex)"
    )
    ended = run(tmp_path, seconds=0.5, grace=1, stuck=twice)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert "gives no sign of life" in ended.stderr and "in the_step_that_hangs" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_a_scheduler_suspends_is_left_alone(tmp_path):
    """For longer than it may be silent; with its guard awake all the time."""
    goes_on = "[(time.sleep(0.1), dog.step(step)) for step in range(60)]"
    command = [sys.executable, "-c", PROGRAM.format(seconds=1.0, grace=0.5, stuck=goes_on), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None and process.stdout.readline() == "compiled\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "went on\n"
    assert process.returncode == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_a_run_that_is_not_stuck_is_left_alone_and_nothing_stays_behind(tmp_path, seconds):
    with Watchdog(tmp_path, seconds, print) as dog:
        dog.step(1)
        with dog.phase("validating"):
            pass
    assert not list(tmp_path.iterdir())
    assert not seconds or dog._guard.returncode == 0
