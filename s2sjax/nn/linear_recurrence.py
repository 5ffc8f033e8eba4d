"""Griffin's recurrent block: the parameters of a convolution and an RG-LRU, run over rows or one step at a time."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.nn.layers import Dense
from s2sjax.ops.linear import Precision
from s2sjax.ops.linear_recurrence import SHARPNESS, causal_convolution, convolution_step, rg_lru, rg_lru_step
from s2sjax.ops.prompt import ending
from s2sjax.ops.recurrent import segment_starts

CONVOLUTION = 4
"""Inputs that the convolution sees, its own included."""


class RecurrentState(NamedTuple):
    """What a recurrent block keeps of the past: `[B, R]` and `[B, 3, R]` after a prompt, `[B, K, ...]` in a cache."""

    state: Array
    """The RG-LRU's, float32."""
    tail: Array
    """The last inputs of the convolution, the latest last."""


class Recurrence(nn.Module):
    """The recurrent block (De et al. 2024, arXiv:2402.19427, section 2.3).

    Of two branches, one goes through convolution and RG-LRU, the other through a GELU; their product is projected back.
    """

    width: int
    channels: int
    blocks: int
    """Of the gates' kernels, along their diagonal."""
    precision: Precision

    def setup(self):
        R = self.channels
        self.input, self.gate = (Dense(R, self.precision, use_bias=False) for _ in range(2))
        self.output = Dense(self.width, self.precision, use_bias=False)
        self.recurrence_gate, self.input_gate = BlockDiagonal(self.blocks), BlockDiagonal(self.blocks)
        init = nn.initializers.normal(CONVOLUTION**-0.5)
        self.convolution = self.param("convolution", init, (CONVOLUTION, R), jnp.float32)
        self.convolution_bias = self.param("convolution_bias", nn.initializers.zeros, (R,), jnp.float32)
        self.decay = self.param("decay", slow_decay, (R,), jnp.float32)

    def __call__(self, x: Array, segments: Array) -> Array:
        """Read rows `x` [B, T, D]."""
        return self._output(x, self._states(self.input(x), segments))

    def _states(self, u: Array, segments: Array) -> Array:
        u = causal_convolution(u, self.convolution, self.convolution_bias, segments)
        return rg_lru(u, self.recurrence_gate(u), self.input_gate(u), self.decay, segment_starts(segments))

    def _output(self, x: Array, states: Array) -> Array:
        gate = jax.nn.gelu(self.gate(x), approximate=True)
        return self.output(gate * states.astype(gate.dtype))

    def read(self, x: Array, segments: Array) -> tuple[Array, RecurrentState]:
        """Read one prompt a row; also what is kept of it."""
        u, lengths = self.input(x), jnp.sum(segments > 0, axis=1)
        states = self._states(u, segments)
        end = RecurrentState(ending(states, lengths, 1)[:, 0], ending(u, lengths, CONVOLUTION - 1))
        return self._output(x, states), end

    def step(self, x: Array, past: RecurrentState) -> tuple[Array, RecurrentState]:
        """One step of K hypotheses, `x` [B, K, D]."""
        u, tail = convolution_step(self.input(x), past.tail, self.convolution, self.convolution_bias)
        state = rg_lru_step(u, self.recurrence_gate(u), self.input_gate(u), self.decay, past.state)
        return self._output(x, state), RecurrentState(state, tail)


class BlockDiagonal(nn.Module):
    """`x W + b` with a `W` of `blocks` square blocks along its diagonal, zeros elsewhere (De et al., section 4.1).

    The parameter has the blocks one below the other, [R, R / blocks]: a mesh axis that divides R splits it.
    """

    blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        R, size = x.shape[-1], x.shape[-1] // self.blocks
        blocks = (self.blocks, size, size)

        def init(key: Array, shape: tuple[int, int], dtype: jnp.dtype) -> Array:
            return nn.initializers.lecun_normal(batch_axis=(0,))(key, blocks, dtype).reshape(shape)

        kernel = self.param("kernel", init, (R, size), jnp.float32).astype(x.dtype).reshape(blocks)
        bias = self.param("bias", nn.initializers.zeros, (R,), jnp.float32).astype(x.dtype)
        y = jnp.einsum("...hi,hij->...hj", x.reshape(*x.shape[:-1], self.blocks, size), kernel)
        return y.reshape(x.shape) + bias


def slow_decay(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Decays whose `a ** c` is uniform in 0.9 .. 0.999 (De et al., section 2.4)."""
    kept = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
    return jnp.log(jnp.expm1(-jnp.log(kept) / SHARPNESS))
