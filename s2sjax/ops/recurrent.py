"""Recurrent layers over a sequence: cells, resets where a new segment begins, and a scan with a cheap gradient."""

import enum
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from s2sjax.ops.linear import Precision, project


class Cell(enum.StrEnum):
    """What a layer computes at each step; `advance` says how."""

    RNN = "rnn"
    GRU = "gru"
    LSTM = "lstm"

    @property
    def gates(self) -> int:
        """Pre-activations for each unit."""
        return {Cell.RNN: 1, Cell.GRU: 3, Cell.LSTM: 4}[self]


class State(NamedTuple):
    """What a layer carries from step to step, [..., D]. What sums over steps is float32 whatever the precision."""

    h: Array
    """The output; float32 in a GRU, which accumulates in it."""
    c: Array | None = None
    """The LSTM's cell, float32."""


def zero_state(cell: Cell, shape: tuple[int, ...], dtype: jnp.dtype) -> State:
    """The state before the first step, where nothing else is known."""
    h = jnp.zeros(shape, jnp.float32 if cell == Cell.GRU else dtype)
    return State(h, jnp.zeros(shape, jnp.float32) if cell == Cell.LSTM else None)


def advance(cell: Cell, x: Float[Array, "*any G"], recurrent: Float[Array, "*any G"], state: State) -> State:
    """One step from the projected input `x W + b` and the projected state `h U`.

    rnn: tanh of their sum (Elman 1990).
    gru: reset, update, candidate (Cho et al. 2014, arXiv:1406.1078), the reset gate acting after the product with U, as
        in cuDNN, so that one product serves all three; without cuDNN's second bias. The update gate keeps the past.
    lstm: input, forget, cell, output (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000), a constant 1
        added to the forget gate (Jozefowicz et al. 2015), so that a fresh cell remembers.
    """
    dtype, x, recurrent = x.dtype, x.astype(jnp.float32), recurrent.astype(jnp.float32)
    if cell == Cell.RNN:
        return State(jnp.tanh(x + recurrent).astype(dtype))
    if cell == Cell.GRU:
        (x_reset, x_update, x_new), (h_reset, h_update, h_new) = (jnp.split(a, 3, axis=-1) for a in (x, recurrent))
        new = jnp.tanh(x_new + jax.nn.sigmoid(x_reset + h_reset) * h_new)
        update = jax.nn.sigmoid(x_update + h_update)
        return State((1 - update) * new + update * state.h)
    assert state.c is not None
    i, f, g, o = jnp.split(x + recurrent, 4, axis=-1)
    c = jax.nn.sigmoid(f + 1.0) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return State((jax.nn.sigmoid(o) * jnp.tanh(c)).astype(dtype), c)


def segment_starts(segments: Int[Array, "B T"], *, reverse: bool = False) -> Bool[Array, "B T"]:
    """True where a segment begins, in reading order: from the left, or from the right with `reverse`."""
    if reverse:
        before = jnp.pad(segments, ((0, 0), (0, 1)), constant_values=-1)[:, 1:]
    else:
        before = jnp.pad(segments, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return segments != before


def restart(starts: Bool[Array, "B"], first: Any, state: Any) -> Any:
    """Leaf by leaf [B, ...], `first` in the rows where a segment begins, else `state`."""
    return jax.tree.map(lambda f, s: jnp.where(starts.reshape(-1, *(1,) * (s.ndim - 1)), f, s), first, state)


def final_states(
    states: State, segments: Int[Array, "B S"], wanted: Int[Array, "B T"], *, reverse: bool = False
) -> State:
    """The states [B, S, D] at the end of reading each `wanted` segment: leaves [B, T, D], zero where it has no columns.

    With `reverse`, reading ended at a segment's first column. S may be 0.
    """
    S = segments.shape[1]
    own = (wanted[:, :, None] == segments[:, None, :]) & (wanted[:, :, None] > 0)
    columns = lax.broadcasted_iota(jnp.int32, own.shape, 2)
    if reverse:
        last = jnp.min(jnp.where(own, columns, S), axis=2, initial=S)
    else:
        last = jnp.max(jnp.where(own, columns, -1), axis=2, initial=-1)
        last = jnp.where(last < 0, S, last)

    def gather(x: Array) -> Array:  # column S holds the zeros
        return jnp.take_along_axis(jnp.pad(x, ((0, 0), (0, 1), (0, 0))), last[:, :, None], axis=1)

    return jax.tree.map(gather, states)


def recur(
    cell: Cell,
    inputs: Float[Array, "B T G"],
    kernel: Float[Array, "D G"],
    starts: Bool[Array, "B T"],
    *,
    precision: Precision,
    first: State | None = None,
    reverse: bool = False,
) -> State:
    """Run a cell over projected inputs `x W + b`; the states of every step, leaves [B, T, D].

    The input projection is one product for all steps, outside the loop; only `h U` is sequential. Wherever `starts` is
    True, the state becomes that of `first` [B, T, D] at this step, or zero.
    """
    zero = zero_state(cell, (inputs.shape[0], kernel.shape[0]), inputs.dtype)
    xs = jax.tree.map(lambda x: x.swapaxes(0, 1), (inputs, starts, first))
    step = functools.partial(_recur_step, cell)
    _, states = scan_products(step, {"recurrent": kernel}, None, zero, xs, precision=precision, reverse=reverse)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), states)


