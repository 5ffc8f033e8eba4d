"""What Griffin reads a sequence with: a short convolution and the RG-LRU, a gated linear recurrence (De et al. 2024,
arXiv:2402.19427, sections 2.3 and 2.4, appendix A).

Rows may hold several segments: each is read from its own beginning, as if nothing stood before it. Letters: R channels,
W width of the convolution; the others are those of `api`.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

SHARPNESS = 8.0
"""The paper's c: a channel whose gate is open keeps `a ** c` of its state, and all of it when the gate is shut."""


def causal_convolution(
    x: Float[Array, "B T R"], kernel: Float[Array, "W R"], bias: Float[Array, "R"], segments: Int[Array, "B T"]
) -> Float[Array, "B T R"]:
    """Each channel by itself: `y_t = bias + sum_w kernel[w] x_{t - w}`, as far back as the segment goes."""
    T = x.shape[1]
    y = x * kernel[0].astype(x.dtype) + bias.astype(x.dtype)
    for w in range(1, kernel.shape[0]):
        before = jnp.pad(x, ((0, 0), (w, 0), (0, 0)))[:, :T]
        same = segments == jnp.pad(segments, ((0, 0), (w, 0)), constant_values=-1)[:, :T]
        y = y + jnp.where(same[..., None], before * kernel[w].astype(x.dtype), 0)
    return y


def convolution_step(
    x: Float[Array, "*any R"], tail: Float[Array, "*any V R"], kernel: Float[Array, "W R"], bias: Float[Array, "R"]
) -> tuple[Float[Array, "*any R"], Float[Array, "*any V R"]]:
    """One step of `causal_convolution`. The tail is the `W - 1` inputs before, the latest last; so is the new one."""
    window = jnp.concatenate([tail, x[..., None, :]], axis=-2)
    y = jnp.einsum("...wr,wr->...r", window, kernel[::-1].astype(x.dtype)) + bias.astype(x.dtype)
    return y, window[..., 1:, :]


def rg_lru(
    x: Float[Array, "B T R"],
    recurrence: Float[Array, "B T R"],
    input_gate: Float[Array, "B T R"],
    decay: Float[Array, "R"],
    starts: Bool[Array, "B T"],
) -> Float[Array, "B T R"]:
    """The real-gated linear recurrent unit, its states h in float32, all steps at once by an associative scan.

    With r and i the sigmoids of `recurrence` and `input_gate`,

        a_t = exp(-c softplus(decay) r_t)        h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t)

    where h_{t-1} is zero wherever `starts` is True. `decay` is minus the paper's Lambda: a = sigmoid(-decay).
    """
    a, b = _coefficients(x, recurrence, input_gate, decay)
    return _linear_scan(jnp.where(starts[..., None], 0.0, a), b)


def rg_lru_step(
    x: Float[Array, "*any R"],
    recurrence: Float[Array, "*any R"],
    input_gate: Float[Array, "*any R"],
    decay: Float[Array, "R"],
    state: Float[Array, "*any R"],
) -> Float[Array, "*any R"]:
    """One step of `rg_lru`: the new state."""
    a, b = _coefficients(x, recurrence, input_gate, decay)
    return a * state + b


def _coefficients(x: Array, recurrence: Array, input_gate: Array, decay: Array) -> tuple[Array, Array]:
    """What the state is multiplied with, and what is added to it, float32."""
    x, recurrence, input_gate = (y.astype(jnp.float32) for y in (x, recurrence, input_gate))
    log_a = -SHARPNESS * jax.nn.softplus(decay) * jax.nn.sigmoid(recurrence)
    # 1 - a^2 without cancellation, and away from 0, where the root has no derivative.
    scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-6))
    return jnp.exp(log_a), scale * jax.nn.sigmoid(input_gate) * x


@jax.custom_vjp
def _linear_scan(a: Array, b: Array) -> Array:
    """`h_t = a_t h_{t-1} + b_t` over axis 1, from h = 0."""

    def combine(left, right):  # apply `left`, then `right`
        return left[0] * right[0], right[0] * left[1] + right[1]

    return lax.associative_scan(combine, (a, b), axis=1)[1]


def _linear_scan_forward(a: Array, b: Array):
    h = _linear_scan(a, b)
    return h, (a, h)


def _linear_scan_backward(residuals, dh):
    # The gradient is the same recurrence, read from the right: g_t = dh_t + a_{t+1} g_{t+1}.
    a, h = residuals
    following = jnp.pad(a, ((0, 0), (0, 1), (0, 0)))[:, 1:]
    g = _linear_scan(following[:, ::-1], dh[:, ::-1])[:, ::-1]
    return g * jnp.pad(h, ((0, 0), (1, 0), (0, 0)))[:, :-1], g


_linear_scan.defvjp(_linear_scan_forward, _linear_scan_backward)
