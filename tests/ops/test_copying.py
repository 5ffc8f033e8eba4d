"""Copying against its definition in float64, and the chunked loss against the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.api import Copying, Output
from s2sjax.ops.copying import (
    chunked_copying_cross_entropy,
    copied_masses,
    copying_cross_entropy,
    coverage_loss,
    mix,
)
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions
from tests import loops
from tests.tolerance import assert_close

B, T, S, D, V = 4, 6, 5, 8, 11
RNG = np.random.default_rng(0)
LEARNED = tuple(
    jnp.asarray(scale * RNG.normal(size=shape), jnp.float32)
    for scale, shape in ((1, (B, T, D)), (1, (D, V)), (1, (V,)), (1, (B, T)), (2, (B, T, S)))
)
"""Features, kernel, bias, gate, and scores of the attention."""
TOKENS = jnp.asarray(RNG.integers(0, 6, (B, S)), jnp.int32)
TARGETS = jnp.asarray(RNG.integers(0, V, (B, T)), jnp.int32)
WEIGHTS = jnp.asarray(RNG.integers(0, 2, (B, T)), jnp.float32)
TARGETS64, WEIGHTS64 = np.asarray(TARGETS), np.asarray(WEIGHTS, np.float64)
SMOOTH = {"label_smoothing": 0.1, "z_loss": 0.01}


def masked(scores):
    """Attention that never looks at the first position, which holds words of other sentences."""
    return jax.nn.softmax(scores.at[..., 0].set(-jnp.inf))


def sums(loss, **options):
    """Of a loss of what is learned."""

    def of(learned):
        features, kernel, bias, gate, scores = learned
        copying = Copying(gate, copied_masses(masked(scores), TOKENS), TOKENS)
        made = loss(Output(features, kernel, bias, copying=copying), TARGETS, WEIGHTS, LossOptions(**options))
        return made.loss, made

    return of


@functools.lru_cache
def differentiated(loss, **options):
    """`sums` and their gradient, compiled once."""
    return jax.jit(jax.value_and_grad(sums(loss, **options), has_aux=True))


def distributions(learned):
    """Of every word at each position [B, T, V] float64 by equation 9 of See et al., one position at a time; and the
    softmaxes' normalisers [B, T]."""
    features, kernel, bias, gate, scores = (np.asarray(x, np.float64) for x in learned)
    mixed, log_z = np.zeros((B, T, V)), np.zeros((B, T))
    for b, t in np.ndindex(B, T):
        logits = features[b, t] @ kernel + bias
        generation = loops.sigmoid(gate[b, t])
        mixed[b, t] = generation * loops.softmax(logits)
        log_z[b, t] = np.log(np.sum(np.exp(logits)))
        for s, weight in enumerate(loops.softmax(scores[b, t, 1:]), 1):
            mixed[b, t, TOKENS[b, s]] += (1 - generation) * weight
    return mixed, log_z


def defined_loss(learned, *, label_smoothing, z_loss):
    mixed, log_z = distributions(learned)
    smoothed = label_smoothing / V + (1 - label_smoothing) * np.eye(V)[TARGETS64]
    return np.sum(WEIGHTS64 * (-np.sum(smoothed * np.log(mixed), axis=-1) + z_loss * log_z**2))


def test_the_first_position_of_a_word_has_the_attention_of_all():
    masses = copied_masses(jnp.array([[[0.25, 0.375, 0.375]]]), jnp.array([[7, 5, 7]]))
    np.testing.assert_array_equal(masses, [[[0.625, 0.375, 0.0]]])


def test_the_mixture_is_the_papers_distribution():
    features, kernel, bias, gate, scores = LEARNED
    copying = Copying(gate, copied_masses(masked(scores), TOKENS), TOKENS)
    log_probs = mix(features @ kernel + bias, copying)
    expected = distributions(LEARNED)[0]
    np.testing.assert_allclose(expected.sum(axis=-1), 1, rtol=1e-12)
    assert_close(jnp.exp(log_probs), expected, roundings=50)
    one = mix((features @ kernel + bias)[:, 2], copying._replace(gate=gate[:, 2], masses=copying.masses[:, 2]))
    assert_close(one, log_probs[:, 2], roundings=4)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.0, "z_loss": 0.0}, SMOOTH], ids=["plain", "smoothed"])
def test_the_loss_and_its_gradient_are_those_of_the_definition(options):
    (loss, made), gradients = differentiated(copying_cross_entropy, **options)(LEARNED)
    assert_close(loss, defined_loss(LEARNED, **options), roundings=50)
    mixed, _ = distributions(LEARNED)
    assert_close(made.nll, defined_loss(LEARNED, label_smoothing=0.0, z_loss=0.0), roundings=50)
    assert float(made.correct) == np.sum(WEIGHTS64 * (mixed.argmax(axis=-1) == TARGETS64))
    for n, gradient in enumerate(gradients):  # along a random direction, by central differences in float64
        direction = np.random.default_rng(n).normal(size=gradient.shape)
        exact = [np.asarray(x, np.float64) for x in LEARNED]
        ends = [
            defined_loss([x + h * direction if i == n else x for i, x in enumerate(exact)], **options)
            for h in (1e-5, -1e-5)
        ]
        np.testing.assert_allclose(np.sum(gradient * direction), (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, SMOOTH], ids=["plain", "smoothed"])
