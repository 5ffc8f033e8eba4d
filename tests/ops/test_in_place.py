"""What labels read of what is encoded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from s2sjax.ops.in_place import read_in_place
from s2sjax.sharding import MeshConfig, batch_sharding, make_mesh

D = 3
READ = jax.jit(read_in_place)


def side(rows, name):
    """Arrays of rows of segments' lengths, the first at the left, filled up with one padding column at least."""
    width = max(sum(lengths) for lengths in rows) + 1
    segments, positions = (np.zeros((len(rows), width), np.int32) for _ in range(2))
    for row, lengths in enumerate(rows):
        filled = sum(lengths)
        segments[row, :filled] = np.repeat(np.arange(len(lengths)) + 1, lengths)
        positions[row, :filled] = np.concatenate([np.arange(length) for length in lengths] or [[]])
    return {f"{name}_segments": segments, f"{name}_positions": positions}


def batch_of(inputs, targets):
    return side(inputs, "input") | side(targets, "target")


def encoded_of(batch):
    return jax.random.normal(jax.random.key(0), (*batch["input_segments"].shape, D))


def by_the_rule(encoded, batch):
    """The rule, word for word."""
    B, T = batch["target_segments"].shape
    read = np.zeros((B, T, D), np.float32)
    for b, t, s in np.ndindex(B, T, encoded.shape[1]):
        same = batch["input_segments"][b, s] == batch["target_segments"][b, t] > 0
        if same and batch["input_positions"][b, s] == batch["target_positions"][b, t]:
            read[b, t] = encoded[b, s]
    return read


def test_the_example_of_the_module():
    batch = batch_of([(3, 2)], [(1, 3)])
    encoded = jnp.arange(1.0, 7.0)[None, :, None]
    np.testing.assert_array_equal(READ(encoded, batch)[0, :, 0], [1, 4, 5, 0, 0])


CASES = [
    ([(4, 2), (6,)], [(4, 2), (6,)]),  # tags
    ([(4, 2, 1), (6,)], [(1, 1, 1), (1,)]),  # labels
    ([(2, 0, 3), ()], [(2, 2, 4), (3,)]),  # inputs that are empty, or shorter than their targets
    ([(2, 5)], [(0, 3)]),  # a target that is empty
]


@pytest.mark.parametrize("inputs, targets", CASES)
def test_each_target_reads_the_same_position_of_its_own_input_or_nothing(inputs, targets):
    batch = batch_of(inputs, targets)
    encoded = encoded_of(batch)
    np.testing.assert_array_equal(READ(encoded, batch), by_the_rule(encoded, batch))


def test_so_it_is_with_lengths_at_random_and_padding_that_is_numbered():
    rng = np.random.default_rng(0)
    for _ in range(10):
        inputs, targets = ([tuple(rng.integers(0, 5, 4)) for _ in range(3)] for _ in range(2))
        inputs[0], targets[0] = (4, 4, 4, 4), (4, 4, 4, 4)  # one shape for all: compiled once
        batch = batch_of(inputs, targets)
        for name in ("input", "target"):
            padding = batch[f"{name}_segments"] == 0
            batch[f"{name}_positions"][padding] = rng.integers(0, 10**6, padding.sum())
        encoded = encoded_of(batch)
        np.testing.assert_array_equal(READ(encoded, batch), by_the_rule(encoded, batch))


def test_its_gradient_goes_back_to_what_was_read_alone():
    batch = batch_of([(4, 2), (3,)], [(1, 3), (5,)])
    encoded = encoded_of(batch)
    weights = np.random.default_rng(1).standard_normal((*batch["target_segments"].shape, D)).astype(np.float32)
    found = jax.grad(lambda x: jnp.sum(weights * READ(x, batch)))(encoded)
    expected = np.zeros(encoded.shape)
    expected[0, 0], expected[0, 4:6], expected[1, :3] = weights[0, 0], weights[0, 1:3], weights[1, :3]
    np.testing.assert_array_equal(found, expected)


def test_rows_on_several_devices_need_nothing_of_each_other():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    rows = batch_sharding(mesh)
    batch = batch_of([(4, 2)] * 8, [(1, 2)] * 8)
    encoded = encoded_of(batch)

    wide = NamedSharding(mesh, PartitionSpec(*rows.spec, None))
    given = jax.device_put(encoded, wide), jax.device_put(batch, rows)
    read = jax.jit(read_in_place, out_shardings=wide).lower(*given).compile()
    back = jax.jit(lambda x, b: jax.grad(lambda x: jnp.sum(read_in_place(x, b) ** 2))(x), out_shardings=wide)
    for program in (read, back.lower(*given).compile()):
        text = program.as_text()
        assert "all-" not in text and "collective" not in text and "reduce-scatter" not in text
    np.testing.assert_array_equal(read(*given), by_the_rule(encoded, batch))
