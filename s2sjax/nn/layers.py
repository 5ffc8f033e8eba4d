"""The layers every family shares: dense, embedding, normalisation, dropout."""

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


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, statistics in float32 (Ba et al. 2016, arXiv:1607.06450)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * scale + bias).astype(x.dtype)


class Dropout(nn.Module):
    """`ops.dropout` with a key of the "dropout" stream; the identity unless training."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        return dropout(x, self.rate, self.make_rng("dropout")) if train and self.rate > 0 else x
