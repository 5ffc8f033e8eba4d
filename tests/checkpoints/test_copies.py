"""The second copy: in a directory, and in fsspec's memory, which like a bucket knows no folders and no renaming."""

import dataclasses
import json
import shutil
import uuid
from pathlib import Path

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.copies import SecondCopy
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.checkpoints.retention import CheckpointConfig
from s2sjax.errors import UserError
from s2sjax.experiment import save as save_experiment
from s2sjax.runs.workdir import open_copy
from tests.tiny import tiny

SHAPES = {"params/a": jax.ShapeDtypeStruct((3, 4), jnp.float32), "step": jax.ShapeDtypeStruct((), jnp.int32)}


def state_of(step: int) -> dict[str, jax.Array]:
    return {name: jnp.full(leaf.shape, step, leaf.dtype) for name, leaf in SHAPES.items()}


@pytest.fixture
def workdir(tmp_path) -> Path:
    """A run directory without checkpoints."""
    workdir = tmp_path / "runs" / "mine"
    (workdir / "tokenizer").mkdir(parents=True)
    (workdir / "config.json").write_text('{"seed": 1}')
    (workdir / "data.json").write_text('{"train": "x"}')
    (workdir / "tokenizer" / "source.model").write_bytes(b"\x00\xff")
    return workdir


@pytest.fixture(params=["directory", "bucket"])
def place(request, tmp_path) -> str:
    return str(tmp_path / "second") if request.param == "directory" else f"memory://bucket/{uuid.uuid4()}"


def second(place: str, workdir: Path, check=lambda records: None) -> SecondCopy:
    return SecondCopy(place, workdir, check)


def run(place: str, workdir: Path, *steps: int, **config) -> list[str]:
    """Restore, save these steps, close; what the user is told."""
    with Checkpointer(workdir / "checkpoints", CheckpointConfig(**config), second(place, workdir)) as checkpoints:
        restored = checkpoints.restore(SHAPES, set_aside=True)
        assert restored is None or np.all(np.asarray(restored.state["params/a"]) == restored.step)
        for step in steps:
            checkpoints.save(step, state_of(step), {"loss": 1.0 / step})
            checkpoints.wait()
        checkpoints._copier.close()  # close would print what poll has here
        return [*(restored.messages if restored else ()), *checkpoints.poll()]


def files_in(place: str) -> dict[str, bytes]:
    files, root = fsspec.core.url_to_fs(place)
    return {name.removeprefix(root + "/"): files.cat_file(name) for name in files.find(root)}


def files_of(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def overwrite(place: str, name: str, content: bytes | None) -> None:
    files, root = fsspec.core.url_to_fs(place)
    if content is None:
        files.rm_file(f"{root}/{name}")
    else:
        files.pipe_file(f"{root}/{name}", content)


def test_the_second_copy_is_the_run_directory_again_without_what_is_not_kept(place, workdir):
    assert run(place, workdir, 1, 2, keep_last=2, keep_best=0) == []
    assert run(place, workdir, 3, 4, keep_last=2, keep_best=0) == []
    here = {f"mine/{name}": content for name, content in files_of(workdir).items() if not name.endswith("lock")}
    assert files_in(place) == here
    assert {name.split("/")[2] for name in here if "checkpoints/" in name} == {"3", "4"}


def test_a_lost_run_directory_is_gone_on_with_from_the_second_copy_and_the_user_hears_of_it(place, workdir):
    run(place, workdir, 1, 2)
    before = files_of(workdir / "checkpoints" / "2")
    shutil.rmtree(workdir / "checkpoints")
    (message,) = run(place, workdir)
    assert message == (
        f"no good checkpoint in {workdir / 'checkpoints'}; going on from the second copy of checkpoint 2"
    )
    assert files_of(workdir / "checkpoints" / "2") == before
    assert run(place, workdir, 3) == [], "and now it is here again"


def test_a_damaged_checkpoint_is_replaced_by_its_second_copy_rather_than_by_an_older_one(place, workdir):
    run(place, workdir, 1, 2)
    (workdir / "checkpoints" / "2" / "state" / "_METADATA").write_text("{}")
    (message,) = run(place, workdir)
    assert message == (
        "checkpoint 2: file state/_METADATA: 2 bytes instead of "
        f"{len(files_of(workdir / 'checkpoints' / '2')['state/_METADATA'])}; "
        "going on from the second copy of checkpoint 2"
    )
    assert CheckpointReader(workdir / "checkpoints").verify(2) is None
    assert (workdir / "checkpoints" / "damaged-2-1").is_dir()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("manifest.json", None, "there is none"),
        ("manifest.json", b"{}", "file manifest.json: cannot be read as a manifest"),
        ("state/_METADATA", None, "file state/_METADATA: missing"),
        ("state/_METADATA", b"{}", "file state/_METADATA: 2 bytes instead of"),
    ],
)
def test_a_second_copy_that_is_damaged_too_is_passed_over(place, workdir, name, content, said):
    run(place, workdir, 1, 2)
    overwrite(place, f"mine/checkpoints/2/{name}", content)
    shutil.rmtree(workdir / "checkpoints")
    first, other = run(place, workdir)
    assert first.endswith("going on from the second copy of checkpoint 1")
    assert "the second copy of checkpoint 2 in" in other and said in other


