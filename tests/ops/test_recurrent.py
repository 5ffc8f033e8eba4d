"""Recurrent layers against loops over steps, one segment at a time."""

import functools
import re
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from s2sjax.ops import recurrent
from s2sjax.ops.linear import Precision
from s2sjax.ops.recurrent import Cell, State, final_states, recur, scan_plainly, scan_products, segment_starts
from tests import loops

RNG = np.random.default_rng(0)
D = 3
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 3, 3]])


def drawn(*shape):
    return jnp.array(RNG.normal(size=shape), jnp.float32)


def drawn_state(cell: Cell, *shape):
    return State(drawn(*shape, D), drawn(*shape, D) if cell == Cell.LSTM else None)


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("reverse, given", [(False, True), (True, False)])
@pytest.mark.parametrize("cell", Cell)
def test_packed_segments_are_read_as_if_alone_in_both_directions_from_given_states_or_zero(cell, reverse, given):
    inputs, kernel = drawn(2, 6, cell.gates * D), drawn(D, cell.gates * D)
    first = drawn_state(cell, 2, 6) if given else None
    starts = segment_starts(jnp.array(SEGMENTS), reverse=reverse)
    got = recur(cell, inputs, kernel, starts, precision=Precision.FLOAT32, first=first, reverse=reverse)
    inputs, kernel = (np.asarray(x, np.float64) for x in (inputs, kernel))
    for b in range(2):
        for segment in set(SEGMENTS[b]) - {0}:
            here = np.flatnonzero(SEGMENTS[b] == segment)
            order = here[::-1] if reverse else here
            begin = None
            if first is not None:
                begin = tuple(np.zeros(D) if x is None else np.asarray(x)[b, order[0]] for x in first)
            h, c = loops.read(cell, inputs[b, order], kernel, begin)
            np.testing.assert_allclose(got.h[b, order], h, rtol=1e-5, atol=1e-5)
            if cell == Cell.LSTM:
                np.testing.assert_allclose(got.c[b, order], c, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell, summed", [(Cell.GRU, "h"), (Cell.LSTM, "c")])
def test_what_sums_over_steps_is_float32_in_bfloat16_too(cell, summed):
    inputs, kernel = (drawn(*shape).astype(jnp.bfloat16) for shape in ((2, 6, cell.gates * D), (D, cell.gates * D)))
    states = recur(cell, inputs, kernel, segment_starts(jnp.array(SEGMENTS)), precision=Precision.BFLOAT16)
    assert getattr(states, summed).dtype == jnp.float32
    assert states.h.dtype == (jnp.float32 if cell == Cell.GRU else jnp.bfloat16)


def test_segment_starts_by_hand():
    segments = jnp.array([[1, 1, 2, 0, 0]])
    np.testing.assert_array_equal(segment_starts(segments), [[True, False, True, True, False]])
    np.testing.assert_array_equal(segment_starts(segments, reverse=True), [[False, True, True, False, True]])
    assert segment_starts(segments[:, :0]).shape == segment_starts(segments[:, :0], reverse=True).shape == (1, 0)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_segments_final_state_is_the_last_one_read_and_zero_where_it_has_no_columns(reverse):
    states = State(drawn(2, 6, D), drawn(2, 6, D))
    wanted = np.array([[2, 1, 1, 0], [3, 2, 1, 4]])
    got = final_states(states, jnp.array(SEGMENTS), jnp.array(wanted), reverse=reverse)
    for b, t in np.ndindex(wanted.shape):
        here = np.flatnonzero((SEGMENTS[b] == wanted[b, t]) & (wanted[b, t] > 0))
        for leaf, x in zip(got, states, strict=True):
            expected = x[b, here[0 if reverse else -1]] if len(here) else np.zeros(D)
            np.testing.assert_array_equal(leaf[b, t], expected)
    nothing = jax.tree.map(lambda x: x[:, :0], states)
    empty = final_states(nothing, jnp.array(SEGMENTS[:, :0]), jnp.array(wanted), reverse=reverse)
    assert empty.h.shape == (2, 4, D) and not empty.h.any()


def test_gradient_does_not_cross_a_segment_border():
    starts = segment_starts(jnp.array([[1, 1, 2, 2]]))
    kernel = drawn(D, 4 * D)

    def last(x):
        return jnp.sum(recur(Cell.LSTM, x, kernel, starts, precision=Precision.FLOAT32).h[0, 3])

    gradient = np.asarray(jax.grad(last)(drawn(1, 4, 4 * D)))[0]
    assert not gradient[:2].any() and gradient[2].any()


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    "reverse, precision, tolerance", [(True, Precision.FLOAT32, 1e-5), (False, Precision.BFLOAT16_PRODUCTS, 2e-2)]
)
@pytest.mark.parametrize("cell", Cell)
def test_gradients_taken_once_for_all_steps_equal_those_taken_step_by_step(
    cell, reverse, precision, tolerance, monkeypatch
):
    starts = segment_starts(jnp.array(SEGMENTS), reverse=reverse)
    arguments = drawn(2, 6, cell.gates * D), drawn(D, cell.gates * D), drawn_state(cell, 2, 6)
    weights = jax.tree.map(lambda x: drawn(*x.shape), arguments[2])

    def loss(inputs, kernel, first):
        states = recur(cell, inputs, kernel, starts, precision=precision, first=first, reverse=reverse)
        return sum(jnp.sum(w * x) for w, x in zip(jax.tree.leaves(weights), jax.tree.leaves(states), strict=True))

    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
    plainly = Mock(wraps=scan_plainly)
    monkeypatch.setattr(recurrent, "scan_products", plainly)
    # Another function, or what was traced before would be found again.
    expected = jax.jit(jax.grad(lambda *given: loss(*given), argnums=(0, 1, 2)))(*arguments)
    plainly.assert_called()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert jnp.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def two_products(product, constants, carry, x):
    """A body with two kernels, one of which reads what the other made, constants, and an integer among the xs."""
    scale, (values, keep) = constants, x
    hidden = jnp.tanh(product("up", carry) * scale + values)
    carry = jnp.where(keep > 0, product("down", hidden), carry)
    return carry, hidden


