"""The chunked cross-entropy against its plain twin, and a mixture's against that of its log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions, chunked_cross_entropy, cross_entropy, mixture_cross_entropy, token_losses

B, T, D, V = 4, 7, 8, 23
KEYS = jax.random.split(jax.random.key(0), 5)
FEATURES = jax.random.normal(KEYS[0], (B, T, D))
KERNEL = jax.random.normal(KEYS[1], (D, V))
BIAS = jax.random.normal(KEYS[2], (V,))
TARGETS = jax.random.randint(KEYS[3], (B, T), 0, V)
WEIGHTS = jax.random.bernoulli(KEYS[4], 0.7, (B, T)).astype(jnp.float32)


def both(chunk, *, bias=BIAS, shards=1, time_shards=1, **options):
    """(sums, gradients) of the plain and of the chunked form."""

    def values(function, **more):
        def loss(features, kernel, bias):
            sums = function(features, kernel, bias, TARGETS, WEIGHTS, LossOptions(**options, **more))
            return 3.0 * sums.loss, sums  # 3: a cotangent that is not 1

        differentiated = jax.jit(jax.grad(loss, argnums=(0, 1) if bias is None else (0, 1, 2), has_aux=True))
        grads, sums = differentiated(FEATURES, KERNEL, bias)
        return sums, grads

    return values(cross_entropy), values(chunked_cross_entropy, chunk=chunk, shards=shards, time_shards=time_shards)


@pytest.mark.parametrize("chunk", [1, 4, 5, 28, 1000])
def test_chunked_loss_equals_the_plain_form_in_values_and_gradients_also_where_the_chunk_does_not_divide(chunk):
    plain, chunked = both(chunk, label_smoothing=0.1, z_loss=1e-2)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("label_smoothing, z_loss", [(0.0, 0.0), (0.2, 0.0), (0.0, 0.1)])
def test_each_term_of_the_loss_has_the_gradient_of_autodiff(label_smoothing, z_loss):
    plain, chunked = both(6, bias=None, label_smoothing=label_smoothing, z_loss=z_loss)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shards, time_shards", [(2, 1), (4, 1), (2, 7)])
def test_sharding_the_loop_over_tokens_changes_nothing(shards, time_shards):
    plain, chunked = both(3, shards=shards, time_shards=time_shards, label_smoothing=0.1)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_without_gradients_the_sums_are_the_same():
    plain = cross_entropy(FEATURES, KERNEL, BIAS, TARGETS, WEIGHTS, LossOptions(label_smoothing=0.1, z_loss=0.01))
    options = LossOptions(label_smoothing=0.1, z_loss=0.01, chunk=5)
    chunked = chunked_cross_entropy(FEATURES, KERNEL, BIAS, TARGETS, WEIGHTS, options)
    np.testing.assert_allclose(jnp.stack(plain), jnp.stack(chunked), rtol=1e-5)


def test_tokens_of_weight_zero_change_nothing_whatever_stands_there():
    def loss(features, targets):
        options = LossOptions(label_smoothing=0.1, chunk=5)
        return chunked_cross_entropy(features, KERNEL, BIAS, targets, WEIGHTS, options).loss

    masked = WEIGHTS == 0
    other = jnp.where(masked[..., None], FEATURES + 5, FEATURES), jnp.where(masked, (TARGETS + 1) % V, TARGETS)
    value = jax.jit(jax.value_and_grad(loss))
    (one, a), (another, b) = value(FEATURES, TARGETS), value(*other)
    assert float(one) == pytest.approx(float(another), rel=1e-6)
    np.testing.assert_array_equal(np.asarray(a)[masked], 0)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_no_intermediate_holds_all_logits():
    B, T, V = 16, 64, 999

    def loss(features, kernel):
        options = LossOptions(label_smoothing=0.1, chunk=32)
        return chunked_cross_entropy(
            features, kernel, None, jnp.zeros((B, T), jnp.int32), jnp.ones((B, T)), options
        ).loss

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(jnp.zeros((B, T, D)), jnp.zeros((D, V))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * B * T * V / 4, "a quarter of [B, T, V] floats"


def test_smoothed_loss_of_a_perfect_and_of_a_uniform_model_by_hand():
    uniform = token_losses(jnp.zeros((1, 4)), jnp.array([2]), label_smoothing=0.1, z_loss=0.0)
    np.testing.assert_allclose(jnp.stack(uniform), np.log(4), rtol=1e-6)
    # One word has all the mass: the smoothed part pays the other three words' 0.1 / 4 each at a cost of 20 nats.
    sharp = token_losses(jnp.array([[0.0, 20.0, 0.0, 0.0]]), jnp.array([1]), label_smoothing=0.1, z_loss=0.0)
    np.testing.assert_allclose(sharp[0], 3 * 0.1 / 4 * 20, rtol=1e-5)


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.BFLOAT16_PRODUCTS])
def test_bfloat16_products_stay_within_their_rounding(precision):
    exact = cross_entropy(FEATURES, KERNEL, BIAS, TARGETS, WEIGHTS)
    rounded = chunked_cross_entropy(FEATURES, KERNEL, BIAS, TARGETS, WEIGHTS, LossOptions(chunk=8, precision=precision))
    assert float(rounded.loss) == pytest.approx(float(exact.loss), rel=1e-2)
    assert float(rounded.loss) != float(exact.loss), "the policy had no effect"


def mixture():
    """Beliefs [B, T, N] and emissions [N, V], rows of both distributions."""
    return jax.nn.softmax(FEATURES), jax.nn.softmax(3 * KERNEL)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_of_a_mixture_is_the_cross_entropy_of_its_log_probabilities(label_smoothing):
    features, kernel = mixture()

    def plain(features, kernel):
        log_probs = jnp.log(features @ kernel)
        losses, nll = token_losses(log_probs, TARGETS, label_smoothing=label_smoothing, z_loss=0.0)
        correct = jnp.argmax(log_probs, axis=-1) == TARGETS
        return jnp.sum(WEIGHTS * losses), [jnp.sum(WEIGHTS * x) for x in (losses, nll, correct, 1.0)]

    def ours(features, kernel):
        sums = mixture_cross_entropy(features, kernel, TARGETS, WEIGHTS, label_smoothing=label_smoothing)
        return sums.loss, list(sums)

    def on_distributions(loss):
        return lambda a, b: loss(jax.nn.softmax(a), jax.nn.softmax(b))

    for a, b in zip(plain(features, kernel)[1], ours(features, kernel)[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    differentiated = (jax.jit(jax.grad(on_distributions(f), argnums=(0, 1), has_aux=True)) for f in (plain, ours))
    grads = (f(FEATURES, KERNEL)[0] for f in differentiated)
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_mixture_that_holds_a_target_for_impossible_costs_a_finite_loss_with_a_finite_gradient():
    features, kernel = mixture()
    kernel = kernel.at[:, TARGETS[0, 0]].set(0.0)

    def loss(features, kernel):
        return mixture_cross_entropy(features, kernel, TARGETS, jnp.ones((B, T)), label_smoothing=0.1).loss

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(features, kernel)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


def test_no_intermediate_holds_all_probabilities_of_a_mixture():
    B, T, V = 16, 64, 999

    def loss(features, kernel):
        return mixture_cross_entropy(
            features, kernel, jnp.zeros((B, T), jnp.int32), jnp.ones((B, T)), label_smoothing=0.1
        ).loss

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(jnp.zeros((B, T, D)), jnp.zeros((D, V))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * B * T * V / 4, "a quarter of [B, T, V] floats"
