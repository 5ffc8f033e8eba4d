"""Sliding-window self-attention with global tokens, in time and memory linear in the length.

Every position sees those of its segment that are at most `window` away, on either side. The first few positions of each
segment are global: they see all of their segment, and all of it sees them (Longformer, Beltagy et al. 2020,
arXiv:2004.05150, section 3.1, with one set of projections; ETC, Ainslie et al. 2020, arXiv:2004.08483).

Rows are cut into blocks that are as long as the window. The queries of a block meet the keys of three blocks, its own
and its two neighbours, which hold all that is near them (LongT5, Guo et al. 2022, arXiv:2112.07916, section 3.1.1).
What a block needs besides are the global tokens of one segment, the one that holds its first position: segments are
contiguous, so any other segment in the block begins near it. They are met in both directions. The block's queries see
their keys, and their queries see the block's keys; what a global query finds in several blocks is added up under one
softmax. So this is attention under a mask, of which only scores outside of the mask are left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from s2sjax.ops.attention import MASKED, masked_softmax


class Band(NamedTuple):
    """What positions see, block by block: `n` blocks of `b` are a row of T, padded, and `E` keys are near a block."""

    near: Bool[Array, "B n b E"]
    """Which keys of its own block and the two beside it (E = 3b), or of the row if that is one block (E = b)."""
    far: Bool[Array, "B n b g"] | None = None
    """Which global tokens beyond those. The same tokens see the same positions. None: there are none."""
    places: Int[Array, "B n g"] | None = None
    """Where in its row each of these global tokens stands."""

    def near_distances(self) -> Int[Array, "1 1 b E"]:
        """Key position minus query position."""
        b, E = self.near.shape[2:]
        return (jnp.arange(E) - (E - b) // 2 - jnp.arange(b)[:, None])[None, None]

    def far_distances(self) -> Int[Array, "B n b g"]:
        """Position of the global token minus that of the other one."""
        assert self.places is not None
        n, b = self.near.shape[1:3]
        return self.places[:, :, None] - jnp.arange(n * b).reshape(n, b, 1)


class BandBias(NamedTuple):
    """What is added to scaled scores, float32."""

    near: Float[Array, "1 1 H b E"] | None = None
    far: Float[Array, "B n H b g"] | None = None
    """To those of a block's queries and far global keys."""
    back: Float[Array, "B n H g b"] | None = None
    """To those of far global queries and a block's keys."""


def make_band(segments: Int[Array, "B T"], positions: Int[Array, "B T"], window: int, global_tokens: int = 0) -> Band:
    """The band of rows of contiguous segments.

    Args:
        segments: 0 is padding.
        positions: in the segment, from 0.
        window: how many positions are seen on each side, at least 1. Up to three windows are one block.
        global_tokens: how many positions at the beginning of each segment are global, at most `window`.
    """
    assert 0 <= global_tokens <= window
    positions = jnp.where(segments > 0, positions, 0)
    T = segments.shape[1]
    b = T if 3 * window >= T else window
    of_query, query = _blocks(segments, b), _blocks(positions, b)
    of_key, key = _with_neighbours(of_query), _with_neighbours(query)
    near = (of_query[..., None] == of_key[:, :, None]) & (of_key > 0)[:, :, None]
    close = jnp.abs(Band(near).near_distances()) <= window
    is_global = (query < global_tokens)[..., None] | (key < global_tokens)[:, :, None]
    near &= close | is_global
    n = near.shape[1]
    if not global_tokens or n == 1:
        return Band(near)
    begins = jnp.arange(n) * b
    places = (begins - query[:, :, 0])[..., None] + jnp.arange(global_tokens)
    beyond = (places < begins[:, None] - b) & (of_query[:, :, :1] > 0)
    far = (of_query == of_query[:, :, :1])[..., None] & beyond[:, :, None]
    return Band(near, far, places)


def local_attention(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B T G C"],
    value: Float[Array, "B T G C"],
    band: Band,
    *,
    bias: BandBias = BandBias(),  # noqa: B008 (immutable)
    scale: float | None = None,
) -> Float[Array, "B T H C"]:
    """`ops.attention.dot_product_attention` under the mask that `band` stands for, with as many heads of keys or fewer.

    Products are in the operands' type, the softmax in float32.
    """
    (B, T, H, C), (n, b) = query.shape, band.near.shape[1:3]
    scale = C**-0.5 if scale is None else scale
    queries, keys, values = (_blocks(x, b) for x in (query, key, value))
    near, near_values = _scores(queries, _with_neighbours(keys), scale, bias.near), _with_neighbours(values)
    if band.far is None or band.places is None:
        contexts = _contexts(masked_softmax(near, band.near[:, :, None]), near_values)
    else:
        far_queries, far_keys, far_values = (_take(x, band.places) for x in (queries, keys, values))
        far, back = _scores(queries, far_keys, scale, bias.far), _scores(far_queries, keys, scale, bias.back)
        near, far, back = _joint_softmax(near, far, back, band)
        contexts = _contexts(near, near_values) + _contexts(far, far_values)
        contexts = _put("add", contexts, band.places, _contexts(back, values))
    return contexts.reshape(B, n * b, H, C)[:, :T].astype(value.dtype)


