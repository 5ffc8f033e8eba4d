"""Copying from the source: the distribution of a pointer-generator network, its loss, and the loss of coverage.

A pointer-generator network (See et al. 2017, arXiv:1704.04368, section 2.2) generates a word with probability p_gen,
and else copies what stands at a position of the source that its attention chooses (equation 9):

    P(w) = p_gen * softmax(logits)[w] + (1 - p_gen) * sum of the attention at the positions that hold w

Everything here is in logarithms and float32. `copying_cross_entropy` is the plain form of the loss; the fast one,
`chunked_copying_cross_entropy`, never makes float32 logits `[B, T, V]`, nor copied probabilities of that shape.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from s2sjax.api import Copying, Output
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.losses import PLAIN_LOSS, LossOptions, LossSums, split_tokens

# Below, an attention counts as 0: a gradient divides by it, and float32 ends there.
_LEAST = 1e-37
_IMPOSSIBLE = -1e30  # finite, so that gradients are


def copied_masses(attention: Float[Array, "B T S"], tokens: Int[Array, "B S"]) -> Float[Array, "B T S"]:
    """The attention that each word of the source gets in all, at the word's first position; 0 at its others.

    tokens a b a, attention .2 .3 .5 -> .7 .3 .0
    """
    S = tokens.shape[1]
    same = tokens[:, :, None] == tokens[:, None, :]
    first = ~jnp.any(same & jnp.triu(jnp.ones((S, S), bool), 1), axis=1)
    first_position = (same & first[:, None, :]).astype(jnp.float32)
    # HIGHEST: on accelerators float32 products are rounded otherwise.
    return jnp.einsum("bts,bsr->btr", attention.astype(jnp.float32), first_position, precision=lax.Precision.HIGHEST)


def mix(logits: Float[Array, "B *any V"], copying: Copying) -> Float[Array, "B *any V"]:
    """Log-probabilities of every word, float32, from logits and what is copied."""
    V = logits.shape[-1]

    def of_row(masses: Array, tokens: Array) -> Array:  # [*any, S], [S] -> [*any, V]
        # Positions that hold the same word add zeros to its first one's mass, so their order does not matter.
        return jnp.zeros((*masses.shape[:-1], V), jnp.float32).at[..., tokens].add(masses)

    copied = jax.vmap(of_row)(copying.masses, copying.tokens)
    generated = jax.nn.log_softmax(logits.astype(jnp.float32))
    return _mixed(generated, copying.gate[..., None], copied)


def _mixed(generated: Array, gate: Array, mass: Array) -> Array:
    """`log(p_gen * exp(generated) + (1 - p_gen) * mass)`, where `gate` is the log-odds of p_gen."""
    possible = mass > _LEAST
    copied = jax.nn.log_sigmoid(-gate) + jnp.log(jnp.where(possible, mass, 1.0))
    return jnp.logaddexp(jax.nn.log_sigmoid(gate) + generated, jnp.where(possible, copied, _IMPOSSIBLE))


def copying_cross_entropy(
    output: Output, targets: Int[Array, "B T"], weights: Float[Array, "B T"], options: LossOptions = PLAIN_LOSS
) -> LossSums:
    """The plain form: all probabilities at once, gradients by autodiff. It defines the fast one.

    Of the options it takes `label_smoothing` and `z_loss`. Targets are smoothed over the mixture, not over what is
    generated: the loss is the cross-entropy of P and of `(1 - label_smoothing)` on the reference with
    `label_smoothing / V` on every word, as without copying. z-loss keeps the normaliser of the generated words' softmax
    near 1, the only one there is.
    """
    assert output.copying is not None
    logits = output.features.astype(jnp.float32) @ output.kernel.astype(jnp.float32)
    logits = logits if output.bias is None else logits + output.bias
    log_probs = mix(logits, output.copying)
    nll = -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    losses = (1 - options.label_smoothing) * nll - options.label_smoothing * jnp.mean(log_probs, axis=-1)
    losses += options.z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    correct = jnp.argmax(log_probs, axis=-1) == targets
    sums = LossSums(*(jnp.sum(weights * value) for value in (losses, nll, correct, jnp.ones_like(nll))))
    return LossSums(sums.loss, *(lax.stop_gradient(value) for value in sums[1:]))


def chunked_copying_cross_entropy(
    output: Output, targets: Int[Array, "B T"], weights: Float[Array, "B T"], options: LossOptions = PLAIN_LOSS
) -> LossSums:
    """`copying_cross_entropy` as `ops.losses.chunked_cross_entropy` computes its own: in chunks of tokens, the gradient
    of each formed in the forward pass."""
    assert output.copying is not None
    gate, masses, tokens = output.copying
    split = functools.partial(split_tokens, options=options)
    tokens = jnp.broadcast_to(tokens[:, None], masses.shape)
    bias = jnp.zeros(output.kernel.shape[1], jnp.float32) if output.bias is None else output.bias
    learned = (split(output.features), split(gate), split(masses))
    given = (split(tokens), split(targets), split(weights))
    return LossSums(*_chunked(output.kernel, bias, learned, given, options))


def coverage_loss(attention: Float[Array, "B T S"], weights: Float[Array, "B T"]) -> Float[Array, ""]:
    """Sum over target tokens of the attention that goes where attention has been (See et al. 2017, equation 12).

    `sum over i of min(a_i, c_i)` for each token, in which the coverage c is the sum of the attention of the tokens
    before it. Packed sentences attend to their own source only, so they cover nothing of each other's.
    """
    covered = jnp.cumsum(attention, axis=1) - attention
    return jnp.sum(weights * jnp.sum(jnp.minimum(attention, covered), axis=-1))


def _chunk_sums(kernel: Array, bias: Array, learned, given, options: LossOptions) -> tuple[Array, Array]:
    """The loss of the tokens of a chunk, and the four sums of `LossSums`."""
    (x, gate, masses), (tokens, targets, weights) = learned, given
    label_smoothing, z_loss = options.label_smoothing, options.z_loss
    products = Precision.FLOAT32 if options.precision == Precision.FLOAT32 else Precision.BFLOAT16_PRODUCTS
    logits = project(x.astype(jnp.float32), kernel, products) + bias
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_gate = jax.nn.log_sigmoid(gate)

    # Only the words that stand in the source have more than what is generated: [chunk, S] in place of [chunk, V].
    at_source = jnp.take_along_axis(logits, tokens, axis=-1) - log_z[:, None]
    at_source_mixed = _mixed(at_source, gate[:, None], masses)
    is_target = tokens == targets[:, None]
    reference = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - log_z
    nll = -_mixed(reference, gate, jnp.sum(jnp.where(is_target, masses, 0.0), axis=-1))

    losses = (1 - label_smoothing) * nll + z_loss * log_z**2
    if label_smoothing:
        more = jnp.sum(at_source_mixed - (log_gate[:, None] + at_source), axis=-1)
        losses -= label_smoothing * (log_gate + jnp.mean(logits, axis=-1) - log_z + more / logits.shape[-1])
    generated = log_gate + (jnp.max(logits, axis=-1) - log_z)
    others = jnp.max(jnp.where(is_target, -jnp.inf, at_source_mixed), axis=-1, initial=-jnp.inf)
    correct = -nll >= jnp.maximum(generated, others)
    values = (losses, nll, correct, jnp.ones_like(nll))
    sums = jnp.stack([jnp.sum(weights * value) for value in values])
    return sums[0], sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(kernel, bias, learned, given, options):
    def one_shard(learned, given):
        def body(sums, chunk):
            own, given = chunk
            return sums + _chunk_sums(kernel, bias, own, given, options)[1], None

        return lax.scan(body, jnp.zeros(4), (learned, given))[0]

    return tuple(jnp.sum(jax.vmap(one_shard)(learned, given), axis=0))


def _chunked_forward(kernel, bias, learned, given, options):
    def one_shard(learned, given):
        def body(carry, chunk):
            own, given = chunk
            differentiated = jax.value_and_grad(_chunk_sums, argnums=(0, 1, 2), has_aux=True)
            (_, made), (*of_projection, grads) = differentiated(kernel, bias, own, given, options)
            return jax.tree.map(jnp.add, carry, (made, *of_projection)), grads

        start = (jnp.zeros(4), jnp.zeros(kernel.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32))
        return lax.scan(body, start, (learned, given))

    (sums, dkernel, dbias), dlearned = jax.vmap(one_shard)(learned, given)
    sums, dkernel, dbias = (jnp.sum(x, axis=0) for x in (sums, dkernel, dbias))
    return tuple(sums), (dkernel, dbias, dlearned)


def _chunked_backward(options, residuals, cotangents):
    dloss = cotangents[0]
    return *jax.tree.map(lambda r: dloss.astype(r.dtype) * r, residuals), None


_chunked.defvjp(_chunked_forward, _chunked_backward)
