import functools
import itertools
import math
import threading
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from s2sjax import models
from s2sjax.errors import UserError
from s2sjax.learning import optim
from s2sjax.learning.state import abstract_state, initializer
from s2sjax.ops.linear import Precision
from s2sjax.ports import Ports, Tokens
from s2sjax.sharding import (
    MeshConfig,
    arrange,
    batch_sharding,
    batch_shards,
    gather,
    make_mesh,
    path_name,
    prefetch,
    shard_like_parameters,
    shard_parameters,
    to_devices,
)  # fmt: skip


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_a_mesh_takes_the_devices_that_the_other_axes_leave():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "expert": 1, "sequence": 1, "tensor": 1}
    mesh = make_mesh(MeshConfig(tensor=2, sequence=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "expert": 1, "sequence": 2, "tensor": 2}
    assert make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


def test_batches_are_shared_by_data_and_fsdp(mesh):
    assert batch_shards(mesh) == 4
    batch = to_devices({"inputs": np.arange(8).reshape(4, 2)}, batch_sharding(mesh))
    assert {shard.data.shape for shard in batch["inputs"].addressable_shards} == {(1, 2)}


def test_a_sequence_axis_shares_positions_where_time_is_split_and_rows_where_it_is_not():
    mesh = make_mesh(MeshConfig(data=2, expert=2, sequence=2))
    batch = {"inputs": np.arange(32).reshape(8, 4)}
    for split_time, shards, shape in ((True, 4, (2, 2)), (False, 8, (1, 4))):
        assert batch_shards(mesh, split_time=split_time) == shards
        placed = to_devices(batch, batch_sharding(mesh, split_time=split_time))["inputs"]
        assert {shard.data.shape for shard in placed.addressable_shards} == {shape}
        np.testing.assert_array_equal(placed, batch["inputs"])


# ---- Slices ----


@dataclass(frozen=True)
class Chip:
    """What is asked of a device that says in which slice it stands, or of which process it is."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "tpu of a test"
    device_kind: str = ""


@pytest.mark.parametrize("named", [True, False])
def test_only_data_goes_from_one_slice_to_another(named):
    """By the number of their slice if devices have one, in whatever order they come; by process if not."""
    chips = [Chip(i, i // 4, i // 8 if named else 0) for i in (*range(0, 16, 2), *range(1, 16, 2))]
    arranged = arrange(2, {"data": 4, "fsdp": 2, "expert": 1, "sequence": 1, "tensor": 2}, chips)
    assert arranged.shape == (4, 2, 1, 1, 2) and len({chip.id for chip in arranged.flat}) == 16
    for half in (arranged[:2], arranged[2:]):
        assert len({chip.id // 8 for chip in half.flat}) == 1


@pytest.mark.parametrize(
    "config, message",
    [
        (MeshConfig(slices=3), "config.mesh.slices is 3, but config.mesh.data, 8, is not a multiple of it"),
        (MeshConfig(fsdp=8, slices=2), "config.mesh.slices is 2, but config.mesh.data, 1, is not a multiple"),
        (MeshConfig(slices=0), "config.mesh.slices is 0"),
    ],
    ids=str,
)
def test_slices_that_data_does_not_divide_into_are_a_users_error(config, message):
    with pytest.raises(UserError, match=message):
        make_mesh(config)


def test_slices_that_are_not_those_of_the_devices_are_a_users_error():
    chips = [Chip(i, 0, i // 2) for i in range(8)]
    with pytest.raises(UserError, match="the devices stand in 4 slices; set config.mesh.slices=4"):
        arrange(2, {"data": 8, "fsdp": 1, "expert": 1, "sequence": 1, "tensor": 1}, chips)


# ---- Parameters ----


@pytest.mark.parametrize(
    "config", [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(data=0), MeshConfig(fsdp=0), MeshConfig(tensor=-1)],
    ids=str,
)  # fmt: skip
def test_axes_that_do_not_make_the_number_of_devices_are_a_users_error(config):
    with pytest.raises(UserError, match=r"config.mesh data=.* does not fit 8 devices"):
        make_mesh(config)


PARAMS = {"layer": {"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}, "odd": {"kernel": np.zeros((3, 5))}}
RULES = ((r"kernel$", (None, "tensor")), (r"bias$", (None,)))


@pytest.mark.parametrize(
    "name, shape, axes, used, stored",
    [
        ("kernel", (4, 6), (None, "tensor"), (None, "tensor"), ("fsdp", "tensor")),
        ("what a rule leaves alone, though shorter", (4, 60), (None, "tensor"), (None, "tensor"), ("fsdp", "tensor")),
        ("the longest", (2, 8, 4), (None, None, None), (None, None, None), (None, "fsdp", None)),
        ("no other is divisible", (3, 8), (None, "tensor"), (None, "tensor"), (None, ("tensor", "fsdp"))),
        ("nor that", (3, 6), (None, "tensor"), (None, "tensor"), (None, "tensor")),
        ("tensor does not divide", (4, 5), (None, "tensor"), (None, None), ("fsdp", None)),
        ("nothing divides", (3, 5), (None, "tensor"), (None, None), (None, None)),
        ("layers", (2, 3, 8), ("tensor", None), (None, None, None), (None, None, "fsdp")),
    ],
)
def test_what_fsdp_splits_beside_the_rule(mesh, name, shape, axes, used, stored):
    params = {"layers" if name == "layers" else "x": np.zeros(shape)}
    for choice, expected in ((False, used), (True, stored)):
        (made,) = jax.tree.leaves(shard_parameters(mesh, params, ((".", axes),), stored=choice))
        assert made.spec == PartitionSpec(*expected)


def test_the_first_rule_that_matches_decides(mesh):
    first = (r"^layer/kernel$", ("tensor", None))
    made = shard_parameters(mesh, PARAMS, (first, *RULES), stored=False)
    assert made["layer"]["kernel"].spec == PartitionSpec("tensor", None)


def test_a_parameter_without_a_rule_is_a_mistake(mesh):
    with pytest.raises(ValueError, match=r"no sharding rule for parameter layer/bias \(6,\)"):
        shard_parameters(mesh, PARAMS, RULES[:1], stored=True)


def test_a_rule_that_matches_nothing_is_a_mistake(mesh):
    with pytest.raises(ValueError, match=r"sharding rules that match no parameter: \['tabel\$'\]"):
        shard_parameters(mesh, PARAMS, (*RULES, (r"tabel$", (None, None))), stored=True)


def test_a_rule_for_another_number_of_axes_is_a_mistake(mesh):
    with pytest.raises(
        ValueError, match=r"sharding rule kernel\$ says \('tensor',\) of parameter layer/kernel \(4, 6\)"
    ):
        shard_parameters(mesh, PARAMS, ((r"kernel$", ("tensor",)), RULES[1]), stored=True)


def test_a_rule_for_fsdp_is_a_mistake(mesh):
    with pytest.raises(ValueError, match="kernel.* says .*, but fsdp is no matter of rules"):
        shard_parameters(mesh, PARAMS, ((r"kernel$", ("fsdp", None)), RULES[1]), stored=False)


def test_what_is_split_over_fsdp_is_gathered_for_use_and_its_gradient_parted_again(mesh):
    places, params = shard_parameters(mesh, PARAMS, RULES, stored=True), jax.tree.map(lambda x: x + 1.0, PARAMS)
    assert places["layer"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    stored = jax.device_put(params, places)
    assert gather(mesh, stored, RULES)["layer"]["kernel"].sharding.spec == PartitionSpec(None, "tensor")

    @functools.partial(jax.jit, out_shardings=places)
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(gather(mesh, p, RULES)["layer"]["kernel"] ** 2))(params)

    np.testing.assert_array_equal(gradient(stored)["layer"]["kernel"], 2 * params["layer"]["kernel"])
    assert gather(make_mesh(MeshConfig()), params, RULES) is params, "nothing to gather"
    whole = gather(mesh, stored, RULES)
    again = gather(mesh, whole, RULES)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (again, whole)), strict=True)), "nothing left to gather"


def test_fsdp_leaves_each_device_its_share_of_experts_too():
    """On 8 devices at most 5 % more than an eighth; `tests/inspection/test_subject.py` says so of all families."""
    module, mesh = models.family("causal_lm"), make_mesh(MeshConfig(data=1, fsdp=8))
    config = module.Config(experts=4)
    ports = Ports(Tokens(8000), Tokens(8000))
    model = module.build(config, *ports, precision=Precision.FLOAT32)
    init = initializer(model, ports, optim.make_optimizer(optim.OptimizerConfig(), 10), ema=False)
    state = abstract_state(init, mesh, module.sharding_rules(config))
    leaves = jax.tree.leaves((state.params, state.opt_state))
    held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
    assert held <= 1.05 * sum(leaf.size for leaf in leaves) / 8


@pytest.mark.parametrize("family", models.families())
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_the_optimizers_moments_are_sharded_like_their_parameters(mesh, family, optimizer):
    module = models.family(family)
    ports = Ports(Tokens(64), Tokens(64))
    model = module.build(module.Config(), *ports, precision=Precision.FLOAT32)
    init = initializer(model, ports, optim.make_optimizer(optim.OptimizerConfig(name=optimizer), 10), ema=True)
    state = abstract_state(init, mesh, module.sharding_rules(module.Config()))
    params = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(state.params)}
    assert any(not leaf.sharding.is_fully_replicated for leaf in params.values()), "the mesh must matter"
    assert jax.tree.map(lambda leaf: leaf.sharding, state.ema) == jax.tree.map(lambda x: x.sharding, state.params)
    moments = 0
    for path, leaf in jax.tree.leaves_with_path(state.opt_state):
        name = path_name(path)
        owner = next((p for p in params if name.endswith(f"/{p}") and params[p].shape == leaf.shape), None)
        if owner is None:
            assert leaf.sharding.is_fully_replicated, name
        else:
            assert leaf.sharding == params[owner].sharding, name
            moments += 1
    assert moments >= (2 * len(params) if optimizer == "adamw" else len(params) // 3)


def test_a_leaf_that_only_ends_like_a_parameter_is_replicated(mesh):
    shardings = shard_parameters(mesh, PARAMS, RULES, stored=True)
    tree = {"mu": PARAMS, "sums": {"layer": {"kernel": np.zeros(4), "bias": np.zeros(())}}}
    made = shard_like_parameters(mesh, tree, PARAMS, shardings)
    assert made["mu"] == shardings
    assert all(s.is_fully_replicated for s in jax.tree.leaves(made["sums"]))


def living() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetching_keeps_the_order_and_ends():
    assert list(prefetch(range(50), lambda i: i * i)) == [i * i for i in range(50)]
    assert not living()


def test_prefetching_runs_ahead_by_its_depth_only():
    taken = []
    feed = prefetch(itertools.count(), lambda i: taken.append(i) or i, depth=2)
    assert next(feed) == 0
    time.sleep(0.4)
    # two wait in the queue, and the thread holds one more
    assert taken == [0, 1, 2, 3]
    feed.close()


@pytest.mark.parametrize("where", ["items", "transfer"])
def test_an_exception_in_the_thread_comes_in_its_turn(where):
    def items():
        yield from (1, 2)
        if where == "items":
            raise UserError("no third")
        yield 3

    def transfer(i):
        if i == 3:
            raise UserError("no third")
        return i

    feed = prefetch(items(), transfer)
    assert [next(feed), next(feed)] == [1, 2]
    with pytest.raises(UserError, match="no third"):
        next(feed)
    assert not living()


def test_closing_ends_the_thread_though_there_would_be_more():
    feed = prefetch(itertools.count(), lambda i: i)
    assert next(feed) == 0
    assert living()
    feed.close()
    assert not living()


def test_path_names_are_slashed_whatever_the_containers():
    tree = {"a": [np.zeros(1), {"b": np.zeros(1)}]}
    assert [path_name(path) for path, _ in jax.tree.leaves_with_path(tree)] == ["a/0", "a/1/b"]
