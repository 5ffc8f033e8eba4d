"""The layers every family shares: dense, embedding and projection, normalisation, MLP, dropout."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.ops.dropout import dropout
from s2sjax.ops.linear import Precision, project

xavier = nn.initializers.xavier_uniform()


class Dense(nn.Module):
    """`x W + b` over the last axis: [..., D] -> [..., features], products by `precision`."""

    features: int
    precision: Precision
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = xavier

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        y = project(x, kernel, self.precision)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
        return y


class Embedding(nn.Module):
    """Token vectors: a `[V, D]` float32 table drawn from N(0, 1/D)."""

    vocab_size: int
    features: int

    def setup(self):
        init = nn.initializers.normal(self.features**-0.5)
        self.table = self.param("table", init, (self.vocab_size, self.features), jnp.float32)

    def __call__(self, tokens: Array, dtype: jnp.dtype) -> Array:
        """[...] ids -> [..., D]."""
        return jnp.take(self.table, tokens, axis=0).astype(dtype)

    def projection_kernel(self) -> Array:
        """The table as a tied output projection, [D, V] (Press and Wolf 2017, arXiv:1608.05859)."""
        return self.table.T


class Kernel(nn.Module):
    """A matrix without a layer around it: for projections that losses apply, and for steps inside a scan."""

    shape: tuple[int, int]
    kernel_init: nn.initializers.Initializer = xavier

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", self.kernel_init, self.shape, jnp.float32)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, statistics in float32 (Ba et al. 2016, arXiv:1607.06450)."""

    epsilon: float = 1e-6
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon) * scale
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, in float32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * scale).astype(x.dtype)


class Dropout(nn.Module):
    """`ops.dropout` with a key of the "dropout" stream; the identity unless training."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool, rows: int | None = 0) -> Array:
        """`rows` is the axis of `x` that the rows of the batch lie along; None if it has nothing to do with them."""
        return dropout(x, self.rate, self.make_rng("dropout"), rows=rows) if train and self.rate > 0 else x


class Activation(NamedTuple):
    """What stands between an MLP's two products."""

    function: Callable[[Array], Array]
    gated: bool = False
    """The function is taken of a second product of the input, the gate, and multiplied with the first."""


ACTIVATIONS = {
    "relu": Activation(jax.nn.relu),
    "gelu": Activation(functools.partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": Activation(functools.partial(jax.nn.gelu, approximate=True)),
    "swish": Activation(jax.nn.silu),
    "gated_gelu": Activation(functools.partial(jax.nn.gelu, approximate=True), gated=True),
    "swiglu": Activation(jax.nn.silu, gated=True),
}
"""GELU by the error function or by tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415); the gated ones are those of
Shazeer 2020 (arXiv:2002.05202), the GELU in them by tanh, as in T5 v1.1."""


class MLP(nn.Module):
    """Two products with an activation between them: [..., D] -> [..., hidden] -> [..., D]."""

    hidden: int
    activation: str
    dropout: float
    precision: Precision
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        function, gated = ACTIVATIONS[self.activation]
        h = Dense(self.hidden, self.precision, self.use_bias, name="up")(x)
        h = function(Dense(self.hidden, self.precision, self.use_bias, name="gate")(x)) * h if gated else function(h)
        h = Dropout(self.dropout)(h, train=train)
        return Dense(x.shape[-1], self.precision, self.use_bias, name="down")(h)
