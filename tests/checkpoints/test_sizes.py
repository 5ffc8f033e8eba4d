"""A checkpoint takes as much memory as its files have bytes, whatever is written in it."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.checkpoints.retention import CheckpointConfig
from s2sjax.errors import UserError

STATE = {"params/a": jnp.arange(12.0).reshape(3, 4), "params/b": jnp.ones((5,), jnp.bfloat16), "step": jnp.int32(1)}
ABSTRACT = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in STATE.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("sizes") / "checkpoints"
    with Checkpointer(directory, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, STATE)
    return directory


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def reseal(directory: Path, change=lambda body: None) -> None:
    """A manifest that fits what stands there by now: whoever can write files can write one."""
    body = json.loads((directory / manifest.NAME).read_text())["body"]
    (directory / manifest.NAME).unlink()
    change(body)
    manifest.seal(directory, body)


def store(directory: Path) -> ts.KvStore:
    return ts.KvStore.open({"driver": "ocdbt", "base": f"file://{directory}/state/"}).result()


def rewrite(directory: Path, **changes) -> None:
    """Change how the array params/a says that it is stored."""
    files = store(directory)
    described = json.loads(files.read("params/a/.zarray").result().value)
    files.write("params/a/.zarray", json.dumps(described | changes).encode()).result()
    reseal(directory)


def test_an_honest_checkpoint_is_read_of_every_type(saved):
    restored = CheckpointReader(saved).restore(ABSTRACT)
    for name, leaf in STATE.items():
        assert np.asarray(restored.state[name]).tobytes() == np.asarray(leaf).tobytes()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"chunks": [1_000_000, 100_000]}, "chunks"),
        ({"chunks": [0, 4]}, "chunks"),
        ({"chunks": [3]}, "manifest"),
        ({"chunks": None}, "manifest"),
        ({"shape": [100_000, 4]}, "manifest"),
        ({"dtype": "<f8"}, "<f8"),
        ({"compressor": {"id": "zstd", "level": 1}}, "compressed"),
        ({"x": "y" * 100_000}, "bytes"),
        ({"x": [[[[[[[[[[[[]]]]]]]]]]]], "shape": [10**30, 4]}, "64 bits"),
    ],
)
def test_an_array_that_is_stored_otherwise_than_the_manifest_says_is_not_read(copy, changes, said):
    rewrite(copy / "1", **changes)
    with pytest.raises(UserError, match=f"checkpoint 1 .*{said}"):
        CheckpointReader(copy).restore(ABSTRACT)


def test_compressed_zeros_are_not_unpacked(copy, monkeypatch):
    """Sixteen gigabytes of zeros in a chunk of a few kilobytes."""
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": f"file://{copy}/1/state/"}, "path": "params/a/"}
    big = ts.open(
        spec | {"metadata": {"shape": [3, 40_000], "chunks": [3, 40_000], "dtype": "<f4",
                             "compressor": {"id": "zstd", "level": 1}}, "create": True, "delete_existing": True}
    ).result()  # fmt: skip
    big[...].write(np.zeros((3, 40_000), np.float32)).result()

    def change(body):
        body["arrays"]["params/a"]["shape"] = [3, 40_000]

    reseal(copy / "1", change)
    wanted = ABSTRACT | {"params/a": jax.ShapeDtypeStruct((3, 40_000), jnp.float32)}
    with pytest.raises(UserError, match="its arrays would take 480,014 bytes, and its files have"):
        CheckpointReader(copy).restore(wanted)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [3, 4], "dtype": "float99"},
        {"shape": [3, 4], "dtype": "object"},
        {"shape": [3, 4], "dtype": "(01,)f4"},
        {"shape": [3, 4], "dtype": "f4,f4"},
        {"shape": [3, 4], "dtype": "float32\n"},
        {"shape": [3, 4], "dtype": "void8"},
        {"shape": [3, 4], "dtype": "datetime64[s]"},
        {"shape": [3, 4], "dtype": [["a", "f4"]]},
        {"shape": [3, -4], "dtype": "float32"},
        {"shape": [3, 2**62], "dtype": "float32"},
        {"shape": [3, 4.0], "dtype": "float32"},
        {"shape": 3, "dtype": "float32"},
        {"dtype": "float32"},
        [],
        None,
    ],
)
def test_a_sealed_manifest_with_nonsense_in_it_is_damage(copy, entry):
    reseal(copy / "1", lambda body: body["arrays"].update({"params/a": entry}))
    reader = CheckpointReader(copy)
    assert reader.steps() == []
    with pytest.raises(UserError, match="incomplete"):
        reader.restore(ABSTRACT)
    with pytest.raises(UserError, match="incomplete"):
        reader.arrays(1)


@pytest.mark.parametrize("name", ["manifest.ocdbt", "_METADATA", "_CHECKPOINT_METADATA", "_sharding"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 3000, b"\xff\x00", b'{"use_zarr3": 1}'])
def test_files_of_orbax_that_are_not_its_own_are_a_sentence(copy, name, content):
    (copy / "1" / "state" / name).write_bytes(content)
    reseal(copy / "1")
    try:
        CheckpointReader(copy).restore(ABSTRACT)  # orbax may do without the file
    except UserError as error:
        assert "checkpoint 1" in str(error)


# ---- Beside a training that deletes checkpoints ----


@pytest.fixture
def going(tmp_path, monkeypatch):
    """Two checkpoints, and after the moment that a test names, only the older one."""
    directory = tmp_path / "checkpoints"
    with Checkpointer(directory, CheckpointConfig()) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE, {"loss": 1.0 / step})

    def at(moment: str) -> CheckpointReader:
        before = getattr(CheckpointReader, moment)

        def then_gone(self, *arguments, **options):
            found = before(self, *arguments, **options)
            shutil.rmtree(directory / "2", ignore_errors=True)
            return found

        monkeypatch.setattr(CheckpointReader, moment, then_gone)
        return CheckpointReader(directory)

    return at


@pytest.mark.parametrize("moment", ["_candidates", "chosen", "verify", "_body"])
def test_a_checkpoint_that_goes_while_it_is_read_is_chosen_again(going, moment):
    """Between being chosen, verified and read; and nothing is said of damage, since there is none."""
    reader = going(moment)
    restored = reader.restore_chosen(ABSTRACT, "best") if moment == "chosen" else reader.restore(ABSTRACT)
    assert (restored.step, restored.messages) == (1, ())


@pytest.mark.parametrize("moment", ["verify", "_body"])
def test_a_checkpoint_that_was_asked_for_and_goes_is_named(going, moment):
    with pytest.raises(UserError, match="no checkpoint 2 in|checkpoint 2 in .* was deleted while it was read"):
        going(moment).restore(ABSTRACT, 2)
