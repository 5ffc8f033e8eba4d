"""Dropout from a counter hashed with a key, for a twentieth of the cost of threefry Bernoulli draws.

A mask element is a function of (key, its index in the array) and of nothing else, so it does not depend on how the
array is sharded, and the backward pass recomputes it instead of storing it. Where only some rows of a batch are
computed, `rows_of_batch` says which: their masks are then those that they have in the whole batch.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, UInt32

# The finaliser of MurmurHash3 (Appleby 2011, public domain): two multiply-xor-shift rounds with full avalanche.
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)


def _mix(h: Array) -> Array:
    h = (h ^ (h >> 16)) * jnp.uint32(_MULTIPLIERS[0])
    h = (h ^ (h >> 13)) * jnp.uint32(_MULTIPLIERS[1])
    return h ^ (h >> 16)


def hashed_bits(key: Array, shape: tuple[int, ...], begin: Array | None = None) -> UInt32[Array, "..."]:
    """Random uint32 [shape]: element i is a hash of (key, i), i the row-major index modulo 2**32.

    Not for cryptography and not a replacement for `jax.random`: it is tested for what dropout needs, which is
    the right rate, independence along every axis and between keys (`tests/ops/test_dropout.py`).

    Args:
        begin: uint32 [shape[:n]], at which index each of these slices begins instead: the slices are some of those of
            a larger array.
    """
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
    n = 0 if begin is None else begin.ndim
    counter = jnp.zeros(shape, jnp.uint32)
    if begin is not None:
        counter += begin.reshape(*begin.shape, *(1,) * (len(shape) - n))
    for axis in range(n, len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        counter += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    # The key enters twice, scrambled: keys that differ in one bit must not give shifted copies of one mask.
    return _mix(_mix(counter + _mix(words[0])) ^ _mix(words[-1] + jnp.uint32(0x9E3779B9)))


class _Rows(NamedTuple):
    numbers: Array
    of: int
    """How many rows the whole batch has."""


_ROWS: contextvars.ContextVar[_Rows | None] = contextvars.ContextVar("rows of the batch", default=None)


@contextlib.contextmanager
def rows_of_batch(numbers: Int[Array, "B"], count: int) -> Iterator[None]:
    """While a function is traced in this context, its batch is a part, the rows `numbers` of a batch of `count`.

    A context and not an argument, because every layer of every model would have to hand the argument down.
    """
    token = _ROWS.set(_Rows(numbers, count))
    try:
        yield
    finally:
        _ROWS.reset(token)


def row_numbers(size: int) -> UInt32[Array, "B"]:
    """The numbers that `size` rows have in the whole batch."""
    rows = _ROWS.get()
    if rows is None:
        return jnp.arange(size, dtype=jnp.uint32)
    assert rows.numbers.shape == (size,), f"{size} rows where the batch has {rows.numbers.shape[0]}"
    return rows.numbers.astype(jnp.uint32)


def dropout(x: Float[Array, "*any"], rate: float, key: Array, *, rows: int | None = 0) -> Float[Array, "*any"]:
    """Zero each element with probability `rate` and scale the others by `1 / (1 - rate)` (Srivastava et al. 2014).

    Args:
        rows: the axis of `x` that the rows of the batch lie along; None if it has nothing to do with the batch.
    """
    begin = None if rows is None else _begin(x.shape, rows)
    return dropout_from(x, rate, key, begin)


def dropout_from(x: Float[Array, "*any"], rate: float, key: Array, begin: Array | None) -> Float[Array, "*any"]:
    """`dropout` whose mask begins, in each slice of `x`, at an index of its own; see `hashed_bits`."""
    return x if rate == 0 else _dropout(x, key, begin, rate)


def _begin(shape: tuple[int, ...], axis: int) -> Array | None:
    """Where each slice `[..., row]` of an array begins in that of the whole batch; None if this is the whole batch."""
    rows = _ROWS.get()
    if rows is None:
        return None
    size = math.prod(shape[axis + 1 :])
    begin = row_numbers(shape[axis]) * jnp.uint32(size % 2**32)
    stride = rows.of * size
    for before in reversed(shape[:axis]):
        index = jnp.arange(before, dtype=jnp.uint32) * jnp.uint32(stride % 2**32)
        begin = index.reshape(-1, *(1,) * begin.ndim) + begin
        stride *= before
    return begin


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dropout(x, key, begin, rate):
    keep = hashed_bits(key, x.shape, begin) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


_dropout.defvjp(
    lambda x, key, begin, rate: (_dropout(x, key, begin, rate), (key, begin)),
    lambda rate, masked, dy: (_dropout(dy, *masked, rate), None, None),  # linear in x, with the same mask
)
