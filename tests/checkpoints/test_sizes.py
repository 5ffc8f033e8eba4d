"""A checkpoint takes as much memory as its files have bytes, whatever is written in it."""

import errno
import json
import os
import shutil
import subprocess
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
from s2sjax.checkpoints.sizes import parse_arrays
from s2sjax.errors import UserError
from s2sjax.files import jsontext

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


# ---- What stands beside the arrays ----


def grow(path: Path, size: int) -> None:
    """Let a file end with a hole."""
    os.truncate(path, size)


def data_file(directory: Path) -> Path:
    return max((directory / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def unread(monkeypatch) -> list[str]:
    """Names of the files whose checksum is computed from now on."""
    checksum, read = manifest._checksum, []
    monkeypatch.setattr(manifest, "_checksum", lambda at, name: read.append(name) or checksum(at, name))
    return read


def seal_unread(directory: Path, monkeypatch) -> None:
    """A manifest that lists what stands there by now, whose largest file would take a day to hash."""
    with monkeypatch.context() as context:
        context.setattr(manifest, "_checksum", lambda at, name: "0")
        reseal(directory)


@pytest.mark.parametrize("size, said", [(2**43, "bytes, expected at most"), (60_000_000, "the rest are holes")])
def test_files_with_holes_are_not_hashed(copy, monkeypatch, size, said):
    """Eight terabytes, and as much as may stand beside the arrays."""
    grow(data_file(copy / "1"), size)
    seal_unread(copy / "1", monkeypatch)
    read = unread(monkeypatch)
    for act in (CheckpointReader(copy).restore, lambda asked: CheckpointReader(copy).restore(asked, 1)):
        with pytest.raises(UserError, match=said):
            act(ABSTRACT)
    assert said in CheckpointReader(copy).verify(1)
    assert not read


def test_a_checkpoint_whose_zeros_are_holes_is_read(copy, monkeypatch):
    """As `cp --sparse=always` leaves it: what has no zeros is on the disk."""
    for path in (copy / "1").rglob("*"):
        if path.is_file():
            sparse = path.with_suffix(".sparse")
            subprocess.run(["cp", "--sparse=always", path, sparse], check=True)
            sparse.rename(path)
    assert CheckpointReader(copy).restore(ABSTRACT).step == 1


def test_a_file_system_that_knows_no_holes_has_none(copy, monkeypatch):
    def refuse(handle, at, whence):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "lseek", refuse)
    assert CheckpointReader(copy).restore(ABSTRACT).step == 1


def test_all_sizes_are_compared_before_anything_is_hashed(copy, monkeypatch):
    last = max(path for path in (copy / "1").rglob("*") if path.is_file() and path.name != manifest.NAME)
    last.write_bytes(last.read_bytes() + b"x")
    read = unread(monkeypatch)
    assert "instead of" in CheckpointReader(copy).verify(1)
    assert not read


def test_a_checkpoint_of_another_model_is_not_hashed(copy, monkeypatch):
    read = unread(monkeypatch)
    with pytest.raises(UserError, match="of another model"):
        CheckpointReader(copy).restore(ABSTRACT | {"params/b": jax.ShapeDtypeStruct((6,), jnp.bfloat16)})
    assert not read


def test_arrays_that_are_not_read_have_a_bound_by_those_that_are(copy, monkeypatch):
    reseal(copy / "1", lambda body: body["arrays"].update({"opt/x": {"shape": [2**40 - 1], "dtype": "float32"}}))
    read = unread(monkeypatch)
    with pytest.raises(UserError, match="lists arrays of .* bytes, expected at most 16 times the 58"):
        CheckpointReader(copy).restore({name: ABSTRACT[name] for name in ("params/a", "params/b")}, partial=True)
    assert not read


@pytest.mark.parametrize("name", ["_METADATA", "array_metadatas/process_0", "array_metadatas/process_7"])
@pytest.mark.parametrize("count, said", [(40_000, "bytes, expected at most"), (15_000, "values")])
def test_json_that_orbax_parses_has_a_bound(copy, name, count, said):
    path = copy / "1" / "state" / name
    document = json.loads((path if path.exists() else path.with_name("process_0")).read_bytes())
    path.write_text(json.dumps(document | {"x": [[]] * count}, separators=(",", ":")))
    reseal(copy / "1")
    with pytest.raises(UserError, match=f"checkpoint 1 .*cannot be read: .*{name}.*{said}"):
        CheckpointReader(copy).restore(ABSTRACT)


@pytest.mark.parametrize("change", [{"use_zarr3": True}, {"use_ocdbt": False}])
def test_orbax_is_not_told_to_read_other_files_than_were_checked(copy, change):
    path = copy / "1" / "state" / "_METADATA"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    reseal(copy / "1")
    with pytest.raises(UserError, match="another format"):
        CheckpointReader(copy).restore(ABSTRACT)


def test_a_chunk_of_another_size_than_its_array_has_is_not_read(copy):
    store(copy / "1").write("params/a/0.0", bytes(5_000)).result()
    reseal(copy / "1")
    with pytest.raises(UserError, match="chunk 0.0 has 5,000 bytes, expected 48"):
        CheckpointReader(copy).restore(ABSTRACT)


def test_a_manifest_of_100_000_arrays_is_within_its_bound(tmp_path):
    path = "opt_state/0/mu/decoder/layers_{}/around_cross_attention/attention/key_projection/kernel"
    arrays = {path.format(i): {"shape": [4096, 16, 256], "dtype": "bfloat16"} for i in range(100_000)}
    files = {f"state/ocdbt.process_{i % 512}/d/{i:032x}": {"size": 10**11, "sha256": "0" * 64} for i in range(5_000)}
    body = {"step": 10**6, "metrics": {"loss": 1.5}, "arrays": arrays}
    document = {"format": manifest.FORMAT, "version": manifest.VERSION, "body": body, "files": files}
    content = jsontext.dumps(document, indent=1, sort_keys=True).encode()
    jsontext.check(content, "it", manifest.LARGEST)
    assert len(parse_arrays(arrays)) == 100_000


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
