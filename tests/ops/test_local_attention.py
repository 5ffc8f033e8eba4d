"""Attention in a band against a float64 loop and against attention under the same mask."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.attention import dot_product_attention, segment_mask
from s2sjax.ops.local_attention import BandBias, local_attention, make_band
from tests.ops.test_attention import loop
from tests.tolerance import assert_close

H, C = 4, 8
ROWS = (
    (1.0,),  # one segment, the whole row
    (0.7,),  # and padding
    (0.1, 0.55, 0.35),  # packed
    (0.25, 0.25, 0.25, 0.2),
    (),  # nothing
)
"""Lengths of a row's segments, as parts of the row."""


def rows(T: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments and positions [B, T]."""
    segments, positions = np.zeros((2, len(ROWS), T), int)
    for b, lengths in enumerate(ROWS):
        ends = [0, *np.round(np.cumsum(lengths) * T).astype(int)]
        for number, (begin, end) in enumerate(itertools.pairwise(ends)):
            segments[b, begin:end] = number + 1
            positions[b, begin:end] = np.arange(end - begin)
    return segments, positions


def full_mask(segments, positions, window, global_tokens):
    """[B, T, T], from the definition."""
    index, is_global = np.arange(segments.shape[1]), (positions < global_tokens) & (segments > 0)
    near = np.abs(index[:, None] - index) <= window
    same = (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, None]
    return same & (near | is_global[:, :, None] | is_global[:, None])


def slope_bias(distance):
    """Of each head [..., H, T, S], another for keys ahead than for those behind."""
    distance = distance[..., None, :, :]
    return jnp.arange(1, H + 1)[:, None, None] * jnp.where(distance > 0, 0.1, -0.03) * distance


CASES = [  # T, window, global tokens, heads of keys, bias
    (40, 3, 0, 4, False),
    (40, 3, 3, 4, True),
    (41, 1, 1, 1, True),
    (37, 5, 2, 2, True),
    (37, 12, 4, 2, True),  # one block that is wider than the window
    (9, 20, 1, 4, False),
]


@functools.cache
def case(T, window, global_tokens, G, biased):
    """Operands, and both ways to attend: functions of query, key and value."""
    rng = np.random.default_rng(T + window)
    segments, positions = rows(T)
    operands = [jnp.array(rng.normal(size=(len(ROWS), T, heads, C)), jnp.float32) for heads in (H, G, G)]
    band = make_band(jnp.array(segments), jnp.array(positions), window, global_tokens)
    mask, bias, dense_bias, index = (
        full_mask(segments, positions, window, global_tokens),
        BandBias(),
        None,
        jnp.arange(T),
    )
    if biased:
        dense_bias, bias = slope_bias((index - index[:, None])[None]), BandBias(slope_bias(band.near_distances()))
        if band.far is not None:
            far = band.far_distances()
            bias = bias._replace(far=slope_bias(far), back=slope_bias(-far.swapaxes(2, 3)))
    return (
        operands, mask, dense_bias,
        functools.partial(local_attention, band=band, bias=bias, scale=0.4),
        functools.partial(dot_product_attention, mask=jnp.array(mask), bias=dense_bias, scale=0.4),
    )  # fmt: skip


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("given", CASES, ids=str)
def test_local_attention_equals_a_float64_loop_under_the_bands_mask(given):
    operands, mask, bias, local, _ = case(*given)
    T = given[0]
    expected = loop(
        *(np.asarray(x, np.float64) for x in operands), mask,
        np.zeros((1, H, T, T)) if bias is None else np.asarray(bias), 0.4,
    )  # fmt: skip
    assert_close(jax.jit(local)(*operands), expected, roundings=T)


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("given", CASES, ids=str)
def test_its_gradients_are_those_of_attention_under_the_mask(given):
    operands, _, _, *ways = case(*given)

    def gradients(attend):
        return jax.jit(jax.grad(lambda *x: jnp.sum(jnp.sin(3 * attend(*x))), argnums=(0, 1, 2)))(*operands)

    for found, expected in zip(*map(gradients, ways), strict=True):
        assert_close(found, expected, roundings=2 * given[0])


def test_a_window_that_covers_everything_is_full_attention():
    segments, positions = rows(30)
    mask = np.asarray(segment_mask(jnp.array(segments), jnp.array(segments)))
    np.testing.assert_array_equal(full_mask(segments, positions, 29, 0), mask)
    operands, found_mask, _, local, full = case(30, 29, 0, 2, False)
    np.testing.assert_array_equal(found_mask, mask)
    assert_close(jax.jit(local)(*operands), jax.jit(full)(*operands), roundings=30)


def test_nothing_outside_of_the_mask_has_a_gradient_and_everything_inside_has():
    operands, mask, _, local, _ = case(40, 3, 3, 4, False)

    def responses(scale):  # [T] of all rows' queries to the value at each position, scaled
        return jnp.sum(local(*operands[:2], scale[:, None, None] * operands[2]) ** 2, axis=(2, 3))

    jacobian = jax.jit(jax.jacfwd(responses))(jnp.ones(40))  # [B, T, T]
    np.testing.assert_array_equal(np.asarray(jacobian) != 0, mask)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_answers_have_the_type_of_values_and_queries_without_keys_get_zeros(dtype):
    operands, mask, _, local, full = case(40, 3, 3, 4, True)
    operands = [jnp.array(x, dtype) for x in operands]
    found = jax.jit(local)(*operands)
    assert found.dtype == dtype
    assert not np.asarray(found, np.float32)[~mask.any(axis=2)].any()
    expected = np.asarray(jax.jit(full)(*operands), np.float32)
    unit = 1 if dtype == jnp.float32 else 2**16  # roundings of a bfloat16 in those of a float32
    assert_close(np.asarray(found, np.float32), expected, roundings=(40 if dtype == jnp.float32 else 3) * unit)


def test_no_array_grows_with_the_square_of_the_length():
    def largest(T):
        segments = jnp.ones((1, T), jnp.int32)
        x = jnp.zeros((1, T, H, C))

        def loss(x):
            return jnp.sum(local_attention(x, x, x, make_band(segments, jnp.arange(T)[None], 16, 2)))

        jaxpr = jax.make_jaxpr(jax.grad(loss))(x)
        return max(v.aval.size for e in jaxpr.eqns for v in e.outvars)

    assert largest(4096) <= 2 * largest(2048)


def test_huge_scores_survive():
    operands, mask, _, local, full = case(40, 3, 3, 4, False)
    query = 1e6 * operands[0]
    found, expected = (jax.jit(attend)(query, *operands[1:]) for attend in (local, full))
    assert np.isfinite(found).all() and not np.asarray(found)[~mask.any(axis=2)].any()
    assert_close(found, expected, roundings=40)