def _recur_step(cell: Cell, product: "Product", constants: None, state: State, x) -> tuple[State, State]:
    inputs, start, first = x
    state = restart(start, jax.tree.map(jnp.zeros_like, state) if first is None else first, state)
    state = advance(cell, inputs, product("recurrent", state.h), state)
    return state, state


Product = Callable[[str, Array], Array]
"""`product(name, x)` is `x @ kernels[name]`."""
Body = Callable[[Product, Any, Any, Any], tuple[Any, Any]]
"""`body(product, constants, carry, x) -> (carry, y)`: a step of a scan. It closes over no array."""


def scan_products(
    body: Body,
    kernels: Mapping[str, Array],
    constants: Any,
    carry: Any,
    xs: Any,
    *,
    precision: Precision,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan`, whose products with `kernels` are differentiated once for all steps, outside the loop.

    Automatic differentiation adds `x_t^T dy_t` to each kernel's gradient at each step and, where rows are split over
    devices, sums it across devices at each step too. Here the loop leaves x and dy of all steps behind, one product
    makes the gradient, and it crosses devices once. `scan_plainly` is the same without this.

    The body uses each kernel once a step.
    """
    return _scan_products(body, precision, reverse, dict(kernels), constants, carry, xs)


def scan_plainly(
    body: Body,
    kernels: Mapping[str, Array],
    constants: Any,
    carry: Any,
    xs: Any,
    *,
    precision: Precision,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """What `scan_products` must compute, by automatic differentiation."""

    def step(carry, x):
        return body(lambda name, operand: project(operand, kernels[name], precision), constants, carry, x)

    return lax.scan(step, carry, xs, reverse=reverse)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan_products(body, precision, reverse, kernels, constants, carry, xs):
    return scan_plainly(body, kernels, constants, carry, xs, precision=precision, reverse=reverse)


def _scan_forward(body, precision, reverse, kernels, constants, carry, xs):
    def run(constants, carry, xs, taps):
        def step(carry, x):
            x, tap = x
            operands = {}

            def product(name, operand):
                assert name not in operands, f"kernel {name} is used twice a step"
                operands[name] = operand
                return _tapped(precision, operand, kernels[name], tap[name])

            carry, y = body(product, constants, carry, x)
            return carry, (y, operands)

        carry, (ys, operands) = lax.scan(step, carry, (xs, taps), reverse=reverse)
        return (carry, ys), operands

    def products(kernels, constants, carry, x):
        results = {}

        def product(name, operand):
            results[name] = project(operand, kernels[name], precision)
            return results[name]

        body(product, constants, carry, x)
        return results

    steps = jax.tree.leaves(xs)[0].shape[0]
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    shapes = jax.eval_shape(products, kernels, constants, carry, x)
    taps = {name: jnp.zeros((steps, *y.shape), y.dtype) for name, y in shapes.items()}
    result, pull, operands = jax.vjp(run, constants, carry, xs, taps, has_aux=True)
    return result, (kernels, operands, pull)


def _scan_backward(body, precision, reverse, residuals, cotangents):
    kernels, operands, pull = residuals
    *others, taps = pull(cotangents)

    def gradient(name):
        # Time and rows stay two dimensions: merged, no layout would say that rows are split over devices.
        return jax.vjp(lambda kernel: project(operands[name], kernel, precision), kernels[name])[1](taps[name])[0]

    return ({name: gradient(name) for name in kernels}, *others)


_scan_products.defvjp(_scan_forward, _scan_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tapped(precision, x, kernel, tap):
    """`x @ kernel`. The kernel counts as constant; `tap`, which is never read, receives the result's cotangent."""
    return project(x, kernel, precision)


def _tapped_forward(precision, x, kernel, tap):
    return project(x, kernel, precision), (x, kernel)


def _tapped_backward(precision, residuals, dy):
    x, kernel = residuals
    (dx,) = jax.vjp(lambda x: project(x, kernel, precision), x)[1](dy)
    return dx, None, dy


_tapped.defvjp(_tapped_forward, _tapped_backward)
