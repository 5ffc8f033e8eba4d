"""The table of faults, as far as time allows: some rows always, of the others another part in every commit. All of it:
python -m tests.faults.
"""

import contextlib
from pathlib import Path

import jax.numpy as jnp
import pytest

from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.retention import CheckpointConfig
from tests.faults import files, table
from tests.faults.lab import Lab, Outcome, Skip

CHOSEN = (
    *(name for name in files.FAULTS if name.startswith(("manifest.json", "state/d/*"))),
    "newest checkpoint is an empty directory",
    "newest checkpoint removed",
    "all checkpoints damaged",
    "run directory lost, second copy left",
    "newest checkpoint damaged, second copy whole",
    "SIGKILL preparing data",
    "SIGKILL writing a checkpoint",
    "SIGKILL between a checkpoint's writing and its renaming",
    "SIGKILL deleting an old checkpoint",
    "SIGTERM compiling the step",
    "SIGTERM at a step",
    "SIGTERM validating",
    "SIGUSR1 at a step",
    "disk full, room later",
    "disk full while writing a checkpoint",
    "checkpoints read-only",
    "save fails in the background",
    "NaN gradients beyond the bound",
    "corrupt record, one allowed",
    "stuck step",
    "peer: SIGKILL at a step",
    "coordinator: SIGKILL before renaming",
    "peer: SIGSTOP",
    "peer: cut off from the network",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with contextlib.closing(Lab(tmp_path_factory.mktemp("lab"))) as lab:
        yield lab


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHOSEN)
def test_a_run_survives(lab, name):
    tried = table.attempt(lab, name)
    if tried.skipped:
        pytest.skip(tried.skipped)
    assert not tried.failure, tried.failure
    print(table.markdown([tried]))


@pytest.mark.slow
@pytest.mark.grid(8)  # or a row that nobody tries would go on promising what the program no longer does
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in table.FAULTS if name not in CHOSEN])
def test_a_run_survives_the_others_too(lab, name):
    test_a_run_survives(lab, name)


def test_every_kind_of_file_in_a_checkpoint_is_harmed_in_every_way(tmp_path):
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, {"params/a": jnp.ones((3, 4)), "step": jnp.int32(1)})
    written = {path for path in (tmp_path / "1").rglob("*") if path.is_file()}
    known = {path for pattern in files.KINDS for path in (tmp_path / "1").glob(pattern)}
    assert written == known
    assert len([name for name in files.FAULTS if "of the newest checkpoint" in name]) == 3 * len(files.KINDS)
    for harm in (files.truncate, files.flip):
        for path in written:
            content = path.read_bytes()
            harm(path)
            assert path.read_bytes() != content or not content, path


def test_the_table_tells_what_was_survived_skipped_and_not(tmp_path, monkeypatch):
    def skip(lab: Lab, workdir: Path) -> Outcome:
        raise Skip("no root")

    def fail(lab: Lab, workdir: Path) -> Outcome:
        raise AssertionError("3 of 40 arrays differ")

    outcomes = {"one": lambda lab, workdir: Outcome("exit 75 | saved", 1.26, 3), "two": skip, "three": fail}
    monkeypatch.setattr(table, "FAULTS", outcomes)
    lines = table.markdown([table.attempt(Lab(tmp_path), name) for name in outcomes]).splitlines()
    assert lines[2] == r"| one | exit 75 \| saved | 1.3 s | 3 | same bits |"
    assert lines[3] == "| two | skipped: no root | | | |"
    assert "FAILED" in lines[4] and "3 of 40 arrays differ" in lines[4]


def test_the_chosen_ones_are_in_the_table():
    assert len(CHOSEN) >= 25 and set(CHOSEN) <= table.FAULTS.keys()
