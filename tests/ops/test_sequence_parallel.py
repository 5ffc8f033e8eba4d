"""Attention over positions that devices share, against the same on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from s2sjax import sharding
from s2sjax.ops.attention import dot_product_attention, segment_mask, window_mask
from s2sjax.ops.sequence_parallel import split_attention

B, T, H, C = 4, 16, 4, 8
RNG = np.random.default_rng(0)
SEGMENTS = jnp.array(np.repeat([[1, 1, 1, 2, 2, 2, 2, 0], [1, 2, 2, 2, 2, 2, 3, 3]] * 2, T // 8, axis=1))


def normal(*shape):
    return jnp.array(RNG.normal(size=shape), jnp.float32)


def case(name):
    """Query, key, value, mask, bias."""
    query, columns = normal(B, T, H, C), jnp.arange(T)[None]
    causal = segment_mask(SEGMENTS, SEGMENTS, causal=True)
    if name == "causal, a bias for all rows":
        return query, normal(B, T, H, C), normal(B, T, H, C), causal, normal(1, H, T, T)
    if name == "a window, two queries a key":
        return query, normal(B, T, 2, C), normal(B, T, 2, C), causal & window_mask(columns, columns, 5), None
    source = SEGMENTS[:, ::2]  # to a source of another length, with a single head of keys and a bias for each row
    return query, normal(B, 8, 1, C), normal(B, 8, 1, C), segment_mask(SEGMENTS, source), normal(B, H, T, 8)


@pytest.mark.parametrize("name", ["causal, a bias for all rows", "a window, two queries a key", "cross-attention"])
def test_split_attention_and_its_gradients_equal_those_of_one_device(name):
    operands = case(name)

    def sums(attention):
        def loss(query, key, value, mask, bias):
            y = attention(query, key, value, mask, bias=bias, scale=0.3)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(loss, argnums=(0, 1, 2, 4) if operands[4] is not None else (0, 1, 2), has_aux=True)

    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, sequence=2, tensor=2))

    @jax.jit
    def split(*operands):
        with sharding.with_mesh(mesh):
            return sums(split_attention)(*operands)

    rows = NamedSharding(mesh, PartitionSpec("data", "sequence"))
    placed = [*jax.device_put(operands[:4], rows), operands[4]]
    (_, y), gradients = split(*placed)
    (_, expected), others = jax.jit(sums(dot_product_attention))(*operands)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    for got, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(got, other, atol=5e-6)
    assert y.sharding.spec[1] == "sequence", "answers stay where their queries are"
    assert "all_gather" in str(split.trace(*placed).jaxpr), "keys and values go to the queries, whatever XLA would do"


def test_where_no_mesh_is_known_nothing_is_split():
    query, key, value, mask, _ = case("a window, two queries a key")
    assert "shard_map" not in str(jax.make_jaxpr(split_attention)(query, key, value, mask))
