"""launch/setup.sh, as far as that goes without installing anything, and the lock files that it installs from."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
LOCKS = {path.stem: path.read_text() for path in sorted((LAUNCH / "requirements").glob("*.txt"))}

PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
  "-c "*) echo 3.11 ;;
  "-m venv")
    mkdir -p .venv/bin; touch .venv/pyvenv.cfg .venv/bin/s2sjax; chmod +x .venv/bin/s2sjax; cp "$0" .venv/bin/python ;;
  "-m pip")
    if [[ "$3" == --version ]]; then exit; fi
    printf '%s\\n' "${*: -1}" >>installed # the last argument: a lock file, or "." for s2sjax itself
    printf '%s\\n' "$*" >>calls
    if [[ -e broken ]]; then exit 1; fi ;;
esac
"""
"""A stand-in that makes what looks like an environment, and writes down what pip is to install."""


class Checkout:
    """A copy of launch/setup.sh and of what it reads, with a stand-in for Python."""

    def __init__(self, place: Path):
        self.place = place
        (place / "launch" / "requirements").mkdir(parents=True)
        shutil.copy(LAUNCH / "setup.sh", place / "launch")
        (place / "pyproject.toml").touch()
        for name in LOCKS:
            (place / "launch" / "requirements" / f"{name}.txt").write_text("a==1 --hash=sha256:0\n")
        self.python = place / "a python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def run(self, *arguments: str, accelerator: str = "cpu") -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", str(self.place / "launch" / "setup.sh"), *arguments], capture_output=True, text=True,
            env=os.environ | {"S2SJAX_PYTHON": str(self.python), "S2SJAX_ACCELERATOR": accelerator},
        )  # fmt: skip

    def installed(self, *arguments: str, accelerator: str = "cpu") -> list[str]:
        """What setup.sh has pip install when it is called with these arguments."""
        (self.place / "installed").unlink(missing_ok=True)
        done = self.run(*arguments, accelerator=accelerator)
        assert done.returncode == 0, done.stderr
        path = self.place / "installed"
        return [Path(line).stem or line for line in path.read_text().splitlines()] if path.exists() else []

    def change(self, lock: str) -> None:
        with open(self.place / "launch" / "requirements" / f"{lock}.txt", "a") as file:
            file.write("b==2 --hash=sha256:0\n")


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def test_a_path_to_python_is_one_from_the_directory_that_setup_is_called_from(tmp_path, checkout):
    here = tmp_path / "elsewhere"
    python = here / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho asked >>"$0.log"\nexit 1\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(checkout.place / "launch" / "setup.sh")], cwd=here, capture_output=True, text=True,
        env=os.environ | {"S2SJAX_PYTHON": "bin/python", "S2SJAX_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.returncode == 2 and f"S2SJAX_PYTHON is '{python}', which does not run as" in done.stderr
    assert (here / "bin" / "python.log").exists()


@pytest.mark.parametrize("accelerator", ["cpu", "cuda13", "tpu"])
def test_users_get_what_running_needs_and_only_dev_adds_the_rest(checkout, accelerator):
    assert checkout.installed(accelerator=accelerator) == ["build", accelerator, "."]
    assert checkout.installed(accelerator=accelerator) == []
    assert checkout.installed("--dev", accelerator=accelerator) == ["dev"]
    assert checkout.installed("--dev", accelerator=accelerator) == checkout.installed(accelerator=accelerator) == []


def test_an_environment_that_has_the_rest_keeps_it_up(checkout):
    assert checkout.installed("--dev") == ["build", "cpu", ".", "dev"]
    checkout.change("dev")
    assert checkout.installed() == ["dev"]
    checkout.change("cpu")
    assert checkout.installed() == ["build", "cpu", ".", "dev"]
    assert checkout.installed(accelerator="tpu") == ["build", "tpu", ".", "dev"]  # in an environment made anew


def test_what_was_not_finished_goes_on(checkout):
    broken = checkout.place / "broken"
    broken.touch()
    assert checkout.run().returncode == 2
    broken.unlink()
    assert checkout.installed() == ["build", "cpu", "."]
    broken.touch()
    assert checkout.run("--dev").returncode == 2
    broken.unlink()
    assert checkout.installed() == ["dev"]


def test_pip_checks_hashes_and_builds_nothing_that_has_a_wheel(checkout):
    checkout.installed("--dev")
    for call in (checkout.place / "calls").read_text().splitlines():
        if call.endswith(" --editable ."):
            assert "--no-deps --no-build-isolation" in call
        else:
            assert "--require-hashes --only-binary :all: --no-binary promise --no-build-isolation" in call


@pytest.mark.parametrize("arguments", [["--develop"], ["--dev", "--dev"], ["-x"]])
def test_an_option_that_is_none_is_told(checkout, arguments):
    done = checkout.run(*arguments)
    assert done.returncode == 2 and "is not an option; it has to be --dev, or nothing" in done.stderr
    assert not (checkout.place / "calls").exists()


def pins(lock: str) -> dict[str, set[str]]:
    """The versions of each package of a lock file: several where they depend on the version of Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCKS[lock], re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def declared(requirements: list[str]) -> set[str]:
    """Names as lock files spell them."""
    return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in requirements}  # type: ignore[index]


@pytest.mark.parametrize("name", LOCKS)
def test_all_that_is_locked_has_hashes_and_no_address(name):
    text = re.sub(r" \\\n +", " ", LOCKS[name])
    requirements = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert requirements
    for line in requirements:
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.]+( ; [^\\]*?)?( --hash=sha256:[0-9a-f]{64})+", line)
    assert "://" not in text


def test_lock_files_hold_what_is_declared_and_development_is_apart():
    project = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())
    running, dev = declared(project["project"]["dependencies"]), declared(project["dependency-groups"]["dev"])
    assert set(pins("build")) == declared(project["dependency-groups"]["build"])
    assert dev <= set(pins("dev"))
    for name in ("cpu", "cuda13", "tpu"):
        assert running <= set(pins(name))
        assert not set(pins(name)) & (dev - {"pyyaml"})  # flax needs PyYAML
        for package in set(pins(name)) & set(pins("dev")):
            assert pins(name)[package] == pins("dev")[package]  # or the one would undo the other
