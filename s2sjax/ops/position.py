"""Positions: the sinusoids of the original Transformer."""

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
