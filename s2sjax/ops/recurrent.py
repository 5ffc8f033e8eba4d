"""The LSTM over a sequence, with the state reset where a new segment begins."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from s2sjax.ops.linear import Precision, project


class LSTMState(NamedTuple):
    """Output `h` and cell `c`, both [..., D]; the cell is float32 whatever the precision, since it accumulates."""

    h: Array
    c: Array


def lstm_cell(gates: Float[Array, "*any G"], c: Float[Array, "*any D"]) -> LSTMState:
    """One LSTM step from its summed pre-activations `[..., 4D]`, in the order input, forget, cell, output.

    Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; a constant 1 is added to the forget
    gate (Jozefowicz et al. 2015), so that a fresh cell remembers.
    """
    i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
    c = jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMState(h.astype(gates.dtype), c)


def segment_starts(segments: Int[Array, "B T"], *, reverse: bool = False) -> Bool[Array, "B T"]:
    """True where a segment begins, in reading order: from the left, or from the right with `reverse`."""
    before = jnp.roll(segments, -1 if reverse else 1, axis=1).at[:, -1 if reverse else 0].set(-1)
    return segments != before


def lstm(
    inputs: Float[Array, "B T G"],
    recurrent_kernel: Float[Array, "D G"],
    starts: Bool[Array, "B T"],
    *,
    precision: Precision,
    reverse: bool = False,
) -> Float[Array, "B T D"]:
    """Run an LSTM over projected inputs `x W + b` [B, T, 4D]; the state is zero wherever `starts` is True.

    The input projection is one product for all steps, outside the loop; only `h U` is sequential.
    """
    B, _, _ = inputs.shape
    D = recurrent_kernel.shape[0]

    def step(state: LSTMState, x):
        gates, start = x
        h = jnp.where(start[:, None], 0, state.h)
        c = jnp.where(start[:, None], 0, state.c)
        state = lstm_cell(gates + project(h, recurrent_kernel, precision), c)
        return state, state.h

    zero = LSTMState(jnp.zeros((B, D), inputs.dtype), jnp.zeros((B, D), jnp.float32))
    _, outputs = lax.scan(step, zero, (inputs.swapaxes(0, 1), starts.swapaxes(0, 1)), reverse=reverse)
    return outputs.swapaxes(0, 1)
