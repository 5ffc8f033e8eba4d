"""Cross-entropy from features, in chunks, so that float32 logits `[B, T, V]` never exist.

`chunked_cross_entropy` is the fast path: it computes a few hundred tokens' logits at a time and forms their
gradient at once, in the forward pass, while they are still in cache. `cross_entropy` is its plain twin, which defines
what it computes; `tests/ops/test_losses.py` holds the two together. `mixture_cross_entropy` is for models that give
distributions instead of logits.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from s2sjax.ops.linear import Precision


@dataclass(frozen=True)
class LossOptions:
    """What a loss adds to cross-entropy, and in which parts it is computed; static.

    Attributes:
        label_smoothing, z_loss: see `token_losses`.
        chunk: tokens whose logits exist at a time on a device; need not divide anything.
        shards: devices that share the rows, of which there must be a multiple.
        time_shards: devices that share a row's positions, of which there must be a multiple.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    chunk: int = 256
    shards: int = 1
    time_shards: int = 1
    precision: Precision = Precision.FLOAT32


PLAIN_LOSS = LossOptions()


class LossSums(NamedTuple):
    """Sums over weighted tokens, float32 scalars; divide by `weight` for means. Only `loss` has a gradient."""

    loss: Array
    """What is minimised: label-smoothed cross-entropy plus z-loss, nats."""
    nll: Array
    """Plain negative log-likelihood, nats: what perplexity is made of."""
    correct: Array
    """Tokens that the model ranks first."""
    weight: Array
    """Sum of weights: the number of target tokens, end-of-sentence counted."""


