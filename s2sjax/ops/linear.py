"""Matrix products under a precision policy.

Parameters are float32 always. What a policy chooses is the type of the operands and of the result:

    float32             operands and results float32: exact, the default
    bfloat16            operands and results bfloat16: half the memory of activations; for GPUs and TPUs
    bfloat16_products   operands rounded to bfloat16, results and sums float32: for CPUs, where bfloat16
                        element-wise code is slow and bfloat16 products are fast, but only with float32 results
"""

import enum

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


class Precision(enum.StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    BFLOAT16_PRODUCTS = "bfloat16_products"

    @property
    def activations(self) -> jnp.dtype:
        """The type activations are kept in."""
        return jnp.dtype(jnp.bfloat16) if self == Precision.BFLOAT16 else jnp.dtype(jnp.float32)


def project(x: Float[Array, "*any D"], kernel: Float[Array, "D F"], precision: Precision) -> Float[Array, "*any F"]:
    """`x @ kernel`, the result in `precision.activations`."""
    if precision == Precision.BFLOAT16_PRODUCTS:
        return _bfloat16_products(x, kernel)
    dtype = precision.activations
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype))


@jax.custom_vjp
def _bfloat16_products(x: Array, kernel: Array) -> Array:
    return _bfloat16_products_forward(x, kernel)[0]


# A custom rule, because the automatic one would multiply a float32 cotangent with a bfloat16 operand, which no
# fast path of XLA's CPU backend accepts. Both backward products round the cotangent to bfloat16 instead.
def _bfloat16_products_forward(x, kernel):
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    y = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return y, (x, kernel)


def _bfloat16_products_backward(residuals, dy):
    x, kernel = residuals
    dy = dy.astype(jnp.bfloat16)
    last, rows = x.ndim - 1, tuple(range(x.ndim - 1))
    dx = lax.dot_general(dy, kernel, (((last,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    dkernel = lax.dot_general(x, dy, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    return dx, dkernel


_bfloat16_products.defvjp(_bfloat16_products_forward, _bfloat16_products_backward)
