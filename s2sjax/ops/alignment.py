"""Attention of recurrent decoders: scores of projected queries and keys, and weights near a predicted position."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from s2sjax.ops.attention import masked_softmax


def additive_scores(
    query: Float[Array, "B K A"],
    keys: Float[Array, "B S A"],
    v: Float[Array, "A"],
    covered: tuple[Float[Array, "B K S"], Float[Array, "A"]] | None = None,
) -> Float[Array, "B K S"]:
    """`v . tanh(query + keys)` for projected queries and keys (Bahdanau et al. 2015, arXiv:1409.0473, A.1.2).

    Args:
        covered: the attention that each position got so far, and the vector that it is multiplied with before it is
            added within the tanh (See et al. 2017, arXiv:1704.04368, equation 11).
    """
    hidden = query[:, :, None] + keys[:, None]
    if covered is not None:
        coverage, vector = (x.astype(query.dtype) for x in covered)
        hidden += coverage[..., None] * vector
    return jnp.einsum("bksa,a->bks", jnp.tanh(hidden), v.astype(query.dtype))


def multiplicative_scores(query: Float[Array, "B K A"], keys: Float[Array, "B S A"]) -> Float[Array, "B K S"]:
    """`query . keys`: "dot" of Luong et al. 2015 (arXiv:1508.04025, equation 8), "general" if the keys are `W h`."""
    return jnp.einsum("bka,bsa->bks", query, keys)


def local_weights(
    scores: Float[Array, "B K S"],
    mask: Bool[Array, "B K S"],
    positions: Int[Array, "B S"],
    place: Float[Array, "B K"],
    window: int,
) -> Float[Array, "B K S"]:
    """Attention around a predicted position, "local-p" (Luong et al. 2015, equations 9 and 10), float32.

    The centre is `sigmoid(place)` of the way through the sentence, whose length is what `mask` allows and whose
    positions are counted from 0. A softmax over the `window` positions on each side of it is multiplied with a Gaussian
    of standard deviation `window / 2`; as in the paper, the products are not normalised again.
    """
    length = jnp.sum(mask, axis=-1, dtype=jnp.float32)
    centre = length * jax.nn.sigmoid(place.astype(jnp.float32))
    offset = positions[:, None, :] - centre[:, :, None]
    favour = jnp.exp(-2 * (offset / window) ** 2)
    return masked_softmax(scores, mask & (jnp.abs(offset) <= window)) * favour


def weighted_sum(weights: Float[Array, "B K S"], values: Float[Array, "B S D"]) -> Float[Array, "B K D"]:
    """The context: the mean of the values by attention, in their type."""
    return jnp.einsum("bks,bsd->bkd", weights.astype(values.dtype), values)
