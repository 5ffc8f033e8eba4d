"""The program's first seconds, before there is anybody to handle what comes."""

import os
import signal
import subprocess
import sys

import pytest

from tests.tiny import environment

ENTER = """
import os, sys, time, types
import s2sjax.processes.hugepages as hugepages
hugepages.restart_with_huge_pages = lambda: None
cli = types.ModuleType("s2sjax.cli")  # what takes seconds to load
sys.modules["s2sjax.cli"] = cli
class Slow:
    def __getattr__(self, name):
        print("loading", flush=True)
        time.sleep(60)
cli.__class__ = type("Module", (types.ModuleType,), {"__getattr__": Slow.__getattr__})
from s2sjax.__main__ import main
main()
"""


@pytest.mark.parametrize("command, told, code, said", [
    ("train", signal.SIGTERM, 75, "stopped by SIGTERM where there was nothing to save; the same command goes on\n"),
    ("train", signal.SIGUSR1, 75, "stopped by SIGUSR1 where there was nothing to save; the same command goes on\n"),
    ("train", signal.SIGINT, 75, "stopped by SIGINT where there was nothing to save; the same command goes on\n"),
    ("decode", signal.SIGINT, 130, "s2sjax: interrupted\n"),
    ("decode", signal.SIGTERM, -15, ""),
])  # fmt: skip
def test_who_is_stopped_while_packages_are_loaded_says_so(tmp_path, command, told, code, said):
    heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - tests may run without it
    process = subprocess.Popen(
        [sys.executable, "-c", ENTER, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(tmp_path), preexec_fn=heard,
    )  # fmt: skip
    assert process.stdout.readline() == "loading\n"
    process.send_signal(told)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, said)


CLOSED = """
import os, sys, types
import s2sjax.processes.hugepages as hugepages
hugepages.restart_with_huge_pages = lambda: None
cli = types.ModuleType("s2sjax.cli")
sys.modules["s2sjax.cli"] = cli
def run_command():
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2
        for number in (1, 2):
            os.write(number, b"of a package")
    print("of ours", file=sys.stderr, flush=True)
    print("output")
    names = ("stdin", "stdout", "stderr")
    assert [name for name in names if getattr(sys, name) is None] == [name for name in sys.argv[2:] if name != "stderr"]
cli.run_command = run_command
from s2sjax.__main__ import main
main()
"""


@pytest.mark.parametrize("closed", [("stderr",), ("stdin", "stderr"), ("stdin", "stdout", "stderr")])
def test_no_file_takes_the_number_of_a_standard_stream_that_is_closed(tmp_path, closed):
    close = lambda: [os.close(("stdin", "stdout", "stderr").index(name)) for name in closed]  # noqa: E731
    ended = subprocess.run(
        [sys.executable, "-c", CLOSED, str(tmp_path / "file"), *closed], stdout=subprocess.PIPE, text=True,
        env=environment(tmp_path), preexec_fn=close,
    )  # fmt: skip
    assert ended.returncode == 0
    assert (tmp_path / "file").read_text() == ""
    assert ended.stdout == ("" if "stdout" in closed else "of a packageoutput\n")
