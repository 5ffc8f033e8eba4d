"""The RG-LRU and the convolution before it against loops over steps, one segment at a time, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.linear_recurrence import causal_convolution, convolution_step, rg_lru, rg_lru_step
from s2sjax.ops.recurrent import segment_starts

SEGMENTS = np.array([[1, 1, 1, 1, 1, 1, 1, 1, 0], [1, 2, 2, 2, 2, 2, 3, 3, 3], [1, 1, 1, 1, 1, 2, 2, 0, 0]], np.int32)
B, T = SEGMENTS.shape
R, W = 5, 4
RNG = np.random.default_rng(0)
X, RECURRENCE, INPUT_GATE, COTANGENT = RNG.normal(size=(4, B, T, R)) * 2
DECAY = RNG.normal(size=R) * 3
KERNEL, BIAS = RNG.normal(size=(W, R)), RNG.normal(size=R)
STARTS = segment_starts(jnp.asarray(SEGMENTS))


def f32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def segments():
    """(row, columns) of every segment, padding too: it counts as one."""
    for row in range(B):
        for segment in set(SEGMENTS[row]):
            yield row, np.flatnonzero(SEGMENTS[row] == segment)


def loop(x, recurrence, input_gate, decay):
    """`rg_lru` from its definition, with the paper's sigmoid of Lambda."""
    h = np.zeros_like(x)
    for row, columns in segments():
        state = np.zeros(R)
        for t in columns:
            a = sigmoid(-decay) ** (8 * sigmoid(recurrence[row, t]))
            state = a * state + np.sqrt(1 - a**2) * sigmoid(input_gate[row, t]) * x[row, t]
            h[row, t] = state
    return h


def test_the_scan_equals_the_loop_in_every_segment():
    arguments = X, RECURRENCE, INPUT_GATE, DECAY
    np.testing.assert_allclose(jax.jit(rg_lru)(*f32(*arguments), STARTS), loop(*arguments), rtol=1e-4, atol=1e-5)


def test_gradients_equal_differences_of_the_loop():
    """Of a weighted sum of all states, by every argument, along a random direction each."""
    arguments = [X, RECURRENCE, INPUT_GATE, DECAY]

    def loss(*arguments):
        return jnp.sum(rg_lru(*arguments, STARTS) * f32(COTANGENT)[0])

    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*f32(*arguments))
    for i, gradient in enumerate(grads):
        direction, sums = RNG.normal(size=arguments[i].shape), []
        for sign in (1, -1):
            moved = [x + (sign * 1e-5 * direction if j == i else 0) for j, x in enumerate(arguments)]
            sums.append(np.sum(loop(*moved) * COTANGENT))
        assert np.sum(np.asarray(gradient) * direction) == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-3)


def test_gradients_are_finite_where_a_gate_is_shut_and_the_state_is_kept_for_long():
    """With r = 0 nothing decays and nothing enters: 1 - a^2 is zero, and its root without a derivative."""

    def loss(recurrence, decay):
        return jnp.sum(rg_lru(*f32(X), recurrence, *f32(INPUT_GATE), decay, STARTS) ** 2)

    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.full((B, T, R), -100.0), jnp.full(R, -20.0))
    assert all(np.isfinite(g).all() for g in grads)


def test_a_state_that_has_decayed_completely_neither_overflows_nor_is_lost():
    h = jax.jit(rg_lru)(*f32(X), jnp.full((B, T, R), 100.0), *f32(INPUT_GATE), jnp.full(R, 100.0), STARTS)
    np.testing.assert_allclose(h, sigmoid(INPUT_GATE) * X, rtol=1e-5)


def test_stepping_equals_reading():
    x, recurrence, input_gate, decay, kernel, bias = f32(X, RECURRENCE, INPUT_GATE, DECAY, KERNEL, BIAS)
    states = jax.jit(rg_lru)(x, recurrence, input_gate, decay, jnp.zeros((B, T), bool).at[:, 0].set(True))
    filtered = jax.jit(causal_convolution)(x, kernel, bias, jnp.ones((B, T), jnp.int32))
    step, convolve = jax.jit(rg_lru_step), jax.jit(convolution_step)
    state, tail = jnp.zeros((B, R)), jnp.zeros((B, W - 1, R))
    for t in range(T):
        state = step(x[:, t], recurrence[:, t], input_gate[:, t], decay, state)
        y, tail = convolve(x[:, t], tail, kernel, bias)
        np.testing.assert_allclose(state, states[:, t], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(y, filtered[:, t], rtol=1e-4, atol=1e-5)


def test_the_convolution_ends_where_its_segment_begins():
    got = jax.jit(causal_convolution)(*f32(X, KERNEL, BIAS), jnp.asarray(SEGMENTS))
    expected = np.zeros_like(X)
    for row, columns in segments():
        for n, t in enumerate(columns):
            expected[row, t] = BIAS + sum(KERNEL[w] * X[row, columns[n - w]] for w in range(min(W, n + 1)))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_inputs_leave_the_state_in_float32():
    x, recurrence, input_gate, decay = f32(X, RECURRENCE, INPUT_GATE, DECAY)
    half = (y.astype(jnp.bfloat16) for y in (x, recurrence, input_gate))
    h = jax.jit(rg_lru)(*half, decay, STARTS)
    assert h.dtype == jnp.float32
    np.testing.assert_allclose(h, loop(X, RECURRENCE, INPUT_GATE, DECAY), atol=0.1)
