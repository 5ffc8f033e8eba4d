"""Positions against their formulas."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.position import alibi_slopes, relative_buckets, rotary_frequencies, rotate, rotation, sinusoids


def test_sinusoids_by_the_formula():
    got = np.asarray(sinusoids(jnp.array([[0, 1], [7, 300]]), 6))
    for (b, t), position in np.ndenumerate(np.array([[0, 1], [7, 300]])):
        for i in range(3):
            angle = position / 10_000 ** (i / 2)
            np.testing.assert_allclose(got[b, t, [i, 3 + i]], [np.sin(angle), np.cos(angle)], atol=1e-4)


def test_every_position_is_different():
    rows = np.asarray(sinusoids(jnp.arange(512), 64))
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + 10 * np.eye(512)
    assert distances.min() > 0.05


def test_rotation_multiplies_pairs_as_complex_numbers():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 6))
    positions = np.array([[0, 1, 2], [5, 0, 100]])
    got = rotate(jnp.array(x, jnp.float32), rotation(jnp.array(positions), rotary_frequencies(6, base=100.0)))
    for b, t, h, i in np.ndindex(2, 3, 2, 3):
        turned = (x[b, t, h, i] + 1j * x[b, t, h, i + 3]) * np.exp(1j * positions[b, t] * 100.0 ** (-i / 3))
        np.testing.assert_allclose(got[b, t, h, [i, i + 3]], [turned.real, turned.imag], atol=1e-4)


def test_rotated_dot_products_depend_on_the_distance_only():
    x = jnp.array(np.random.default_rng(0).normal(size=(1, 2, 1, 8)), jnp.float32)

    def product(*positions):
        a, b = rotate(x, rotation(jnp.array([positions]), rotary_frequencies(8)))[0, :, 0]
        return float(a @ b)

    assert product(3, 7) == pytest.approx(product(103, 107), abs=1e-4)
    assert abs(product(3, 7) - product(3, 9)) > 1e-2


def test_linear_scaling_divides_all_frequencies():
    scaled = rotary_frequencies(8, scaling="linear", factor=4.0)
    np.testing.assert_allclose(scaled, rotary_frequencies(8) / 4, rtol=1e-6)


def test_llama3_scaling_equals_the_reference_code_written_as_a_loop():
    """`apply_scaling` of Llama 3.1, in float64, with its own names."""
    factor, low_freq_factor, high_freq_factor, old_context_len = 8.0, 1.0, 4.0, 8192
    expected, kinds = [], set()
    for i in range(64):
        freq = 500_000.0 ** (-2 * i / 128)
        wavelen = 2 * math.pi / freq
        if wavelen < old_context_len / high_freq_factor:
            expected.append(freq)
            kinds.add("high")
        elif wavelen > old_context_len / low_freq_factor:
            expected.append(freq / factor)
            kinds.add("low")
        else:
            smooth = (old_context_len / wavelen - low_freq_factor) / (high_freq_factor - low_freq_factor)
            expected.append((1 - smooth) * freq / factor + smooth * freq)
            kinds.add("between")
    assert kinds == {"high", "low", "between"}
    got = rotary_frequencies(128, base=500_000.0, scaling="llama3", factor=8.0, original_length=8192)
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_an_unknown_scaling_is_an_error():
    with pytest.raises(ValueError, match="scaling 'yarn' is not none, linear or llama3"):
        rotary_frequencies(8, scaling="yarn")


def test_t5_buckets_of_a_decoder_by_hand():
    """32 buckets: 0 to 15 for their own distances; from 16 on, log(d / 16) / log(8) * 16, as T5 computes it."""
    keys_behind = [0, 1, 15, 16, 18, 19, 32, 64, 90, 113, 127, 128, 10_000]
    expected = [0, 1, 15, 16, 16, 17, 21, 26, 29, 31, 31, 31, 31]
    got = relative_buckets(-jnp.array(keys_behind), bidirectional=False)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(relative_buckets(jnp.array([1, 5, 500]), bidirectional=False), 0)


def test_t5_buckets_of_an_encoder_by_hand():
    """16 for each side: 0 to 7 for their own distances; from 8 on, log(d / 8) / log(16) * 8. Boundaries are exact."""
    distances = [0, -1, -7, -8, -11, -12, -16, -32, -64, -127, -500, 1, 7, 8, 16, 500]
    expected = [0, 1, 7, 8, 8, 9, 10, 12, 14, 15, 15, 17, 23, 24, 26, 31]
    np.testing.assert_array_equal(relative_buckets(jnp.array(distances), bidirectional=True), expected)


@pytest.mark.parametrize("buckets, most", [(32, 128), (8, 20), (6, 50)])
def test_buckets_grow_with_the_logarithm_of_the_distance(buckets, most):
    exact = buckets // 2
    got = relative_buckets(-jnp.arange(2 * most), bidirectional=False, buckets=buckets, max_distance=most)
    for d in range(2 * most):
        value = exact + math.log(max(d, 1) / exact) / math.log(most / exact) * (buckets - exact)
        assert got[d] == (d if d < exact else min(math.floor(value + 1e-9), buckets - 1)), d


def test_alibi_slopes_of_the_paper():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(16)[:3], [2**-0.5, 2**-1, 2**-1.5], rtol=1e-6)
    # Not a power of two: those of 4 heads, then every other one of 8.
    np.testing.assert_allclose(alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3], rtol=1e-6)
