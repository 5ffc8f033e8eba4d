import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from s2sjax.checkpoints import checkpointer, manifest
from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.checkpoints.retention import CheckpointConfig
from s2sjax.errors import UserError


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    ema: dict | None


def make_state(seed: int = 0) -> State:
    """Every type that a run saves, with NaN, infinities, subnormals and a negative zero among the values."""
    bits = np.random.default_rng(seed).integers(0, 2**32, (6, 4), dtype=np.uint32)
    params = {
        "encoder": {
            "kernel": jnp.asarray(bits.view(np.float32)),
            "bias.0": jnp.asarray([-0.0, 1e-42, jnp.nan, jnp.inf]),
        },
        "half": jax.lax.bitcast_convert_type(jnp.asarray(bits.astype(np.uint16)), jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    key = jax.random.key_data(jax.random.key(seed))
    opt_state = (optimizer.init(params), {"count": jnp.int32(-7), "key": key, "flag": jnp.asarray(True)})
    return State(step=jnp.uint32(seed), params=params, opt_state=opt_state, ema=None)


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def bits(tree) -> list[tuple]:
    return [(x.dtype.name, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def save_steps(directory: Path, *steps: int, **config) -> None:
    with Checkpointer(directory, CheckpointConfig(keep_last=99, **config)) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"loss": 1.0 / step})
        checkpoints.wait()
        assert checkpoints.poll() == []


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    save_steps(directory, 100, 200)
    return directory


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_what_is_restored_is_what_was_saved_bit_for_bit(saved):
    state = make_state(200)
    restored = CheckpointReader(saved).restore(abstract(state))
    assert restored.step == 200 and restored.metrics == {"loss": 0.005} and restored.messages == ()
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert bits(restored.state) == bits(state)


def test_an_older_step_and_a_part_of_the_state_can_be_restored(saved):
    state = make_state(100)
    restored = CheckpointReader(saved).restore(abstract({"params": state.params}), 100, partial=True)
    assert restored.step == 100 and bits(restored.state) == bits({"params": state.params})


def test_no_checkpoint_is_none_and_a_missing_step_names_the_others(saved, tmp_path):
    assert CheckpointReader(tmp_path / "nowhere").restore(abstract(make_state())) is None
    with pytest.raises(UserError, match=r"no checkpoint 150 in .*there are: 100, 200"):
        CheckpointReader(saved).restore(abstract(make_state()), 150)
    with pytest.raises(UserError, match="checkpoint 150"):
        CheckpointReader(saved).metrics(150)


def test_a_state_may_be_donated_and_overwritten_as_soon_as_save_returns(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    state = {f"layer{i}": jnp.full((256, 512), float(i)) for i in range(20)}
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(3):
            state = step(state)
        jax.block_until_ready(state)
    restored = CheckpointReader(tmp_path).restore(abstract(state)).state
    assert all(np.all(np.asarray(restored[f"layer{i}"]) == i) for i in range(20))


def test_every_flipped_bit_is_detected(copy):
    """In each file of the checkpoint, the manifest included, at twelve random places: none may pass."""
    reader, rng, flips = CheckpointReader(copy), random.Random(5), 0
    assert reader.verify(200) is None
    for path in files_of(copy / "200"):
        content = path.read_bytes()
        for _ in range(12):
            position, bit = rng.randrange(len(content)), rng.randrange(8)
            path.write_bytes(content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :])
            damage = reader.verify(200)
            assert damage is not None and path.relative_to(copy / "200").as_posix() in damage, (path, position, bit)
            flips += 1
        path.write_bytes(content)
    assert reader.verify(200) is None
    assert flips >= 100


def test_a_flipped_bit_in_a_number_that_means_the_same_is_detected(tmp_path):
    (tmp_path / "file").write_text("x")
    manifest.seal(tmp_path, {"loss": 1e-7})
    path = tmp_path / manifest.NAME
    path.write_text(path.read_text().replace("1e-07", "1E-07"))
    with pytest.raises(manifest.DamagedError, match="checksum differs"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (lambda path: path.write_bytes(b""), "0 bytes instead of"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.with_name("more").write_text("x"), "more: not in the manifest"),
        (lambda path: path.rename(path.with_name("other")), "missing"),
        (lambda path: (path.rename(path.parents[2] / "elsewhere"), path.symlink_to("../elsewhere")), "a link"),
    ],
)
def test_truncated_missing_added_and_linked_files_are_detected(copy, harm, said):
    harm(copy / "200" / "state" / "_METADATA")
    assert said in CheckpointReader(copy).verify(200)
    with pytest.raises(UserError, match=r"checkpoint 200 .* is damaged: .*there are: 100"):
        CheckpointReader(copy).restore(abstract(make_state()), 200)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"sha256": 1}'])
