"""The statistics of hashed dropout masks: rate, independence along axes, between neighbours and between keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from s2sjax.ops.dropout import dropout, hashed_bits, rows_of_batch


def masks(keys: int, shape, rate: float = 0.3) -> np.ndarray:
    draw = jax.jit(lambda key: dropout(jnp.ones(shape), rate, key) > 0)
    return np.stack([draw(key) for key in jax.random.split(jax.random.key(1), keys)])


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_the_rate_is_kept_overall_and_for_every_element(rate):
    drawn = masks(400, (16, 8, 8), rate)
    n = drawn.size
    assert abs(drawn.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / n)
    # Each of the 1,024 elements over 400 keys is binomial: a chi-squared test of the counts.
    counts = drawn.sum(axis=0).ravel()
    statistic = ((counts - 400 * (1 - rate)) ** 2 / (400 * rate * (1 - rate))).sum()
    assert 1e-4 < stats.chi2.cdf(statistic, counts.size) < 1 - 1e-4


@pytest.mark.parametrize("shift", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (2, 3, 5)])
def test_an_element_says_nothing_about_its_neighbours(shift):
    drawn = masks(100, (16, 16, 32)).astype(float) - 0.7
    correlation = (drawn * np.roll(drawn, shift, axis=(1, 2, 3))).mean() / 0.21
    assert abs(correlation) < 4.5 / np.sqrt(drawn.size)


def test_masks_of_different_keys_are_independent_also_for_keys_that_differ_in_one_bit():
    shape = (64, 512)
    base = jax.random.key_data(jax.random.key(7))
    reference = np.asarray(hashed_bits(jax.random.wrap_key_data(base), shape)) >> 31
    for word in range(2):
        for bit in range(32):
            other = jax.random.wrap_key_data(base.at[word].set(base[word] ^ jnp.uint32(1 << bit)))
            agree = (reference == np.asarray(hashed_bits(other, shape)) >> 31).mean()
            assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(reference.size), (word, bit)


def test_every_output_bit_is_balanced():
    bits = np.asarray(hashed_bits(jax.random.key(3), (1024, 256)))
    for bit in range(32):
        share = ((bits >> bit) & 1).mean()
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(bits.size), bit


def test_kept_elements_are_scaled_and_the_gradient_has_the_same_mask():
    x = jax.random.normal(jax.random.key(0), (32, 32))
    y, pullback = jax.vjp(lambda x: dropout(x, 0.3, jax.random.key(1)), x)
    kept = np.asarray(y != 0)
    np.testing.assert_allclose(np.asarray(y)[kept], np.asarray(x)[kept] / 0.7, rtol=1e-6)
    np.testing.assert_allclose(pullback(jnp.ones_like(x))[0], kept / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(1)), x)


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("rows, shape", [(0, (6,)), (0, (6, 3, 5)), (1, (4, 6, 5)), (2, (2, 3, 6))])
def test_some_rows_have_the_masks_that_they_have_in_the_whole_batch(rows, shape):
    x, key = jax.random.normal(jax.random.key(0), shape), jax.random.key(1)
    numbers = np.array([5, 0, 2])
    whole, pull = jax.vjp(lambda x: dropout(x, 0.5, key, rows=rows), x)
    part = jnp.take(x, numbers, axis=rows)

    @jax.jit
    def of_part(part, numbers):  # as in a loop over parts: which rows they are is not known before it runs
        with rows_of_batch(numbers, 6):
            y, pull = jax.vjp(lambda x: jax.checkpoint(lambda x: dropout(x, 0.5, key, rows=rows))(x), part)
        return y, pull(jnp.ones_like(y))[0]

    y, gradient = of_part(part, jnp.array(numbers))
    np.testing.assert_array_equal(y, np.take(np.asarray(whole), numbers, axis=rows))
    np.testing.assert_array_equal(gradient, np.take(np.asarray(pull(jnp.ones_like(x))[0]), numbers, axis=rows))
    assert (np.asarray(gradient) != np.asarray(jax.vjp(lambda x: dropout(x, 0.5, key), part)[1](y * 0 + 1)[0])).any()


def test_what_has_no_rows_has_one_mask_for_all_parts_and_a_mistaken_axis_is_told():
    x, key = jnp.ones((3, 4)), jax.random.key(1)
    with rows_of_batch(jnp.array([1, 2]), 8):
        with pytest.raises(AssertionError, match="3 rows where the batch has 2"):
            dropout(x, 0.5, key)
        inside = dropout(x, 0.5, key, rows=None)
    np.testing.assert_array_equal(inside, dropout(x, 0.5, key))
