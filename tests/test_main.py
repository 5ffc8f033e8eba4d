"""The program's first seconds, before there is anybody to handle what comes."""

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