def test_a_broken_manifest_is_no_checkpoint(copy, content):
    (copy / "200" / manifest.NAME).write_bytes(content)
    assert CheckpointReader(copy).steps() == [100]
    assert CheckpointReader(copy).restore(abstract(make_state())).step == 100


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "state/../../secret", "state//_METADATA"])
def test_a_manifest_that_points_out_of_its_directory_is_refused(copy, name):
    """Made with a valid checksum, as somebody would who means harm."""
    (copy / "secret").write_text("x")
    path = copy / "200" / manifest.NAME
    document = json.loads(path.read_text())
    del document["sha256"]
    document["files"][name] = {"size": 1, "sha256": "0"}
    path.write_bytes(b"".join(manifest._serialised(document | {"sha256": manifest._digest(document)})))
    assert "leaves the directory" in CheckpointReader(copy).verify(200)


def test_a_damaged_checkpoint_is_passed_over_and_set_aside_so_that_its_step_can_be_saved_again(copy):
    (copy / "300").mkdir()  # orbax would call this the latest
    (copy / "200" / "state" / "_METADATA").unlink()
    state = make_state(100)
    assert CheckpointReader(copy).restore(abstract(state)).step == 100
    assert (copy / "200").exists()
    with Checkpointer(copy, CheckpointConfig()) as checkpoints:
        restored = checkpoints.restore(abstract(state), set_aside=True)
        assert bits(restored.state) == bits(state)
        assert restored.messages == (
            "checkpoint 300: file manifest.json: No such file or directory; going on from checkpoint 100",
            "checkpoint 200: file state/_METADATA: missing; going on from checkpoint 100",
        )
        assert sorted(path.name for path in copy.glob("damaged-*")) == ["damaged-200-1", "damaged-300-1"]
        checkpoints.save(200, make_state(7))
        assert bits(checkpoints.restore(abstract(state)).state) == bits(make_state(7))


def test_when_all_are_damaged_nothing_is_moved_and_the_user_is_told(copy):
    for step in (100, 200):
        (copy / str(step) / manifest.NAME).unlink()
    with (
        Checkpointer(copy, CheckpointConfig()) as checkpoints,
        pytest.raises(UserError, match=r"every checkpoint in .* is damaged: checkpoint 200: .*; checkpoint 100: "),
    ):
        checkpoints.restore(abstract(make_state()), set_aside=True)
    assert (copy / "100").exists() and (copy / "200").exists()


def test_the_best_is_chosen_among_what_can_be_read_and_the_rest_is_told(tmp_path):
    save_steps(tmp_path, 1, 2, 3)
    reader = CheckpointReader(tmp_path)
    assert reader.restore_chosen(abstract(make_state()), "best").messages == ()
    (tmp_path / "3" / "manifest.json").write_text("{}")
    shutil.move(tmp_path / "2", tmp_path / "elsewhere")
    (tmp_path / "2").symlink_to(tmp_path / "elsewhere")
    restored = reader.restore_chosen(abstract(make_state()), "best")
    two, three = restored.messages
    assert restored.step == 1 and "checkpoint 2: " in two and "is a link" in two
    assert "checkpoint 3: " in three and three.endswith("going on from checkpoint 1")
    assert reader.restore_chosen(abstract(make_state()), "1").messages == ()


def test_of_very_many_damaged_checkpoints_the_first_are_told_and_the_others_counted(copy):
    for step in range(300, 400):
        (copy / str(step)).mkdir()
    reader, state = CheckpointReader(copy), abstract(make_state())
    for choose in (reader.restore, functools.partial(reader.restore_chosen, choice="last")):
        messages = choose(state).messages
        assert len(messages) == 11 and "checkpoint 399: " in messages[0]
        assert messages[-1] == "90 more checkpoints: damaged too; going on from checkpoint 200"
    for step in (100, 200):
        (copy / str(step) / manifest.NAME).unlink()
    with pytest.raises(UserError, match=r"checkpoint 390: [^;]*; 92 more checkpoints: damaged too\. Move them away"):
        reader.restore(state)


