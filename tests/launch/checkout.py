"""A checkout in which a test says what s2sjax does, for the scripts in launch/ to run it."""

import shutil
import sys
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"


def lay_out(directory: Path, program: str) -> Path:
    """Copy launch/ into a directory, and put beside it an environment whose Python is the one that runs the tests and
    whose s2sjax is a script for bash. Returns the directory."""
    shutil.copytree(LAUNCH, directory / "launch", dirs_exist_ok=True)
    (directory / "launch" / "setup.sh").write_text("exit 0\n")
    install(directory, program)
    return directory


def install(directory: Path, program: str) -> None:
    """Put an environment with these stand-ins into a directory."""
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("python", f'exec {sys.executable} "$@"'), ("s2sjax", program)):
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
