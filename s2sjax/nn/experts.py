"""The mixture-of-experts MLP."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.nn.layers import ACTIVATIONS, Dropout
from s2sjax.ops.experts import dropless, route, with_capacity
from s2sjax.ops.linear import Precision


class Experts(nn.Module):
    """`experts` MLPs without biases, of which each token meets `per_token` (Shazeer et al. 2017, arXiv:1701.06538).

    With `routing` "dropless" every token meets all the experts it chose. With "capacity" an expert takes, in training,
    at most `capacity_factor * per_token / experts` of the tokens of a batch and drops the rest, so that its work has a
    fixed size: what a token becomes in training then depends on the batch it stands in. Evaluating and decoding never
    drop, so that what is decoded does not depend on the batch. The balance loss is one of the batch in any case.

    The router is float32 whatever the precision, and with `bfloat16_products` so are the experts. Padding is not routed
    and not counted. On CPU `lax.ragged_dot` takes every row to every expert and zeros what does not belong there: as
    exact, and as slow as `experts` MLPs.
    """

    hidden: int
    activation: str
    dropout: float
    precision: Precision
    experts: int
    per_token: int
    routing: str
    capacity_factor: float

    @nn.compact
    def __call__(self, x: Array, filled: Array, *, train: bool) -> tuple[Array, Array]:
        """`x` [B, T, D], of which only `filled` [B, T] are tokens, to [B, T, D] and the balance loss, a scalar."""
        B, T, D = x.shape
        E, F = self.experts, self.hidden
        function, gated = ACTIVATIONS[self.activation]
        router = self.param("router", nn.initializers.normal(D**-0.5), (D, E), jnp.float32)
        init = nn.initializers.variance_scaling(1, "fan_avg", "uniform", in_axis=-2, out_axis=-1, batch_axis=(0,))
        up = self.param("up_kernels", init, (E, D, F), jnp.float32)
        gate = self.param("gate_kernels", init, (E, D, F), jnp.float32) if gated else None
        down = self.param("down_kernels", init, (E, F, D), jnp.float32)
        drop = Dropout(self.dropout)
        tokens = x.reshape(B * T, D)
        logits = jnp.matmul(tokens.astype(jnp.float32), router, precision=lax.Precision.HIGHEST)
        routing = route(logits, filled.reshape(-1), k=self.per_token)

        def mlp(rows: Array, product) -> Array:
            h = product(rows, up)
            h = function(h) if gate is None else function(product(rows, gate)) * h
            return product(drop(h, train=train), down)

        def grouped(rows: Array, sizes: Array) -> Array:
            return mlp(rows, lambda a, kernels: lax.ragged_dot(a, kernels.astype(a.dtype), sizes))

        def batched(rows: Array) -> Array:
            return mlp(rows, lambda a, kernels: jnp.einsum("ecd,edf->ecf", a, kernels.astype(a.dtype)))

        if self.routing == "capacity" and train:
            capacity = max(1, math.ceil(self.capacity_factor * self.per_token * B * T / E))
            y = with_capacity(tokens, routing, batched, count=E, capacity=capacity)
        else:
            y = dropless(tokens, routing, grouped, count=E)
        return y.reshape(B, T, D), routing.balance