def split_tokens(x: Shaped[Array, "B T *any"], options: LossOptions) -> Shaped[Array, "parts chunks chunk *any"]:
    """What stands at each token: the devices' parts of the batch, and each one's chunks.

    Padded with zeros, so with tokens of weight 0.
    """
    (B, T), shards, time_shards = x.shape[:2], options.shards, options.time_shards
    assert B % shards == 0, f"{B} rows over {shards} shards"
    assert T % time_shards == 0, f"{T} positions over {time_shards} shards"
    parts = shards * time_shards
    tokens = B * T // parts
    chunk = min(options.chunk, tokens)
    if time_shards > 1:
        x = x.reshape(shards, B // shards, time_shards, T // time_shards, *x.shape[2:]).swapaxes(1, 2)
        x = x.reshape(parts, tokens, *x.shape[4:])
    else:
        x = x.reshape(parts, tokens, *x.shape[2:])
    x = jnp.pad(x, ((0, 0), (0, -tokens % chunk)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(parts, -1, chunk, *x.shape[2:])


def token_losses(
    logits: Float[Array, "*any V"], targets: Int[Array, "*any"], *, label_smoothing: float, z_loss: float
) -> tuple[Float[Array, "*any"], Float[Array, "*any"]]:
    """Loss and negative log-likelihood of each token, nats.

    The smoothed target is `(1 - label_smoothing)` on the reference plus `label_smoothing / V` on every word
    (Szegedy et al. 2016, arXiv:1512.00567, section 7). z-loss adds `z_loss * log(Z)**2`, which keeps the softmax
    normaliser near 1 (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
    """
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    reference = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = log_z - reference
    smoothed = log_z - (1 - label_smoothing) * reference - label_smoothing * jnp.mean(logits, axis=-1)
    return smoothed + z_loss * log_z**2, nll


def cross_entropy(
    features: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    bias: Float[Array, "V"] | None,
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    options: LossOptions = PLAIN_LOSS,
) -> LossSums:
    """The plain form: all logits at once, float32, gradients by autodiff. The reference for `chunked_cross_entropy`.

    Of the options it takes `label_smoothing` and `z_loss`.
    """
    logits = features.astype(jnp.float32) @ kernel.astype(jnp.float32)
    logits = logits if bias is None else logits + bias
    losses, nll = token_losses(logits, targets, label_smoothing=options.label_smoothing, z_loss=options.z_loss)
    correct = jnp.argmax(logits, axis=-1) == targets
    sums = LossSums(*(jnp.sum(weights * value) for value in (losses, nll, correct, jnp.ones_like(nll))))
    return LossSums(sums.loss, *(lax.stop_gradient(value) for value in sums[1:]))


def chunked_cross_entropy(
    features: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    bias: Float[Array, "V"] | None,
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    options: LossOptions = PLAIN_LOSS,
) -> LossSums:
    """`cross_entropy` in chunks of tokens, its gradient formed in the forward pass.

    Peak memory is `chunk * V` floats a shard instead of `B * T * V`. With as many shards as devices, each device loops
    over its own tokens and the gradient of the kernel crosses devices once, at the end.
    """
    split = functools.partial(split_tokens, options=options)
    has_bias = bias is not None
    bias = bias if has_bias else jnp.zeros(kernel.shape[1], jnp.float32)
    config = _ChunkConfig(options.label_smoothing, options.z_loss, options.precision, has_bias)
    return LossSums(*_chunked(split(features), kernel, bias, split(targets), split(weights), config))


def finite_log(p: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Logarithm of probabilities. What is all but impossible costs 85 nats, not infinitely many: float32 ends there."""
    return jnp.log(jnp.maximum(p, 1e-37))


def mixture_cross_entropy(
    features: Float[Array, "B T N"],
    kernel: Float[Array, "N V"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    label_smoothing: float = 0.0,
) -> LossSums:
    """Cross-entropy of mixed distributions, `p = features @ kernel`, float32, the words of one position at a time.

    There is no z-loss: the normaliser of a distribution is 1. Without label smoothing the gradient touches only the
    targets' columns of the kernel.
    """

    def one_position(x):  # [B, N], [B] -> [B], [B]
        features, targets = x
        p = jnp.matmul(features, kernel)
        reference = jnp.take_along_axis(p, targets[:, None], axis=1)[:, 0]
        mean_log = jnp.mean(finite_log(p), axis=1) if label_smoothing else jnp.zeros(len(p))
        return reference >= jnp.max(p, axis=1), mean_log

    # The backward pass computes a position's probabilities again: none are kept.
    positions = (features.swapaxes(0, 1), targets.T)
    correct, mean_log = lax.map(jax.checkpoint(one_position), positions)
    nll = -finite_log(jnp.sum(features * jnp.take(kernel.T, targets, axis=0), axis=-1))
    losses = (1 - label_smoothing) * nll - label_smoothing * mean_log.T
    sums = LossSums(*(jnp.sum(weights * value) for value in (losses, nll, correct.T, jnp.ones_like(nll))))
    return LossSums(sums.loss, *(lax.stop_gradient(value) for value in sums[1:]))


class _ChunkConfig(NamedTuple):
    label_smoothing: float
    z_loss: float
    precision: Precision
    has_bias: bool


def _product(a: Array, b: Array, contract: tuple[int, int], precision: Precision) -> Array:
    """Contract one axis of `a` with one of `b`; operands by policy, result always float32."""
    if precision != Precision.FLOAT32:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _chunked(features, kernel, bias, targets, weights, config):
    def one_shard(features, targets, weights):
        def body(sums, chunk):
            x, y, w = chunk
            logits = _product(x, kernel, (1, 0), config.precision) + bias
            losses, nll = token_losses(logits, y, label_smoothing=config.label_smoothing, z_loss=config.z_loss)
            correct = jnp.argmax(logits, axis=-1) == y
            return sums + jnp.stack([jnp.sum(w * v) for v in (losses, nll, correct, jnp.ones_like(nll))]), None

        return lax.scan(body, jnp.zeros(4), (features, targets, weights))[0]

    return tuple(jnp.sum(jax.vmap(one_shard)(features, targets, weights), axis=0))


def _chunked_forward(features, kernel, bias, targets, weights, config):
    label_smoothing, z_loss, precision, has_bias = config
    V = kernel.shape[1]

    def one_shard(features, targets, weights):
        def body(carry, chunk):
            sums, dkernel, dbias = carry
            x, y, w = chunk
            logits = _product(x, kernel, (1, 0), precision) + bias
            peak = jnp.max(logits, axis=-1, keepdims=True)
            exponentials = jnp.exp(logits - peak)
            z = jnp.sum(exponentials, axis=-1, keepdims=True)
            log_z = (peak + jnp.log(z))[:, 0]
            reference = jnp.take_along_axis(logits, y[:, None], axis=-1)[:, 0]
            nll = log_z - reference
            losses = log_z - (1 - label_smoothing) * reference + z_loss * log_z**2
            if label_smoothing:
                losses -= label_smoothing * jnp.mean(logits, axis=-1)
            # "The reference ranks first", without an argmax over the vocabulary.
            sums += jnp.stack([jnp.sum(w * v) for v in (losses, nll, reference >= peak[:, 0], jnp.ones_like(nll))])
            # d loss / d logits = w ((1 + 2 z_loss log Z) softmax - smoothed target)
            scale = (w * (1 + 2 * z_loss * log_z))[:, None] / z
            dlogits = exponentials * scale - (w * (label_smoothing / V))[:, None]
            dlogits -= (
                jnp.where(lax.broadcasted_iota(y.dtype, dlogits.shape, 1) == y[:, None], (1 - label_smoothing), 0.0)
                * w[:, None]
            )
            dx = _product(dlogits, kernel, (1, 1), precision)
            dkernel += _product(x, dlogits, (0, 0), precision)
            dbias = dbias + jnp.sum(dlogits, axis=0) if has_bias else dbias
            return (sums, dkernel, dbias), dx.astype(features.dtype)

        start = (jnp.zeros(4), jnp.zeros(kernel.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32))
        return lax.scan(body, start, (features, targets, weights))

    (sums, dkernel, dbias), dfeatures = jax.vmap(one_shard)(features, targets, weights)
    sums, dkernel, dbias = (jnp.sum(x, axis=0) for x in (sums, dkernel, dbias))
    return tuple(sums), (dfeatures, dkernel, dbias)


def _chunked_backward(config, residuals, cotangents):
    dloss = cotangents[0]
    dfeatures, dkernel, dbias = (dloss.astype(r.dtype) * r for r in residuals)
    return dfeatures, dkernel, dbias if config.has_bias else jnp.zeros_like(dbias), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
