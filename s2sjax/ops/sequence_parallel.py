"""Attention over rows whose positions are split over devices, along the mesh axis `sequence`.

Each device keeps its queries and gathers keys and values, of every row it has, from the others; gradients go back the
same way, each device receiving the sum of its own. Nothing else crosses the axis: activations, scores and the layers
around attention stay split. Which mesh there is, a function learns where it is traced, from JAX's own context
(`jax.sharding.use_abstract_mesh`), and outside of one nothing is split: so no layer hands a mesh down to the next, and
what evaluates or decodes with the same model needs none.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float

from s2sjax.api import ROW_AXES
from s2sjax.ops.attention import attention_weights, dot_product_attention

AXIS = "sequence"


def axis_size(name: str) -> int:
    """Devices along an axis of the mesh that this is traced for; 1 if there is none."""
    return jax.sharding.get_abstract_mesh().shape.get(name, 1)


def split_attention(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S G C"],
    value: Float[Array, "B S G C"],
    mask: Bool[Array, "B T S"],
    *,
    bias: Float[Array, "b H T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T H C"]:
    """`dot_product_attention`, on a mesh with an axis `sequence` each device for its part of T.

    Every device multiplies its T / n queries with all S keys, whatever the mask: under a causal one as many products
    for the first positions as for the last, and as many in all as without the axis. T and S are multiples of n.
    """
    if axis_size(AXIS) == 1:
        return dot_product_attention(query, key, value, mask, bias=bias, scale=scale)
    rows, specs, operands = _parts(query, key, mask, bias)

    def local(query, key, value, mask, bias=None):
        key, value = (lax.all_gather(x, AXIS, axis=1, tiled=True) for x in (key, value))
        return dot_product_attention(query, key, value, mask, bias=bias, scale=scale)

    (query, key, *others), specs = operands, (*specs[:2], rows, *specs[2:])
    return jax.shard_map(local, in_specs=specs, out_specs=rows)(query, key, value, *others)


def split_weights(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S G C"],
    mask: Bool[Array, "B T S"],
    *,
    bias: Float[Array, "b H T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T S"]:
    """The weights of `split_attention`, averaged over heads, float32: T is split as there, S is whole."""
    if axis_size(AXIS) == 1:
        return jnp.mean(attention_weights(query, key, mask, bias=bias, scale=scale), axis=1)
    rows, specs, operands = _parts(query, key, mask, bias)

    def local(query, key, mask, bias=None):
        key = lax.all_gather(key, AXIS, axis=1, tiled=True)
        mean = jnp.mean(attention_weights(query, key, mask, bias=bias, scale=scale), axis=1)
        return mean if rows[2] is None else lax.pmean(mean, rows[2])

    return jax.shard_map(local, in_specs=specs, out_specs=PartitionSpec(ROW_AXES, AXIS, None))(*operands)


def _parts(query: Array, key: Array, mask: Array, bias: Array | None):
    """How queries and keys are split; queries, keys, mask and, if there is one, bias: how each is split, and they."""
    heads = "tensor" if key.shape[2] % axis_size("tensor") == 0 else None  # few heads of keys are not split
    rows = PartitionSpec(ROW_AXES, AXIS, heads, None)
    specs, operands = (rows, rows, PartitionSpec(ROW_AXES, AXIS, None)), (query, key, mask)
    if bias is None:
        return rows, specs, operands
    of_bias = PartitionSpec(ROW_AXES if bias.shape[0] > 1 else None, heads, AXIS, None)
    return rows, (*specs, of_bias), (*operands, bias)
