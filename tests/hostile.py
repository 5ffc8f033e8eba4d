"""What strangers send: a tiny run to begin with, and ways to spoil files, all from a seed."""

import contextlib
import errno
import io
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from s2sjax.checkpoints import manifest
from s2sjax.cli import run_command
from s2sjax.errors import UserError
from tests.tiny import config_file, write_text

DOCUMENTED = {0, 2, 75}
"""Exit codes that a command may have, whatever it is given."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 10**5, 10**11, 2**31, -(2**63), 2**64, 10**30, 10**400, 0.5, -0.5, 1e-320, 1e308,
    float("inf"), float("nan"), "", "x", "../../x", "/etc/{split}", "~", "\ud800", "\x00", "a\nb", "é" * 300, [], {},
    [None], [[[]]], ["x", "x"], {"x": {}}, [1] * 50, "7" * 5000,
)  # fmt: skip
"""What stands in JSON where something else belongs."""


BYTES = (b"\xff", b"\x00", b"[" * 3000, b"\xed\xa0\x80", b"\r", b"\x85", b'"', b"{}")


def command(*arguments: object) -> tuple[int, str]:
    """Run one command in this process: its exit code, and what it said. What is no exit is raised as it came."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_command([str(argument) for argument in arguments])
    except SystemExit as stopped:
        said = [stream.buffer.getvalue() for stream in (out, err) if stream.flush() is None]
        return int(stopped.code or 0), b"".join(said).decode()
    raise AssertionError("a command that does not end")


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError in whatever takes longer."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def train_tiny(place: Path) -> Path:
    """A run of four steps, trained by the command line on files beside it."""
    options = {"train__steps": 4, "evaluate__every_steps": 2, "checkpoint__every_steps": 2, "decode__batch_size": 8}
    config = config_file(place / "config.py", write_text(place / "data", train=40, held_out=4), **options)
    code, said = command("train", f"--config={config}", f"--workdir={place / 'run'}")
    assert code == 0, said
    return place / "run"


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """Some bits, bytes or spans of a file changed, lost or doubled."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if not changed:
            return bytes(changed)
        at = rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + rng.randint(1, 20)]
            case 3:
                changed[at:at] = rng.choice(
                    (b"\xff", b"\x00", b"[" * 3000, b"\xed\xa0\x80", b"\r", b"\x85", b'"', b"{}")
                )
            case 4:
                changed[at:at] = changed[at : at + rng.randint(1, 50)]
            case _:
                changed[at] = rng.randrange(256)
    return bytes(changed)


def spoil_json(rng: random.Random, value: Any) -> Any:
    """A JSON value with one value or key in it replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        match rng.randrange(12):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {rng.choice(("x", "", "../x", "\ud800")) if k == key else k: v for k, v in value.items()}
            case _:
                return value | {key: spoil_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], spoil_json(rng, value[at]), *value[at + 1 :]]
    return rng.choice(VALUES)


def spoil_file(rng: random.Random, path: Path) -> None:
    """One file, spoiled as bytes, as JSON, or as JSON lines."""
    content = path.read_bytes()
    lines = content.splitlines() if path.suffix == ".jsonl" else [content]
    if path.suffix in (".json", ".jsonl") and content and rng.random() < 0.7:
        at = rng.randrange(len(lines))
        with contextlib.suppress(ValueError, RecursionError):  # spoiled before
            lines[at] = json.dumps(spoil_json(rng, json.loads(lines[at]))).encode()
        content = b"".join(line + b"\n" for line in lines)
    else:
        content = spoil_bytes(rng, content)
    path.write_bytes(content)


def reseal(checkpoint: Path, change: Callable[[Any], Any] = lambda body: body) -> None:
    """A manifest that fits what stands there by now: whoever can write files can write one."""
    body = change(json.loads((checkpoint / manifest.NAME).read_bytes())["body"])
    (checkpoint / manifest.NAME).unlink()
    with contextlib.suppress(ValueError, TypeError):  # no manifest can say this, and without one it is no checkpoint
        manifest.seal(checkpoint, body)


def unhashed_reseal(checkpoint: Path) -> None:
    """As `reseal`, of files that would take a day to hash."""
    checksum = manifest._checksum
    manifest._checksum = lambda directory, name: "0"
    try:
        reseal(checkpoint)
    finally:
        manifest._checksum = checksum


def memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """A list whose only item is, at the end, the most memory that was taken inside beyond what there was, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before, taken = memory("VmRSS"), [0]
    yield taken
    taken[0] = memory("VmHWM") - before


def outcome(act: Callable[[], object]) -> str:
    """ "done", "refused", or what a user would have seen as a traceback."""
    try:
        with within(60):
            act()
    except UserError as error:
        str(error).encode(errors="backslashreplace")  # as Python prints to stderr
        return "refused"
    return "done"


def forbid(monkeypatch, name: str) -> None:
    """Let nothing of this name be opened, as `chmod 000` does for those who are not root."""
    opened = os.open

    def refuse(path, *arguments, **options):
        if isinstance(path, str | os.PathLike) and os.path.basename(path) == name:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
