"""Positions: added to embeddings (sinusoids), turned into queries and keys (rotary), or added to scores (T5, ALiBi)."""

import bisect
import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def sinusoids(positions: Int[Array, "*any"], width: int) -> Float[Array, "*any D"]:
    """Sinusoidal position encodings (Vaswani et al. 2017, arXiv:1706.03762, section 3.5), float32.

    The first half of the width holds sines and the second cosines (as in tensor2tensor); the paper interleaves
    them, which is the same up to a permutation that the next layer learns. Any integer position is valid.
    """
    half = width // 2
    frequencies = 10_000.0 ** (-jnp.arange(half) / max(half - 1, 1))
    angles = positions[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Rotation(NamedTuple):
    """By which angles the pairs of a head turn at each position: their cosines and sines, float32 [B, T, C/2]."""

    cos: Float[Array, "B T half"]
    sin: Float[Array, "B T half"]


def rotary_frequencies(
    width: int, *, base: float = 10_000.0, scaling: str = "none", factor: float = 1.0, original_length: int = 8192
) -> Float[Array, "half"]:
    """Radians that each pair of a head of `width` C turns in one position: `base ** (-2i / C)`, i = 0 .. C/2 - 1.

    Rotary embeddings are those of Su et al. 2021 (arXiv:2104.09864, section 3.2.2). A model that has been trained on
    sequences of `original_length` reads `factor` times longer ones if it turns more slowly:

    Args:
        scaling: "none"; "linear": all frequencies over `factor` (Chen et al. 2023, arXiv:2306.15595, equation 4);
            "llama3": over `factor` where a full turn takes more than `original_length` positions, not at all where it
            takes fewer than a quarter of them, and in between interpolated, linearly in the number of turns
            (Grattafiori et al. 2024, arXiv:2407.21783; Llama 3.1's reference code, its low and high factors 1 and 4).
    """
    frequencies = base ** (-2.0 * jnp.arange(width // 2) / width)
    if scaling == "none":
        return frequencies
    if scaling == "linear":
        return frequencies / factor
    if scaling == "llama3":
        turns = original_length * frequencies / (2 * math.pi)
        kept = jnp.clip((turns - 1.0) / (4.0 - 1.0), 0.0, 1.0)
        return frequencies * (kept + (1.0 - kept) / factor)
    raise ValueError(f"scaling '{scaling}' is not none, linear or llama3")


def rotation(positions: Int[Array, "B T"], frequencies: Float[Array, "half"]) -> Rotation:
    """The angles of every position."""
    angles = positions[..., None] * frequencies
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T H C"], by: Rotation) -> Float[Array, "B T H C"]:
    """Turn each pair of every head, in float32. Dot products of what was turned depend on the distance only.

    Element i of a head is paired with element i + C/2, as in GPT-NeoX and in Llama's weights at Hugging Face; the paper
    pairs neighbours, which is the same up to a permutation of the rows that queries and keys are projected by.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = by.cos[:, :, None], by.sin[:, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def relative_buckets(
    distance: Int[Array, "*any"], *, bidirectional: bool, buckets: int = 32, max_distance: int = 128
) -> Int[Array, "*any"]:
    """The bucket of each `distance`, key position minus query position (Raffel et al. 2020, arXiv:1910.10683, 2.1).

    Half of the buckets hold one distance each and the other half logarithmically growing ranges up to `max_distance`,
    from which on all distances share the last. With `bidirectional`, keys behind the query have the first `buckets / 2`
    and keys ahead of it the others; without, all are for keys behind, and keys ahead share bucket 0 with distance 0.
    """
    if bidirectional:
        away, ahead = jnp.abs(distance), jnp.where(distance > 0, buckets // 2, 0)
        buckets //= 2
    else:
        away, ahead = jnp.maximum(-distance, 0), jnp.zeros_like(distance)
    table = jnp.array(_buckets(buckets, max_distance), jnp.int32)
    return ahead + table[jnp.minimum(away, max_distance)]


@functools.lru_cache
def _buckets(buckets: int, max_distance: int) -> tuple[int, ...]:
    """The bucket of each distance 0 .. `max_distance`, `exact + floor(log(d / exact) / log(max / exact) * coarse)`.

    In integers: with logarithms in float32 it is chance on which side of a boundary such as 16 a distance falls.
    """
    exact = buckets // 2
    coarse = buckets - exact

    def begins(i: int) -> int:
        """The first distance of the `i`-th of the coarse buckets."""
        least = max_distance**i * exact ** (coarse - i)
        return bisect.bisect_left(range(max_distance + 1), least, lo=exact, key=lambda d: d**coarse)

    firsts = [*range(exact), *map(begins, range(coarse))]
    return tuple(bisect.bisect_right(firsts, d) - 1 for d in range(max_distance + 1))


def alibi_slopes(heads: int) -> Float[Array, "heads"]:
    """By how much a head's scores fall with each position of distance (Press et al. 2022, arXiv:2108.12409, section 3).

    For a power of two the geometric sequence from `2 ** (-8 / heads)` down to `2 ** -8`; for another number, as in the
    paper's code, that of the next lower power n, and then every other one of 2n's.
    """
    lower = 2 ** int(math.log2(heads))

    def sequence(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    return jnp.array(sequence(lower) + sequence(2 * lower)[::2][: heads - lower])