def test_a_checkpoint_of_another_model_is_refused_and_the_differences_are_named(saved):
    state = make_state()
    other = state._replace(
        params={"encoder": {"kernel": jnp.zeros((6, 5)), "bias.0": jnp.zeros(4)}, "half": jnp.zeros((6, 4))},
        ema={"a": jnp.zeros(2)},
    )
    with pytest.raises(UserError) as caught:
        CheckpointReader(saved).restore(abstract(other))
    message = str(caught.value)
    assert "params/encoder/kernel: saved float32[6,4], expected float32[6,5]" in message
    assert "params/half: saved bfloat16[6,4], expected float32[6,4]" in message
    assert "ema/a: saved nothing, expected float32[2]" in message
    assert "params/empty: saved float32[0,3], expected nothing" in message


def test_another_type_is_refused_unless_asked_for_and_then_it_is_said(saved, copy):
    """float32 back as bfloat16, and bfloat16 as float32: the values are those of a cast, integers stay as they are."""
    state = make_state(200)
    types = {"float32": jnp.bfloat16, "bfloat16": jnp.float32}
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, types.get(x.dtype.name, x.dtype)), state)
    with pytest.raises(UserError, match=r"half: saved bfloat16\[6,4\], .*\(types alone: config.checkpoint.cast=True\)"):
        CheckpointReader(saved).restore(wanted)
    with Checkpointer(copy, CheckpointConfig(cast=True)) as checkpoints:
        restored = checkpoints.restore(wanted, set_aside=True)
    floats = [leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.dtype.name in types]
    counts = {name: floats.count(name) for name in types}
    assert restored.messages == (
        "checkpoint 200: arrays cast, as config.checkpoint.cast asks: "
        f"{counts['float32']} from float32 to bfloat16 and {counts['bfloat16']} from bfloat16 to float32",
    )
    assert bits(restored.state) == bits(jax.tree.map(lambda x, w: x.astype(w.dtype), state, wanted))


def test_cast_neither_makes_integers_of_floats_nor_changes_shapes(saved):
    state = make_state(200)
    for leaf in (jax.ShapeDtypeStruct((6, 4), jnp.int16), jax.ShapeDtypeStruct((4, 6), jnp.float32)):
        wanted = {"params": {"half": leaf}}
        with pytest.raises(UserError, match="params/half: saved bfloat16"):
            CheckpointReader(saved).restore(wanted, partial=True, cast=True)
    same = CheckpointReader(saved).restore(abstract(state), cast=True)
    assert same.messages == () and bits(same.state) == bits(state)


def test_the_last_and_the_best_stay(tmp_path):
    scores = {1: 20.0, 2: 31.0, 3: 31.0, 4: float("nan"), 5: 12.0, 6: 13.0, 7: None}
    with Checkpointer(tmp_path, CheckpointConfig(keep_last=2, keep_best=1, metric="bleu")) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, {"x": jnp.arange(step)}, None if score is None else {"bleu": score})
        checkpoints.wait()
        assert checkpoints.steps() == [3, 6, 7]
        assert checkpoints.best_step() == 3 and checkpoints.latest_step() == 7 and checkpoints.metrics(7) == {}
    assert CheckpointReader(tmp_path, "loss").best_step() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "6", "7", "lock"]


def test_a_step_that_is_there_is_left_as_it_is(copy):
    before = (copy / "200" / manifest.NAME).read_bytes()
    with Checkpointer(copy, CheckpointConfig()) as checkpoints:
        checkpoints.save(200, make_state(1))
    assert (copy / "200" / manifest.NAME).read_bytes() == before


