"""What of a run directory may not be read, or is broken: one sentence that says which file it is and what helps."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.errors import UserError
from s2sjax.experiment import load as load_config
from s2sjax.files import rundir
from s2sjax.learning.state import TrainState
from s2sjax.runs import home
from s2sjax.runs.loading import load
from tests.hostile import command, forbid, reseal
from tests.tiny import on_one_device, random_state, tiny, write_run

STEPS = (71, 72)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("denied")
    experiment = tiny(place / "data", decode__checkpoint="last")
    with on_one_device(place):
        state = random_state(experiment, 0)
        yield write_run(place / "run", experiment, {step: (state, {"loss": 1.0}) for step in STEPS})


NAMES = ("checkpoints", "72", "manifest.json", "state", "d", "_METADATA", "tokenizer", "source.model", "config.json",
         "home.json")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_may_not_be_read_is_named_and_not_passed_over(name, run, monkeypatch):
    forbid(monkeypatch, name)
    with pytest.raises(UserError, match=r"Permission denied.*chmod -R u\+rX .*ask its owner") as told:
        load(run)
    assert name in str(told.value) and "/proc/" not in str(told.value)
    code, said = command("decode", f"--workdir={run}", "--prompt=ab")
    assert code == 2 and said.count("\n") == 1 and name in said


@pytest.mark.parametrize("name", ["72", "manifest.json"])
def test_checkpoints_that_may_not_be_read_are_not_listed_as_damaged(name, run, monkeypatch):
    forbid(monkeypatch, name)
    code, said = command("checkpoints", f"--workdir={run}")
    assert code == 2 and "Permission denied" in said and "damaged" not in said


def test_a_record_of_somebody_else_that_may_not_be_read_is_none(run, monkeypatch):
    forbid(monkeypatch, home.RECORD)
    monkeypatch.setattr(os, "getuid", lambda: 1 + run.stat().st_uid)
    assert not home.is_home(run, load_config(run / "config.json"))


def test_a_run_that_trains_passes_over_what_it_may_not_read_and_says_so(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    experiment = load_config(run / "config.json")
    state: TrainState = random_state(experiment, 0)
    with Checkpointer(tmp_path / "run" / "checkpoints", experiment.checkpoint) as checkpoints:
        forbid(monkeypatch, "72")
        restored = checkpoints.restore(state)
    assert restored is not None and restored.step == 71
    assert "checkpoint 72: folder 72: Permission denied; going on from checkpoint 71" in restored.messages


@pytest.mark.parametrize("closed", ["", "runs", "runs/mine", "runs/mine/checkpoints"])
def test_the_folder_that_lets_nobody_through_is_the_one_to_open(closed, tmp_path, monkeypatch):
    path = tmp_path / "runs" / "mine" / "checkpoints" / "7"
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: p != tmp_path / closed and access(tmp_path, mode))
    assert f"`chmod -R u+rX {tmp_path / closed}`" in rundir.way_in(path, PermissionError())
    assert rundir.way_in(path, FileNotFoundError()) == ""


def test_a_folder_above_that_lets_nobody_through_is_a_sentence(run, monkeypatch):
    is_file = Path.is_file

    def refuse(path):
        if path.name == "config.json":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    forbid(monkeypatch, "config.json")
    for argv in (["decode"], ["train"], ["decode", "--help"]):
        code, said = command(*argv, f"--workdir={run}")
        assert code == 2 and f"cannot read {run}/config.json: Permission denied" in said


BREAK = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "other": lambda content: bytes(byte ^ 0x55 for byte in content),
    "bit": lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:] if content[50:] else b"x",
    "missing": None,
}


def files(run: Path) -> list[str]:
    """What is read of a checkpoint."""
    state = run / "checkpoints" / "72" / "state"
    names = (str(path.relative_to(state)) for path in sorted(state.rglob("*")) if path.is_file())
    return [name for name in names if "process_0/" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("how", BREAK)
def test_a_broken_file_of_a_checkpoint_is_a_sentence_with_its_name(how, run, tmp_path):
    """As a stranger makes them, with a manifest that fits; what an accident breaks is found by its checksum."""
    refused = set()
    for name in files(run):
        there = shutil.copytree(run, tmp_path / name.replace("/", "-"))
        broken = there / "checkpoints" / "72" / "state" / name
        broken.write_bytes(BREAK[how](broken.read_bytes())) if BREAK[how] else broken.unlink()
        reseal(there / "checkpoints" / "72")
        try:
            load(there)
        except UserError as error:
            refused.add(name)
            said = str(error)
            assert len(said) < 400 + len(str(there)) and "\n" not in said and "/proc/" not in said, said
            if name.startswith(("d/", "manifest.ocdbt")) and how != "missing":
                assert name in said, said
    assert {name for name in refused if name.startswith("d/")}


@pytest.mark.slow
def test_a_library_under_us_prints_no_traceback(run, tmp_path):
    there = shutil.copytree(run, tmp_path / "run")
    broken = there / "checkpoints" / "72" / "state" / "array_metadatas" / "process_0"
    broken.write_bytes(BREAK["other"](broken.read_bytes()))
    reseal(there / "checkpoints" / "72")
    argv = [sys.executable, "-m", "s2sjax", "decode", f"--workdir={there}", "--prompt=ab"]
    said = subprocess.run(argv, capture_output=True, text=True)
    assert said.returncode == 2 and len(said.stderr.splitlines()) == 1, said.stderr[-3000:]
