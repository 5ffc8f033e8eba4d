import itertools
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from s2sjax import models, optim
from s2sjax.errors import UserError
from s2sjax.ops.linear import Precision
from s2sjax.sharding import (
    MeshConfig,
    batch_sharding,
    batch_shards,
    make_mesh,
    path_name,
    prefetch,
    shard_like_parameters,
    shard_parameters,
    to_devices,
)  # fmt: skip
from s2sjax.state import abstract_state, initializer


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_a_mesh_takes_the_devices_that_the_other_axes_leave():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshConfig(tensor=4)).shape) == {"data": 2, "fsdp": 1, "tensor": 4}
    assert make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


def test_batches_are_shared_by_data_and_fsdp(mesh):
    assert batch_shards(mesh) == 4
    batch = to_devices({"inputs": np.arange(8).reshape(4, 2)}, batch_sharding(mesh))
    assert {shard.data.shape for shard in batch["inputs"].addressable_shards} == {(1, 2)}


@pytest.mark.parametrize(
    "config", [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(data=0), MeshConfig(fsdp=0), MeshConfig(tensor=-1)],
    ids=str,
)  # fmt: skip
def test_axes_that_do_not_make_the_number_of_devices_are_a_users_error(config):
    with pytest.raises(UserError, match=r"config.mesh data=.* does not fit 8 devices"):
        make_mesh(config)


PARAMS = {"layer": {"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}, "odd": {"kernel": np.zeros((3, 5))}}
RULES = ((r"kernel$", ("fsdp", "tensor")), (r"bias$", (None,)))


def test_the_first_rule_that_matches_decides_and_axes_that_do_not_divide_are_left_out(mesh):
    made = shard_parameters(mesh, PARAMS, ((r"^layer/kernel$", (None, "tensor")), *RULES))
    assert made["layer"]["kernel"].spec == PartitionSpec(None, "tensor")
    assert made["odd"]["kernel"].spec == PartitionSpec(None, None)
    assert shard_parameters(mesh, PARAMS, RULES)["layer"]["kernel"].spec == PartitionSpec("fsdp", "tensor")


def test_a_parameter_without_a_rule_is_a_mistake(mesh):
    with pytest.raises(ValueError, match=r"no sharding rule for parameter layer/bias \(6,\)"):
        shard_parameters(mesh, PARAMS, RULES[:1])


def test_a_rule_that_matches_nothing_is_a_mistake(mesh):
    with pytest.raises(ValueError, match=r"sharding rules that match no parameter: \['tabel\$'\]"):
        shard_parameters(mesh, PARAMS, (*RULES, (r"tabel$", (None, None))))


def test_a_rule_for_another_number_of_axes_is_a_mistake(mesh):
    with pytest.raises(ValueError):
        shard_parameters(mesh, PARAMS, ((r"kernel$", ("fsdp",)), RULES[1]))


@pytest.mark.parametrize("family", models.families())
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_the_optimizers_moments_are_sharded_like_their_parameters(mesh, family, optimizer):
    module = models.family(family)
    model = module.build(module.Config(), 64, 64, precision=Precision.FLOAT32)
    init = initializer(model, optim.make_optimizer(optim.OptimizerConfig(name=optimizer), 10), ema=True)
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
    shardings = shard_parameters(mesh, PARAMS, RULES)
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