def test_when_nothing_is_whole_anywhere_nothing_is_begun_anew(place, workdir):
    run(place, workdir, 1)
    overwrite(place, "mine/checkpoints/1/manifest.json", b"")
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: the second copy of checkpoint 1 in"):
        run(place, workdir)


def test_what_a_run_could_not_copy_the_next_one_does(place, workdir):
    with Checkpointer(workdir / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state_of(1))
    assert run(place, workdir) == []
    torn = files_in(place)
    overwrite(place, "mine/checkpoints/1/manifest.json", None)  # as a kill in the middle leaves it
    assert run(place, workdir) == []
    assert files_in(place) == torn


def test_bytes_that_change_on_their_way_are_noticed_and_sent_again_with_the_next_checkpoint(workdir, monkeypatch):
    place = f"memory://{uuid.uuid4()}"
    put_file = MemoryFileSystem.put_file

    def flip(self, lpath, rpath, **options):
        put_file(self, lpath, rpath, **options)
        if rpath.endswith("/_METADATA"):
            content = self.cat_file(rpath)
            self.pipe_file(rpath, bytes([content[0] ^ 1]) + content[1:])

    with Checkpointer(workdir / "checkpoints", CheckpointConfig(), second(place, workdir)) as checkpoints:
        checkpoints.restore(SHAPES, set_aside=True)
        monkeypatch.setattr(MemoryFileSystem, "put_file", flip)
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
        problems = []
        while not problems:
            problems = checkpoints.poll()
        assert problems == [
            f"the second copy in {place}/mine is not up to date: file state/_METADATA: what was read back differs from "
            "what was saved"
        ]
        monkeypatch.undo()
        checkpoints.save(2, state_of(2))
    assert {name.split("/")[2] for name in files_in(place) if name.endswith(manifest.NAME)} == {"1", "2"}


class Unreachable(MemoryFileSystem):
    """A place that does not answer."""

    protocol = "unreachable"

    def _down(self, *arguments, **options):
        raise ConnectionError("no route to host")

    ls = cat_file = put_file = pipe_file = makedirs = _down


@pytest.fixture
def unreachable():
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    return "unreachable://there"


def test_a_place_that_does_not_answer_is_reported_and_costs_the_run_nothing(unreachable, workdir):
    with Checkpointer(workdir / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state_of(1))
    problems = run(unreachable, workdir, 2)
    assert problems and set(problems) == {f"the second copy in {unreachable}/mine is not up to date: no route to host"}
    assert CheckpointReader(workdir / "checkpoints").steps() == [1, 2]


def test_a_place_that_does_not_answer_is_not_overwritten_by_a_run_that_lost_everything(unreachable, workdir):
    with pytest.raises(UserError, match="no good checkpoint in .* cannot be read: no route to host. Run the same"):
        run(unreachable, workdir)


