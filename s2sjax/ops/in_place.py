"""What labels read: a target's position p stands where position p of its own input stands.

    input_segments      1 1 1 2 2 .        target_segments     1 2 2 2 .
    input_positions     0 1 2 0 1 .        target_positions    0 0 1 2 .
    encoded             a b c d e f        read                a d e 0 0

So one target, at position 0, labels a text by its first token; and one for each token tags it.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from s2sjax.api import Batch


def read_in_place(encoded: Float[Array, "B S D"], batch: Batch) -> Float[Array, "B T D"]:
    """For each target what is encoded at the same position of the same segment; zero if nothing is, and for padding.

    A segment's columns are neighbours, and segments are numbered in ascending order. Where a segment begins is found by
    bisection, in time and memory linear in T; comparing all targets with all inputs took the square.
    """
    segments, positions = batch["input_segments"], batch["input_positions"]
    wanted, offset = batch["target_segments"], batch["target_positions"]
    ascending = jnp.where(segments > 0, segments, jnp.iinfo(segments.dtype).max)  # padding comes last
    # Unrolled: a few gathers of integers, and no loop that a partitioner or an estimate would have to look into.
    begins = jax.vmap(lambda row, of: jnp.searchsorted(row, of, method="scan_unrolled"))(ascending, wanted)
    places = jnp.minimum(begins + offset, segments.shape[1] - 1)
    found = (jnp.take_along_axis(segments, places, axis=1) == wanted) & (wanted > 0)
    found &= jnp.take_along_axis(positions, places, axis=1) == offset
    return jnp.where(found[..., None], jnp.take_along_axis(encoded, places[..., None], axis=1), 0)