def test_only_leftovers_of_dead_runs_are_removed_at_the_start(tmp_path):
    for name in ("tmp-5-1", "tmp-12-old", "tmp-notes", "damaged-3-1", "mine", "tmp-5-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "tmp-9-1").symlink_to(tmp_path / "mine")
    (tmp_path / "tmp-8-1").write_text("a file")
    with Checkpointer(tmp_path, CheckpointConfig()):
        left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["damaged-3-1", "lock", "mine", "tmp-5-x", "tmp-8-1", "tmp-9-1", "tmp-notes"]
    assert (tmp_path / "mine" / "file").exists()


def test_no_process_goes_on_before_what_is_damaged_was_set_aside(copy, monkeypatch):
    """Else another would choose a checkpoint that process 0 takes away in that moment."""
    done = []
    monkeypatch.setattr(checkpointer.distributed, "barrier", done.append)
    rename = Checkpointer._set_aside
    monkeypatch.setattr(Checkpointer, "_set_aside", lambda self, step: (done.append(step), rename(self, step)))
    next((copy / "200" / "state").rglob("manifest.ocdbt")).write_bytes(b"")
    with Checkpointer(copy, CheckpointConfig()) as checkpoints:
        checkpoints.restore(abstract(make_state(1)), set_aside=True)
        assert done == ["checkpoint-open", "checkpoint-restored", 200, "checkpoint-set-aside"]


def test_a_second_run_in_the_same_directory_is_refused(copy):
    script = "import sys; from s2sjax.checkpoints.checkpointer import *; Checkpointer(sys.argv[1], CheckpointConfig())"
    with Checkpointer(copy, CheckpointConfig()):
        other = subprocess.run([sys.executable, "-c", script, copy], capture_output=True, text=True)
    assert other.returncode != 0 and f"another process is training in {copy}; wait for it" in other.stderr


def test_messages_name_files_as_the_user_knows_them(copy, monkeypatch, caplog):
    """And not by the descriptors that they are opened through."""
    with Checkpointer(copy, CheckpointConfig(keep_last=9)) as checkpoints:
        (copy / "tmp-300-1").symlink_to(copy / "200")
        checkpoints.save(300, make_state())
        (problem,) = checkpoints.poll()
        assert f"{copy}/tmp-300-1 is a link" in problem
        (copy / "tmp-300-1").unlink()
        monkeypatch.setattr("s2sjax.checkpoints.saving.shutil.rmtree", lambda *_, **__: None)
        checkpoints._delete(100)
        assert f"{copy}/tmp-100-old could not be removed" in caplog.text
        monkeypatch.undo()
        checkpoints.save(301, make_state())
    manifest_file = copy / "200" / manifest.NAME
    manifest_file.rename(copy / "moved")
    manifest_file.symlink_to(copy / "moved")
    assert f"{manifest_file} is a link" in CheckpointReader(copy).verify(200)
    (copy / "lock").unlink()
    (copy / "lock").symlink_to(copy / "moved")
    with pytest.raises(UserError, match=f"{copy}/lock is a link"):
        Checkpointer(copy, CheckpointConfig())
    assert "/proc/" not in problem + caplog.text


def descriptors(directory: Path) -> list[str]:
    """What this process has open in a directory."""
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return [to for link in links if os.path.lexists(link) and (to := os.readlink(link)).startswith(str(directory))]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs a list of descriptors")
def test_no_descriptor_stays_whatever_goes_wrong(copy, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr(manifest, "seal", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
        with Checkpointer(copy, CheckpointConfig()) as checkpoints:
            for step in (300, 301, 302):
                checkpoints.save(step, make_state())
    assert descriptors(copy) == []
    with monkeypatch.context() as patch, pytest.raises(KeyError), Checkpointer(copy, CheckpointConfig()):
        patch.setattr(jax, "process_count", lambda: 2)
        raise KeyError
    assert descriptors(copy) == []
    (copy / "lock").unlink()
    (copy / "lock").mkdir()
    with pytest.raises(UserError, match="lock is a folder"):
        Checkpointer(copy, CheckpointConfig())
    assert descriptors(copy) == []


def test_a_state_over_eight_devices_is_restored_onto_one_and_onto_another_mesh(tmp_path):
    devices = np.array(jax.devices())
    everywhere = NamedSharding(Mesh(devices, ("data",)), PartitionSpec("data"))
    array = jnp.arange(16 * 24, dtype=jnp.float32).reshape(16, 24)
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, {"x": jax.device_put(array, everywhere)})
    mesh = Mesh(devices.reshape(-1, min(2, len(devices))), ("fsdp", "tensor"))
    for sharding in (None, everywhere, NamedSharding(mesh, PartitionSpec("tensor", "fsdp"))):
        restored = CheckpointReader(tmp_path).restore(abstract({"x": array}, sharding)).state["x"]
        assert bits(restored) == bits(array)
        assert restored.sharding == sharding if sharding else len(restored.sharding.device_set) == 1


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        monkeypatch.setattr(checkpointer.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        checkpoints.save(2, make_state(2))
        (problem,) = checkpoints.poll()
        assert "checkpoint 2 could not be saved" in problem and "No space left on device (1 MB needed, 0 MB" in problem
        assert "Those of steps 1 are untouched" in problem and checkpoints.poll() == []
        monkeypatch.undo()
        checkpoints.save(3, make_state(3))
    assert CheckpointReader(tmp_path).steps() == [1, 3]


def test_a_write_that_fails_half_way_is_reported_at_close_without_a_traceback(tmp_path):
    """The kernel refuses to let a file grow (RLIMIT_FSIZE), which orbax only meets in the background."""
    script = """
import sys, resource, signal
import jax.numpy as jnp
from s2sjax.checkpoints.checkpointer import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
checkpoints = Checkpointer(sys.argv[1], CheckpointConfig())
checkpoints.save(1, {"x": jnp.ones(9)})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
for step in (2, 3):
    checkpoints.save(step, {f"x{i}": jnp.arange(50_000) for i in range(20)})
checkpoints.wait()
assert len(checkpoints.poll()) == 2
try:
    checkpoints.close()
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0 and run.stderr == ""
    assert run.stdout.startswith(f"checkpoint 3 could not be saved in {tmp_path}: File too large. Those of steps 1 are")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "lock"]
    assert CheckpointReader(tmp_path).verify(1) is None


def test_a_failed_last_save_does_not_hide_the_error_under_way(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "seal", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(KeyError), Checkpointer(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, make_state())
        raise KeyError
    with pytest.raises(UserError, match="No space left"), Checkpointer(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, make_state())
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*: Not a directory; choose another workdir"):
        Checkpointer(tmp_path / "file" / "checkpoints", CheckpointConfig())


def test_a_kill_at_any_moment_of_a_save_leaves_the_newest_whole_checkpoint(tmp_path):
    """Saves of 12 MB without a pause, killed in the middle three times; each run goes on from what it finds."""
    script = """
import sys, jax, jax.numpy as jnp
from s2sjax.checkpoints.checkpointer import *
with Checkpointer(sys.argv[1], CheckpointConfig(keep_last=2)) as checkpoints:
    shapes = {f"x{i}": jax.ShapeDtypeStruct((1000, 300), jnp.float32) for i in range(10)}
    restored = checkpoints.restore(shapes, set_aside=True)
    step = restored.step if restored else 0
    while True:
        step += 1
        checkpoints.save(step, {name: jnp.full(x.shape, step, x.dtype) for name, x in shapes.items()})
        print(step, flush=True)
"""
    shapes = {f"x{i}": jax.ShapeDtypeStruct((1000, 300), jnp.float32) for i in range(10)}
    newest, rng = 0, random.Random(1)
    for _ in range(3):
        run = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(rng.randrange(3, 8)):
            begun = int(run.stdout.readline())
        time.sleep(rng.random() * 0.05)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        restored = CheckpointReader(tmp_path).restore(shapes)
        assert restored.messages == ()
        assert restored.step >= begun - 1 > newest  # a save begins when the one before is committed
        assert all(np.all(np.asarray(x) == restored.step) for x in restored.state.values())
        newest = restored.step


def test_a_config_names_what_is_wrong():
    with pytest.raises(UserError, match=r"config.checkpoint.metric is 'acuracy': did you mean 'accuracy'"):
        CheckpointConfig(metric="acuracy")
    with pytest.raises(UserError, match="checkpoint.keep_last 0 is too small: at least 1"):
        CheckpointConfig(keep_last=0)


def test_a_leaf_that_is_no_array_is_refused(tmp_path):
    with Checkpointer(tmp_path, CheckpointConfig()) as checkpoints:
        with pytest.raises(TypeError, match="state leaf step is a int"):
            checkpoints.save(1, {"step": 1})
        with pytest.raises(TypeError, match="state leaf key"):
            checkpoints.save(1, {"key": jax.random.key(0)})


def test_a_directory_that_another_one_has_taken_the_place_of_is_not_written_to(tmp_path):
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpointer(directory, CheckpointConfig())
    checkpoints.save(1, make_state())
    checkpoints.wait()
    directory.rename(tmp_path / "moved")
    directory.mkdir()
    checkpoints.save(2, make_state())
    with pytest.raises(UserError, match="is not the directory that this run began with"):
        checkpoints.close()
    assert not any(directory.iterdir())
    assert {path.name for path in (tmp_path / "moved").iterdir()} == {"1", "lock"}
