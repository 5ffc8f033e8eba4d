"""launch/local.sh with a stand-in for s2sjax, which does what a test says, process by process and start by start."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.checkout import lay_out

STAND_IN = """
number="${S2SJAX_PROCESS:-0}"
echo "$*" >>"calls-$number"
start="$(wc -l <"calls-$number")"
echo "process $number of ${S2SJAX_PROCESSES:-1}, start $start" >&2
trap 'echo TERM >>"signals-$number"; sleep 0.5; echo saved >&2; exit 75' TERM
source ./behaviour
"""


# Until it is told to end; not for ever, should nobody tell it.
WAIT = "touch ready-$number; for _ in {1..300}; do sleep 0.1; done"


def hear_signals() -> None:
    """Where tests run in the background or without a terminal some are ignored, which a shell cannot undo."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Place:
    """A checkout with nothing in it but the script and the stand-in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        lay_out(directory, STAND_IN)

    def start(self, behaviour: str, *arguments: str, **variables: str) -> subprocess.Popen:
        return self._start(behaviour, "launch/local.sh", *arguments, cwd=self.directory, variables=variables)

    def start_on(self, terminal: int, behaviour: str, *arguments: str) -> subprocess.Popen:
        """As the first process of a terminal's session, which is told by the kernel when the terminal is closed."""

        def take() -> None:
            hear_signals()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        return self._start(
            behaviour, "launch/local.sh", *arguments, cwd=self.directory, start_new_session=True, preexec_fn=take,
            stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip

    def start_from(self, directory: Path, behaviour: str, *arguments: str) -> subprocess.Popen:
        """Called from another directory."""
        return self._start(behaviour, str(self.directory / "launch/local.sh"), *arguments, cwd=directory)

    def _start(self, behaviour: str, *command: str, cwd: Path, variables: Any = (), **options: Any) -> subprocess.Popen:
        (cwd / "behaviour").write_text(behaviour)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            ["bash", *command], cwd=cwd, env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(variables), text=True,
            **{"preexec_fn": hear_signals, **pipes, **options},
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Until two processes do as WAIT says."""
        end = time.monotonic() + 30
        while not all((self.directory / f"ready-{n}").exists() for n in (0, 1)):
            assert time.monotonic() < end
            time.sleep(0.05)

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


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_goes_once_to_all_and_is_waited_for(place, told):
    process = place.start(WAIT, "--processes", "2", *TRAIN)
    place.wait_until_ready()
    process.send_signal(told)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert place.lines("signals-0") == place.lines("signals-1") == ["TERM"]


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_who_is_told_before_there_is_a_process_had_nothing_to_save(place, told):
    (place.directory / "launch" / "setup.sh").write_text("touch ready-0 ready-1; sleep 1\n")
    process = place.start("", *TRAIN)
    place.wait_until_ready()
    process.send_signal(told)
    process.communicate(timeout=60)
    assert process.returncode == 75 and not place.lines("calls-0")


def test_a_process_that_is_told_before_it_listens_had_nothing_to_save(place):
    process = place.start(f"trap - TERM; {WAIT}", "--processes", "2", *TRAIN)
    place.wait_until_ready()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75 and len(place.lines("calls-0")) == 1


def test_all_save_when_the_terminal_is_closed(place):
    terminal, end = pty.openpty()
    process = place.start_on(end, WAIT, "--processes", "2", *TRAIN)
    os.close(end)
    place.wait_until_ready()
    os.close(terminal)
    assert process.wait(timeout=60) == 75
    assert "saved" in place.lines("run/logs/process-0.log") and "saved" in place.lines("run/logs/process-1.log")


def test_who_hangs_up_more_than_once_does_not_insist(place):
    process = place.start(WAIT, "--processes", "2", *TRAIN)
    place.wait_until_ready()
    # The kernel, the shell of the terminal and systemd each say that a session has ended.
    for told in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(told)
        time.sleep(0.05)
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_who_tells_a_second_time_has_all_killed(place):
    process = place.start(WAIT.replace("touch", "trap '' TERM; touch"), "--processes", "2", *TRAIN)
    place.wait_until_ready()
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 137 and "told to stop again; killing" in err


def test_paths_are_those_of_the_directory_that_it_is_called_from(place, tmp_path_factory):
    here = tmp_path_factory.mktemp("elsewhere")
    (here / "socket.py").write_text("raise SystemExit('a file of the user, not of Python')")
    process = place.start_from(here, "pwd >at-$number", "--processes", "2", *TRAIN)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sorted(path.name for path in (here / "run" / "logs").iterdir()) == ["process-0.log", "process-1.log"]
    assert (here / "at-0").read_text() == (here / "at-1").read_text() == f"{here}\n"
    assert not (place.directory / "run").exists()


def test_what_stands_still_when_the_others_have_ended_is_killed(place):
    script = place.directory / "launch/local.sh"
    long = script.read_text()
    script.write_text(long.replace("margin=60", "margin=-4"))
    assert script.read_text() != long
    behaviour = "if ((start == 1)); then if ((number == 1)); then kill -STOP $$; fi; exit 76; fi"
    code, _, err = place.run(behaviour, "--processes", "2", *TRAIN, S2SJAX_PEER_TIMEOUT="5.5")
    assert code == 0 and "killing what has not ended 1 s after the others" in err


@pytest.mark.parametrize("arguments, words", [
    ((), "what is it to do"),
    (("--processes", "0", *TRAIN), "--processes is '0', expected a number from 1"),
    (("train", "--config=x.py"), "--workdir is missing"),
])  # fmt: skip
def test_mistakes_are_said_before_anything_starts(place, arguments, words):
    code, _, err = place.run("", *arguments)
    assert code == 2 and words in err and not place.lines("calls-0")


@pytest.mark.parametrize("name, value, expected", [
    ("S2SJAX_PEER_TIMEOUT", "60s", "a number of seconds from 5 to 1000000"),
    ("S2SJAX_PEER_TIMEOUT", "inf", "a number of seconds from 5 to 1000000"),
    ("S2SJAX_PEER_TIMEOUT", "08h", "a number of seconds from 5 to 1000000"),
    ("S2SJAX_PEER_TIMEOUT", "4.9", "a number of seconds from 5 to 1000000"),
    ("S2SJAX_PEER_TIMEOUT", "99999999999999999999", "a number of seconds from 5 to 1000000"),
    ("S2SJAX_RESTARTS", "abc", "a number from 0"),
    ("S2SJAX_RESTARTS", "-1", "a number from 0"),
])  # fmt: skip
def test_mistakes_in_the_environment_are_said_too(place, name, value, expected):
    code, _, err = place.run("exit 76", *TRAIN, **{name: value})
    assert code == 2 and f"local: {name} is '{value}', expected {expected}" in err and not place.lines("calls-0")
    assert "local.sh: line" not in err


@pytest.mark.parametrize("name, value", [("S2SJAX_PEER_TIMEOUT", "08"), ("S2SJAX_RESTARTS", "08")])
def test_numbers_in_the_environment_may_begin_with_0_or_be_empty(place, name, value):
    for given in (value, ""):
        code, _, err = place.run("if ((start % 2)); then exit 76; fi", *TRAIN, **{name: given})
        assert code == 0 and "local.sh: line" not in err
