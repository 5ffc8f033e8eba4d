"""The hidden Markov model: Baum-Welch against the textbook in float64, prompts, tags."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.errors import UserError
from s2sjax.inference.likelihood import loss_sums
from s2sjax.learning.optim import OptimizerConfig, make_optimizer
from s2sjax.models import hmm
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions
from s2sjax.ports import Tokens
from s2sjax.vocabulary import BOS, EOS

N, V = 3, 9
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(4, V, n) for n in (2, 0, 3, 1)]
ANSWERS = [np.append(RNG.integers(4, V, n), EOS) for n in (5, 3, 1, 4)]


def build(**options):
    return hmm.build(hmm.Config(states=N, **options), Tokens(V), Tokens(V), precision=Precision.FLOAT32)


def batch_of(prompts, answers, rows=None):
    """Examples one a row, or packed into the rows named."""
    sides = (Column.from_rows([np.asarray(x, np.int32) for x in side]) for side in (prompts, answers))
    rows = np.arange(len(answers)) if rows is None else np.array(rows)
    width = [max(sum(len(s[i]) for i in np.flatnonzero(rows == row)) for row in rows) for s in (prompts, answers)]
    planned = PlannedBatch(Shape(int(rows.max()) + 1, *width), np.arange(len(answers)), rows)
    return {name: jnp.asarray(x) for name, x in assemble(planned, Examples.of_pairs(*sides)).items()}


NOTHING = [[] for _ in ANSWERS]
PARAMS = jax.jit(lambda key: build().init(key, batch_of(NOTHING, ANSWERS), train=False)["params"])(jax.random.key(0))


def probabilities(params):
    """Initial, transition and emission probabilities, float64."""
    logits = [np.asarray(params[name], np.float64) for name in ("initial", "transition", "emission")]
    return [np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in logits]


def baum_welch(sequences, initial, transition, emission):
    """One iteration by forward and backward probabilities (Rabiner 1989, section III): (model, log-likelihood)."""
    begins, moves, emits, log_likelihood = np.zeros(N), np.zeros((N, N)), np.zeros((N, V)), 0.0
    for x in sequences:
        alpha, beta = np.zeros((len(x), N)), np.ones((len(x), N))
        alpha[0] = initial * emission[:, x[0]]
        for t in range(1, len(x)):
            alpha[t] = (alpha[t - 1] @ transition) * emission[:, x[t]]
        for t in reversed(range(len(x) - 1)):
            beta[t] = transition @ (emission[:, x[t + 1]] * beta[t + 1])
        likelihood = alpha[-1].sum()
        log_likelihood += np.log(likelihood)
        gamma = alpha * beta / likelihood
        begins += gamma[0]
        np.add.at(emits.T, x, gamma)
        for t in range(len(x) - 1):
            moves += alpha[t][:, None] * transition * (emission[:, x[t + 1]] * beta[t + 1]) / likelihood
    return [counts / counts.sum(axis=-1, keepdims=True) for counts in (begins, moves, emits)], log_likelihood


def em_steps(batches, config, params=PARAMS):
    """Parameters, and the loss summed over the batch, before and after each step."""
    model, optimizer = build(learning="em"), make_optimizer(config, len(batches))

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            sums = loss_sums(model, params, batch, LossOptions(chunk=8), dropout_key=jax.random.key(0))
            return sums.loss, sums.weight

        (value, weight), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(jax.tree.map(lambda g: g / weight, grads), state, params)
        return optax.apply_updates(params, updates), state, value

    state, history = optimizer.init(params), []
    for batch in batches:
        after, state, value = step(params, state, batch)
        history.append((params, float(value)))
        params = after
    return history


TEXTBOOK = OptimizerConfig(name="em", learning_rate=1.0, schedule="constant", warmup_steps=0, em_smoothing=0.0)


def assert_follows_the_textbook(history, sequences):
    model, losses = probabilities(PARAMS), []
    for params, loss in history:
        for ours, theirs in zip(probabilities(params), model, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        model, log_likelihood = baum_welch(sequences, *model)
        assert loss == pytest.approx(-log_likelihood, rel=1e-5)
        losses.append(loss)
    assert all(b < a for a, b in itertools.pairwise(losses)) and losses[-1] < 0.9 * losses[0]


def test_em_on_all_data_is_baum_welch_step_by_step_and_never_makes_the_data_less_likely():
    batch = batch_of(NOTHING, ANSWERS, rows=[0, 0, 1, 1])
    assert_follows_the_textbook(em_steps([batch] * 12, TEXTBOOK), ANSWERS)


def test_em_counts_what_is_read_and_not_predicted_too():
    """Counts of an answer given a prompt would be differences; those of prompt and answer together are counts."""
    batch = batch_of(PROMPTS, ANSWERS, rows=[0, 0, 0, 1])
    # All but each answer's end, which no decoder input holds: it is counted if it is predicted.
    batch["weights"] *= (batch["target_positions"] != 1) | (batch["targets"] == EOS)
    sequences = [np.concatenate([p, a]).astype(int) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert_follows_the_textbook(em_steps([batch] * 6, TEXTBOOK), sequences)


def test_stepwise_em_on_batches_in_turn_comes_close_to_what_em_on_all_data_finds():
    whole = batch_of(NOTHING, ANSWERS)
    parts = [{name: x[i : i + 1] for name, x in whole.items()} for i in range(len(ANSWERS))]
    config = OptimizerConfig(name="em", learning_rate=1.0, schedule="inverse_sqrt", warmup_steps=1, em_smoothing=0.01)
    history = em_steps(parts * 15, config)
    first, last = (sum(loss for _, loss in history[i : i + len(parts)]) for i in (0, len(history) - len(parts)))
    model = probabilities(PARAMS)
    for _ in range(15):
        model, log_likelihood = baum_welch(ANSWERS, *model)
    assert last < 0.8 * first and last < -1.2 * log_likelihood


def test_em_learning_changes_the_gradient_and_not_the_model():
    batch = batch_of(PROMPTS, ANSWERS)

    @functools.partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def nll(params, learning):
        return loss_sums(build(learning=learning), params, batch, LossOptions(chunk=8), dropout_key=None).loss

    values, grads = zip(*(nll(PARAMS, learning) for learning in ("gradient", "em")), strict=True)
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-6)
    by_logits, by_log_probs = (np.asarray(g["emission"]) for g in grads)
    np.testing.assert_allclose(by_logits.sum(axis=1), 0, atol=1e-4)
    shares = probabilities(PARAMS)[2]
    np.testing.assert_allclose(
        by_log_probs - shares * by_log_probs.sum(axis=1, keepdims=True), by_logits, atol=1e-4
    )  # the chain rule through the softmax


@jax.jit
def features(batch):
    return build().apply({"params": PARAMS}, batch, train=False).features


def test_continuing_a_prompt_is_exact():
    text = [np.array([5, 8, 4, 6, 7, EOS])]
    whole = features(batch_of([[]], text))
    batch = batch_of([[]], [text[0][2:]]) | {
        "inputs": jnp.array([[BOS, 5]]),
        "input_segments": jnp.ones((1, 2), jnp.int32),
        "decoder_inputs": jnp.array([[8, 4, 6, 7]]),
    }
    np.testing.assert_allclose(features(batch), whole[:, 2:], atol=1e-6)


def test_stepping_from_nothing_equals_teacher_forcing():
    batch = batch_of([[]], [[5, 8, 4, 6, 7, EOS]])
    nothing = {name: batch[name] for name in ("inputs", "input_segments", "input_positions")}

    @jax.jit
    def stepped(tokens):
        def method(name, *args, **kwargs):
            return build().apply({"params": PARAMS}, *args, method=name, **kwargs)

        cache = method("init_cache", method("encode", nothing), width=1, max_len=6)

        def step(cache, token):
            scores, cache = method("decode_step", token[:, None], cache, None)
            return cache, scores[:, 0]

        return jax.lax.scan(step, cache, tokens.T)[1].swapaxes(0, 1)

    forced = np.log(np.asarray(features(batch)) @ probabilities(PARAMS)[2])
    np.testing.assert_allclose(stepped(batch["decoder_inputs"]), forced, atol=1e-5)


def test_features_are_distributions_of_states_that_begin_with_the_initial_one():
    batch = batch_of(NOTHING, ANSWERS)
    assert batch["inputs"].shape[1] == 0
    found = np.asarray(features(batch))
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[:, 0], np.tile(probabilities(PARAMS)[0], (len(ANSWERS), 1)), rtol=1e-5)


def test_tags_are_the_states_of_the_best_path_through_prompt_and_answer():
    """States 0, 1 and 2 follow each other; word 4 is of state 0 alone, and no other tells them apart."""
    params = {
        "initial": jnp.zeros(N),
        "transition": 50.0 * jnp.roll(jnp.eye(N), 1, axis=1),
        "emission": jnp.zeros((N, V)).at[1:, 4].set(-50.0),
    }
    tag = jax.jit(lambda batch: build().apply({"params": params}, batch, method="tag"))
    packed = batch_of([[5, 4], [7]], [[6, 7, 8, EOS], [4, 5, EOS]], rows=[0, 0])
    np.testing.assert_array_equal(tag(packed), [[1, 2, 0, 1, 0, 1, 2]])
    unconditional = batch_of([[], []], [[5, 4, EOS], [4, EOS]])
    np.testing.assert_array_equal(tag(unconditional), [[2, 0, 1], [0, 1, -1]])


def test_what_it_cannot_be_built_from_is_a_users_error():
    with pytest.raises(UserError, match="config.tokenizer.joint=True"):
        hmm.build(hmm.Config(), Tokens(10), Tokens(11), precision=Precision.FLOAT32)
    with pytest.raises(UserError, match="config.model.states is 0"):
        hmm.Config(states=0)
    with pytest.raises(UserError, match="config.model.learning is 'EM'"):
        hmm.Config(learning="EM")
