"""launch/local.sh with a stand-in for s2sjax, which does what a test says, process by process and start by start."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

STAND_IN = """#!/usr/bin/env bash
number="${S2SJAX_PROCESS:-0}"
echo "$*" >>"calls-$number"
start="$(wc -l <"calls-$number")"
echo "process $number of ${S2SJAX_PROCESSES:-1}, start $start" >&2
trap 'echo TERM >>"signals-$number"; sleep 0.5; exit 75' TERM
source ./behaviour
"""


class Place:
    """A checkout with nothing in it but the script and the stand-in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "launch").mkdir()
        (directory / ".venv/bin").mkdir(parents=True)
        shutil.copy(LAUNCH / "local.sh", directory / "launch")
        (directory / "launch/setup.sh").write_text("exit 0\n")
        (directory / ".venv/bin/python").symlink_to(sys.executable)
        program = directory / ".venv/bin/s2sjax"
        program.write_text(STAND_IN)
        program.chmod(0o755)

    def start(self, behaviour: str, *arguments: str, **variables: str) -> subprocess.Popen:
        (self.directory / "behaviour").write_text(behaviour)
        return subprocess.Popen(
            ["bash", "launch/local.sh", *arguments], cwd=self.directory,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | variables,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # Where tests run in the background it is ignored, which a shell cannot undo.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def run(self, behaviour: str, *arguments: str, given: str = "", **variables: str) -> tuple[int, str, str]:
        """Exit code and what stands on the terminal: standard output, standard error."""
        process = self.start(behaviour, *arguments, **variables)
        out, err = process.communicate(given, timeout=60)
        return process.returncode, out, err

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


TRAIN = ("train", "--workdir=run", "--config.train.steps=7")


def test_processes_get_the_arguments_and_a_log_each_and_the_first_speaks(place):
    code, out, err = place.run("echo result $number; echo said by $number >&2", "--processes", "2", *TRAIN)
    assert code == 0 and out == "result 0\n"
    assert "said by 0" in err and "said by 1" not in err
    assert place.lines("calls-0") == place.lines("calls-1") == [" ".join(TRAIN)]
    assert "process 0 of 2, start 1" in place.lines("run/logs/process-0.log")
    assert "said by 0" in place.lines("run/logs/process-0.log")
    assert {"said by 1", "result 1"} <= set(place.lines("run/logs/process-1.log"))


def test_one_process_reads_what_the_script_is_given(place):
    code, out, _ = place.run("tr a-z A-Z", "decode", "--workdir", "run", given="ein Satz\n")
    assert (code, out) == (0, "EIN SATZ\n")


def test_each_process_has_its_share_of_the_cores_and_the_others_address(place):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be shared out")
    place.run("taskset -cp $$ >share-$number; echo $S2SJAX_COORDINATOR >at-$number", "--processes=2", *TRAIN)
    shares = [place.lines(f"share-{n}")[0].split(": ")[1] for n in (0, 1)]
    assert shares[0] != shares[1]
    assert place.lines("at-0") == place.lines("at-1") and place.lines("at-0")[0].startswith("127.0.0.1:")


@pytest.mark.parametrize("end", ["exit 76", "kill -KILL $$"])
def test_after_a_lost_process_all_start_again(place, end):
    behaviour = f"if ((start == 1)); then if ((number == 1)); then {end}; fi; exit 76; fi"
    code, _, err = place.run(behaviour, "--processes", "2", *TRAIN)
    assert code == 0
    assert len(place.lines("calls-0")) == len(place.lines("calls-1")) == 2
    assert "starting again from step 0" in err


def test_starting_again_ends_where_nothing_is_gained(place):
    # Checkpoints of the first three starts are progress; the fourth and the two after it are not.
    behaviour = "if ((start <= 3)); then mkdir -p run/checkpoints/$start; fi; exit 76"
    code, _, err = place.run(behaviour, *TRAIN, S2SJAX_RESTARTS="2")
    assert code == 76
    assert len(place.lines("calls-0")) == 5
    assert "3 times in a row without a checkpoint after step 3" in err


@pytest.mark.parametrize("code", [1, 2, 75])
def test_what_would_happen_again_is_not_tried_again(place, code):
    found, _, _ = place.run(f"if ((number == 1)); then exit {code}; fi; exit {code}", "--processes", "2", *TRAIN)
    assert found == code and len(place.lines("calls-0")) == 1


def test_a_bug_in_one_process_counts_more_than_that_the_others_lost_it(place):
    assert place.run("exit $((number == 1 ? 1 : 76))", "--processes", "2", *TRAIN)[0] == 1
    assert place.run("exit $((number == 1 ? 1 : 76))", "--processes", "2", "evaluate", "--workdir=run")[0] == 1


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_once_to_all_and_is_waited_for(place, told):
    process = place.start("touch ready-$number; while true; do sleep 0.1; done", "--processes", "2", *TRAIN)
    end = time.monotonic() + 30
    while not all((place.directory / f"ready-{n}").exists() for n in (0, 1)):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(told)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert place.lines("signals-0") == place.lines("signals-1") == ["TERM"]


def test_what_stands_still_when_the_others_have_ended_is_killed(place):
    behaviour = "if ((start == 1)); then if ((number == 1)); then kill -STOP $$; fi; exit 76; fi"
    code, _, err = place.run(behaviour, "--processes", "2", *TRAIN, S2SJAX_PEER_TIMEOUT="-59")
    assert code == 0 and "killing what has not ended" in err


@pytest.mark.parametrize("arguments, words", [
    ((), "what is it to do"),
    (("--processes", "0", *TRAIN), "--processes is '0', expected a number from 1"),
    (("train", "--config=x.py"), "--workdir is missing"),
])  # fmt: skip
def test_mistakes_are_said_before_anything_starts(place, arguments, words):
    code, _, err = place.run("", *arguments)
    assert code == 2 and words in err and not place.lines("calls-0")