def test_a_failure_of_the_second_copy_after_the_last_step_is_not_lost(unreachable, workdir, caplog):
    with Checkpointer(workdir / "checkpoints", CheckpointConfig(), second(unreachable, workdir)) as checkpoints:
        checkpoints.save(1, state_of(1))
    assert "is not up to date: no route to host" in caplog.text


def test_a_checkpoint_stays_until_it_is_copied(workdir):
    """A slow place gets whole checkpoints, even if each would have been deleted before it is there."""
    place = f"memory://{uuid.uuid4()}"
    with Checkpointer(workdir / "checkpoints", CheckpointConfig(keep_last=1, keep_best=0), second(place, workdir)) as c:
        c._copier.keep = lambda steps: None
        c.save(1, state_of(1))
        c.wait()
        c._copier.busy = 1
        c.save(2, state_of(2))
        c.wait()
        assert c.steps() == [1, 2]
        c._copier.busy = None
        c.save(3, state_of(3))
        c.wait()
        assert c.steps() == [3]


def test_places_that_cannot_be_are_a_users_error(workdir, tmp_path):
    with pytest.raises(UserError, match=r"copy_to is 'ftp://127.0.0.1:1', which cannot be reached: Connection refused"):
        SecondCopy("ftp://127.0.0.1:1", workdir, lambda records: None)
    with pytest.raises(UserError, match=r"copy_to is 'nowhere://x', which cannot be reached: .*nowhere"):
        second("nowhere://x", workdir)
    with pytest.raises(UserError, match=r"copy_to is '.*', which holds .*mine itself; choose another place"):
        second(str(workdir.parent), workdir)
    (tmp_path / "second" / "mine").mkdir(parents=True)
    (tmp_path / "second" / "mine" / "diary.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty and has no config.json, so it is no copy of a run"):
        second(str(tmp_path / "second"), workdir).open()


def test_another_runs_copy_is_refused_and_the_difference_named(workdir, tmp_path):
    experiment = tiny(tmp_path / "data", checkpoint__copy_to=str(tmp_path / "second"))
    there = tmp_path / "second" / "mine"
    there.mkdir(parents=True)
    save_experiment(dataclasses.replace(experiment, seed=7), there / "config.json")
    with pytest.raises(UserError, match=r"second/mine, .* another config: config.seed was 7 and is 0. Choose another"):
        open_copy(experiment, workdir)
    save_experiment(experiment, there / "config.json")
    assert open_copy(experiment, workdir).steps() == []
    (there / "data.json").write_text(json.dumps({"train": "y"}))
    with pytest.raises(UserError, match="holds a run on other training data; choose another place"):
        open_copy(experiment, workdir)
    (there / "data.json").write_text("{")
    with pytest.raises(UserError, match=r"records that cannot be read \(.*\); move it away"):
        open_copy(experiment, workdir)
    assert open_copy(tiny(tmp_path / "data"), workdir) is None


def test_a_roll_back_takes_the_given_up_checkpoints_out_of_the_second_copy(place, workdir):
    run(place, workdir, 1, 2, 3)
    for step in (2, 3):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    (workdir / "skipped.json").write_text("[2, 3]")
    assert second(place, workdir).useful_steps() == []
    with pytest.raises(manifest.DamagedError, match="from before a roll-back"):
        second(place, workdir).fetch(3, workdir / "checkpoints" / "tmp-3-1")
    assert run(place, workdir) == []
    assert second(place, workdir).useful_steps() == [1]
    assert files_in(place)["mine/skipped.json"] == b"[2, 3]"


def test_a_lost_run_directory_gets_its_record_of_roll_backs_back_and_a_living_one_keeps_its_own(place, workdir):
    (workdir / "skipped.json").write_text("[2, 3]")
    run(place, workdir, 1)
    (workdir / "skipped.json").unlink()
    second(place, workdir).recover_record()
    assert not (workdir / "skipped.json").exists(), "its checkpoint is from a life without a roll-back"
    shutil.rmtree(workdir / "checkpoints")
    second(place, workdir).recover_record()
    assert (workdir / "skipped.json").read_text() == "[2, 3]"
    (message,) = run(place, workdir)
    assert message.endswith("going on from the second copy of checkpoint 1")