@pytest.mark.parametrize("parts", [{"chunk": 7}, {"chunk": 4, "shards": 2, "time_shards": 3}], ids=str)
def test_chunks_compute_the_same(options, parts):
    (loss, made), expected = differentiated(copying_cross_entropy, **options)(LEARNED)
    chunked = sums(chunked_copying_cross_entropy, **options, **parts)

    @jax.jit
    def thrice(x):
        return jax.value_and_grad(lambda x: (3 * chunked(x)[0], chunked(x)[1]), has_aux=True)(x)

    (found, others), gradients = thrice(LEARNED)
    assert_close(found, 3 * loss, roundings=50)
    assert_close(jnp.stack(others), jnp.stack(made), roundings=50)
    alone = jax.jit(chunked)(LEARNED)[1]  # as it is computed without gradients
    assert_close(jnp.stack(alone), jnp.stack(made), roundings=50)
    for a, b in zip(gradients, expected, strict=True):
        assert_close(a, 3 * b, roundings=100)


def test_without_a_bias_nothing_is_added():
    features, kernel, _, gate, scores = LEARNED
    copying = Copying(gate, copied_masses(masked(scores), TOKENS), TOKENS)
    a, b = (
        loss(Output(features, kernel, copying=copying), TARGETS, WEIGHTS)
        for loss in (copying_cross_entropy, chunked_copying_cross_entropy)
    )
    assert_close(jnp.stack(a), jnp.stack(b), roundings=50)


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.BFLOAT16_PRODUCTS])
def test_bfloat16_is_of_products_only(precision):
    dtype = precision.activations
    learned = (LEARNED[0].astype(dtype), *LEARNED[1:])
    (loss, _), gradients = differentiated(chunked_copying_cross_entropy, precision=precision, chunk=5)(learned)
    (exact, _), _ = differentiated(copying_cross_entropy)(LEARNED)
    assert float(loss) == pytest.approx(float(exact), rel=1e-2) and float(loss) != float(exact)
    assert gradients[0].dtype == dtype and all(g.dtype == jnp.float32 for g in gradients[1:])


EXTREMES = {
    "generation is certain": (0, 200.0),
    "copying is certain": (0, -200.0),
    "attention is at one position": (300.0, 0.0),
    "both": (300.0, -200.0),
}


@pytest.mark.parametrize("loss", [copying_cross_entropy, chunked_copying_cross_entropy])
@pytest.mark.parametrize("sharper, gate", EXTREMES.values(), ids=EXTREMES)
def test_what_is_all_but_impossible_costs_a_finite_loss_with_a_finite_gradient(loss, sharper, gate):
    features, kernel, bias, gates, scores = LEARNED
    learned = (50 * features, kernel, bias, gates + gate, scores * (1 + sharper))
    (value, _), gradients = differentiated(loss, **SMOOTH)(learned)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_a_word_that_is_impossible_to_generate_costs_what_copying_it_does():
    logits = jnp.zeros((1, 1, V)).at[..., 4].set(-1e4)
    copying = Copying(jnp.array([[0.0]]), jnp.array([[[0.25, 0.75]]]), jnp.array([[4, 3]]))
    np.testing.assert_allclose(mix(logits, copying)[0, 0, 4], np.log(0.5 * 0.25), rtol=1e-6)


def test_a_word_that_is_not_in_the_source_costs_what_generating_it_does_however_much():
    logits = jnp.zeros((1, 1, V)).at[..., 4].set(-1e4)
    copying = Copying(jnp.array([[0.0]]), jnp.array([[[1.0]]]), jnp.array([[3]]))
    np.testing.assert_allclose(mix(logits, copying)[0, 0, 4], np.log(0.5) - 1e4 - np.log(V - 1), rtol=1e-6)


def test_no_intermediate_holds_all_probabilities():
    B, T, V = 16, 64, 999

    def loss(features, kernel, gate, attention):
        tokens = jnp.zeros((B, S), jnp.int32)
        copying = Copying(gate, copied_masses(attention, tokens), tokens)
        targets, weights = jnp.zeros((B, T), jnp.int32), jnp.ones((B, T))
        options = LossOptions(label_smoothing=0.1, chunk=64)
        return chunked_copying_cross_entropy(Output(features, kernel, copying=copying), targets, weights, options).loss

    shapes = [(B, T, D), (D, V), (B, T), (B, T, S)]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(*map(jnp.zeros, shapes)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * B * T * V / 2, "half of [B, T, V] floats"


def test_the_coverage_loss_is_that_of_a_loop_over_each_sentences_tokens():
    segments, sources = np.array([1, 1, 1, 2, 2, 0]), np.array([1, 1, 2, 2, 2])
    mask = (segments[:, None] == sources) & (segments[:, None] > 0)
    scores = np.where(mask, np.asarray(LEARNED[4][0]), -np.inf)
    attention = np.stack([loops.softmax(row) if np.isfinite(row).any() else np.zeros(S) for row in scores])
    weights, expected = np.array([1.0, 1, 1, 0, 1, 0]), 0.0
    for segment in (1, 2):
        covered = np.zeros(S)
        for t in np.flatnonzero(segments == segment):
            expected += weights[t] * np.minimum(attention[t], covered).sum()
            covered += attention[t]
    found = coverage_loss(jnp.asarray(attention[None], jnp.float32), jnp.asarray(weights[None]))
    assert_close(found, expected, roundings=50)
    assert expected > 0.5