def _joint_softmax(near: Array, far: Array, back: Array, band: Band) -> tuple[Array, Array, Array]:
    """Weights from the scores of near keys, of far global keys, and of far global queries on the keys of a block.

    The last are of queries that have scores of the first two kinds in another block, and in others more of their own:
    the greatest of all and the sum are found together.
    """
    assert band.far is not None and band.places is not None
    masks = [mask[:, :, None] for mask in (band.near, band.far, band.far.swapaxes(2, 3))]
    near, far, back = (jnp.where(mask, x, MASKED) for mask, x in zip(masks, (near, far, back), strict=True))
    most = lax.stop_gradient(jnp.maximum(jnp.max(near, axis=-1), jnp.max(far, axis=-1)))
    most, most_of_far = _gathered("max", most, lax.stop_gradient(jnp.max(back, axis=-1)), band.places)
    near, far, back = (
        jnp.where(mask, jnp.exp(x - most[..., None]), 0.0)
        for mask, x, most in zip(masks, (near, far, back), (most, most, most_of_far), strict=True)
    )
    total = jnp.sum(near, axis=-1) + jnp.sum(far, axis=-1)
    total, total_of_far = _gathered("add", total, jnp.sum(back, axis=-1), band.places)
    total, total_of_far = (jnp.maximum(x, 1e-30)[..., None] for x in (total, total_of_far))
    return near / total, far / total, back / total_of_far


def _gathered(how: str, own: Array, others: Array, places: Array) -> tuple[Array, Array]:
    """Of each query, from what it has in its block [B, n, H, b] and far global queries have in others [B, n, H, g]: the
    maximum or the sum, where it stands and where it is far."""
    found = _put(how, own.swapaxes(2, 3), places, others.swapaxes(2, 3))
    return found.swapaxes(2, 3), _take(found, places).swapaxes(2, 3)


def _blocks(x: Array, size: int) -> Array:
    """[B, T, ...] to [B, n, size, ...], the last block filled up with zeros."""
    n = -(-x.shape[1] // size)
    x = jnp.pad(x, ((0, 0), (0, n * size - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
    return x.reshape(len(x), n, size, *x.shape[2:])


def _with_neighbours(x: Array) -> Array:
    """[B, n, b, ...] to [B, n, 3b, ...]: each block between the one before and the one after it; one block alone."""
    if x.shape[1] == 1:
        return x
    x = jnp.pad(x, ((0, 0), (1, 1), *((0, 0),) * (x.ndim - 2)))
    return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)


def _take(x: Array, places: Array) -> Array:
    """From [B, n, b, ...] what stands at `places` [B, n, g] of each row: [B, n, g, ...]."""
    rows = x.reshape(len(x), -1, *x.shape[3:])
    return jax.vmap(lambda row, places: row[places])(rows, places)


def _put(how: str, x: Array, places: Array, more: Array) -> Array:
    """`x` [B, n, b, ...] with what more [B, n, g, ...] has for `places` [B, n, g] of each row: "max" or "add"."""
    rows = x.reshape(len(x), -1, *x.shape[3:])
    return jax.vmap(lambda row, places, more: getattr(row.at[places], how)(more))(rows, places, more).reshape(x.shape)


def _scores(query: Array, key: Array, scale: float, bias: Array | None) -> Array:
    """[B, n, q, H, C] and [B, n, k, G, C] to float32 [B, n, H, q, k]."""
    (B, n, q, H, C), (k, G) = query.shape, key.shape[2:4]
    grouped = query.reshape(B, n, q, G, H // G, C)
    scores = jnp.einsum("bnqgrc,bnkgc->bngrqk", grouped, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, n, H, q, k) * scale
    return scores if bias is None else scores + bias


def _contexts(weights: Array, value: Array) -> Array:
    """[B, n, H, q, k] and [B, n, k, G, C] to float32 [B, n, q, H, C]."""
    (B, n, H, q, k), (G, C) = weights.shape, value.shape[3:]
    grouped = weights.astype(value.dtype).reshape(B, n, G, H // G, q, k)
    contexts = jnp.einsum("bngrqk,bnkgc->bnqgrc", grouped, value, preferred_element_type=jnp.float32)
    return contexts.reshape(B, n, q, H, C)