def test_a_scan_of_several_products_has_the_gradients_of_a_plain_one():
    kernels = {"up": drawn(3, 5), "down": drawn(5, 3)}
    xs = (drawn(4, 2, 5), jnp.array([1, 0, 1, 1]))

    def loss(scan, kernels, scale, carry, values):
        carry, ys = scan(two_products, kernels, scale, carry, (values, xs[1]), precision=Precision.FLOAT32)
        return jnp.sum(carry**2) + jnp.sum(ys**3)

    arguments = kernels, drawn(5), drawn(2, 3), xs[0]
    value = jax.jit(jax.value_and_grad(loss, argnums=(1, 2, 3, 4)), static_argnums=0)
    got, expected = value(scan_products, *arguments), value(scan_plainly, *arguments)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_kernels_gradient_crosses_devices_outside_the_loop():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "data"))

    def sums_in_loops(scan):
        def loss(kernel, inputs):
            zero = State(jnp.zeros((8, D)), jnp.zeros((8, D)))
            xs = (inputs, jnp.zeros((6, 8), bool), None)
            step = functools.partial(recurrent._recur_step, Cell.LSTM)
            return jnp.sum(scan(step, {"recurrent": kernel}, None, zero, xs, precision=Precision.FLOAT32)[1].h ** 2)

        program = jax.jit(jax.grad(loss), in_shardings=(everywhere, rows))
        text = program.lower(jnp.ones((D, 4 * D)), jnp.ones((6, 8, 4 * D))).compile().as_text()
        computations = re.split(r"\n(?=\S.*\{\n)", text)
        return sum("all-reduce(" in c and not c.lstrip().startswith("ENTRY") for c in computations)

    assert sums_in_loops(scan_plainly) == 1, "what this is about, and whether the test would see it"
    assert sums_in_loops(scan_products) == 0
