"""What the benchmarks share: contestants that are processes of their own and work in turn, and what they ran on."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Contestant:
    """A contestant's process. It works only between a request and its answer, both JSON."""

    def __init__(self, title: str, command: Sequence[str], environment: Mapping[str, str] | None = None):
        # As from a fresh shell: nothing of ours that tunes threads or memory.
        tuning = ("MALLOC_", "GLIBC_TUNABLES", "OMP_", "KMP_", "MKL_", "LD_PRELOAD", "XLA_FLAGS", "JAX_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(tuning)}
        self.title = title
        self._process = subprocess.Popen(
            command, env=inherited | dict(environment or {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended before us, which `ask` has reported
            self._process.stdin.close()
        self._process.wait()

    def ask(self, request: Any) -> Any:
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"{self.title} ended with code {self._process.wait()}; its message stands above")
        return json.loads(answer)


def reserve_answers():
    """Call it first in a contestant: libraries may print, so answers go where the standard output was."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(answers, respond: Callable[[Any], Any]) -> None:
    """Answer requests on the standard input until it ends."""
    for line in sys.stdin:
        print(json.dumps(respond(json.loads(line))), file=answers, flush=True)


def describe_machine(packages: Iterable[str]) -> None:
    """What the figures hold for: processor, versions, commit."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux only
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), model)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    changes = " with changes" if git("status", "--porcelain", "s2sjax", "configs", "tests/benchmarks") else ""
    print(f"{model}, {len(os.sched_getaffinity(0))} cores")
    print(f"Python {platform.python_version()}, {versions}, {'-'.join(platform.libc_ver())}; commit {commit}{changes}")


def git(*arguments: str) -> str:
    """What git prints about this repository; empty outside of one."""
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()
