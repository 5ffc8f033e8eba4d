"""Dropout from a counter hashed with a key, for a twentieth of the cost of threefry Bernoulli draws.

A mask element is a function of (key, its index in the array) and of nothing else, so it does not depend on how the
array is sharded, and the backward pass recomputes it instead of storing it.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, UInt32

# The finaliser of MurmurHash3 (Appleby 2011, public domain): two multiply-xor-shift rounds with full avalanche.
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)


def _mix(h: Array) -> Array:
    h = (h ^ (h >> 16)) * jnp.uint32(_MULTIPLIERS[0])
    h = (h ^ (h >> 13)) * jnp.uint32(_MULTIPLIERS[1])
    return h ^ (h >> 16)


def hashed_bits(key: Array, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Random uint32 [shape]: element i is a hash of (key, i), i the row-major index modulo 2**32.

    Not for cryptography and not a replacement for `jax.random`: it is tested for what dropout needs, which is
    the right rate, independence along every axis and between keys (`tests/ops/test_dropout.py`).
    """
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
    counter = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        counter += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    # The key enters twice, scrambled: keys that differ in one bit must not give shifted copies of one mask.
    return _mix(_mix(counter + _mix(words[0])) ^ _mix(words[-1] + jnp.uint32(0x9E3779B9)))


def dropout(x: Float[Array, "*any"], rate: float, key: Array) -> Float[Array, "*any"]:
    """Zero each element with probability `rate` and scale the others by `1 / (1 - rate)` (Srivastava et al. 2014)."""
    return x if rate == 0 else _dropout(x, key, rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dropout(x, key, rate):
    keep = hashed_bits(key, x.shape) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


_dropout.defvjp(
    lambda x, key, rate: (_dropout(x, key, rate), key),
    lambda rate, key, dy: (_dropout(dy, key, rate), None),  # linear in x, with the same mask
)
