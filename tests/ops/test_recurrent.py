"""The LSTM against a loop over steps, one segment at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.linear import Precision
from s2sjax.ops.recurrent import lstm, segment_starts

RNG = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(inputs: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """One sentence [T, 4D] in float64, gate by gate."""
    D = kernel.shape[0]
    h, c, outputs = np.zeros(D), np.zeros(D), []
    for x in inputs:
        gates = x + h @ kernel
        i, f, g, o = (gates[n * D : (n + 1) * D] for n in range(4))
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_segments_are_read_as_if_alone_in_both_directions(reverse):
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 3, 3]])
    inputs, kernel = RNG.normal(size=(2, 6, 12)), RNG.normal(size=(3, 12))
    starts = segment_starts(jnp.array(segments), reverse=reverse)
    got = lstm(
        jnp.array(inputs, jnp.float32),
        jnp.array(kernel, jnp.float32),
        starts,
        precision=Precision.FLOAT32,
        reverse=reverse,
    )
    for b in range(2):
        for segment in set(segments[b]) - {0}:
            here = np.flatnonzero(segments[b] == segment)
            order = here[::-1] if reverse else here
            np.testing.assert_allclose(np.asarray(got)[b, order], loop(inputs[b, order], kernel), rtol=1e-5, atol=1e-5)


def test_segment_starts_by_hand():
    segments = jnp.array([[1, 1, 2, 0, 0]])
    np.testing.assert_array_equal(segment_starts(segments), [[True, False, True, True, False]])
    np.testing.assert_array_equal(segment_starts(segments, reverse=True), [[False, True, True, False, True]])


def test_gradient_does_not_cross_a_segment_border():
    starts = segment_starts(jnp.array([[1, 1, 2, 2]]))
    kernel = jnp.array(RNG.normal(size=(3, 12)), jnp.float32)

    def last(x):
        return jnp.sum(lstm(x, kernel, starts, precision=Precision.FLOAT32)[0, 3])

    gradient = np.asarray(jax.grad(last)(jnp.array(RNG.normal(size=(1, 4, 12)), jnp.float32)))[0]
    assert not gradient[:2].any() and gradient[2].any()
