"""Mixtures of experts against a dense loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from s2sjax.ops.experts import Routing, dropless, route, with_capacity
from tests.tolerance import assert_close

M, D, F, E = 11, 6, 5, 4
RNG = np.random.default_rng(0)
X, UP, DOWN = (RNG.normal(size=shape) for shape in ((M, D), (E, D, F), (E, F, D)))
LOGITS = 2 * RNG.normal(size=(M, E))
FILLED = np.arange(M) % 4 != 3


_route = jax.jit(route, static_argnames="k")


def routing(k, logits=LOGITS, filled=FILLED) -> Routing:
    return _route(jnp.array(logits, jnp.float32), jnp.array(filled), k=k)


def grouped(up, down):
    return lambda rows, sizes, _: lax.ragged_dot(jnp.tanh(lax.ragged_dot(rows, up, sizes)), down, sizes)


def batched(up, down):
    return lambda rows, _: jnp.einsum("ecf,efd->ecd", jnp.tanh(jnp.einsum("ecd,edf->ecf", rows, up)), down)


def loop(k, accept=lambda token, choice, expert: True):
    """Every token through its experts, one after the other, in float64."""
    y = np.zeros((M, D))
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    for token in np.flatnonzero(FILLED):
        best = np.argsort(-probabilities[token])[:k]
        gates = probabilities[token, best] / (probabilities[token, best].sum() if k > 1 else 1)
        for choice, (expert, gate) in enumerate(zip(best, gates, strict=True)):
            if accept(token, choice, expert):
                y[token] += gate * np.tanh(X[token] @ UP[expert]) @ DOWN[expert]
    return y


WEIGHTS = tuple(jnp.array(w, jnp.float32) for w in (X, UP, DOWN))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_dropless_routing_equals_a_dense_loop_over_experts(k):
    x, up, down = WEIGHTS
    got = jax.jit(lambda r: dropless(x, r, grouped(up, down), count=E))(routing(k))
    np.testing.assert_allclose(got, loop(k), rtol=1e-5, atol=1e-5)


def test_gradients_through_the_sorting_equal_those_of_a_dense_sum():
    chosen = routing(2)

    def sparse(x, up, down):
        return jnp.sum(jnp.sin(dropless(x, chosen, grouped(up, down), count=E)))

    def dense(x, up, down):
        everything = jnp.einsum("emf,efd->med", jnp.tanh(jnp.einsum("md,edf->emf", x, up)), down)
        gates = jnp.sum(jax.nn.one_hot(chosen.experts, E) * chosen.gates[..., None], axis=1)
        return jnp.sum(jnp.sin(jnp.einsum("med,me->md", everything, gates)))

    for got, expected in zip(
        *(jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*WEIGHTS) for f in (sparse, dense)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_padding_is_not_routed_not_counted_and_comes_back_as_zeros():
    x, up, down = WEIGHTS
    other_logits = np.where(FILLED[:, None], LOGITS, 100 * RNG.normal(size=LOGITS.shape))
    a, b = routing(2), routing(2, other_logits)
    np.testing.assert_array_equal(np.asarray(b.experts)[~FILLED], E)
    assert float(a.balance) == pytest.approx(float(b.balance))
    y = dropless(jnp.where(jnp.array(FILLED)[:, None], x, jnp.nan), b, grouped(up, down), count=E)
    np.testing.assert_array_equal(np.asarray(y)[~FILLED], 0)
    np.testing.assert_allclose(y, loop(2), rtol=1e-5, atol=1e-5)


def test_the_balance_equals_a_loop_and_is_one_for_equal_loads():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    load, mean = np.zeros(E), np.zeros(E)
    for token in np.flatnonzero(FILLED):
        load[np.argsort(-probabilities[token])[:2]] += 1 / (2 * FILLED.sum())
        mean += probabilities[token] / FILLED.sum()
    assert float(routing(2).balance) == pytest.approx(E * (load @ mean), rel=1e-5)
    equal = routing(1, logits=5 * np.eye(E), filled=np.ones(E, bool))
    assert float(equal.balance) == pytest.approx(1, rel=1e-5)
    one_expert = routing(1, logits=np.tile([50.0, 0, 0, 0], (E, 1)), filled=np.ones(E, bool))
    assert float(one_expert.balance) == pytest.approx(E, rel=1e-5)


def test_parts_of_a_batch_that_know_its_load_share_its_balance():
    whole = routing(2)
    parts = (slice(0, 7), slice(7, M))
    alone = [routing(2, LOGITS[part], FILLED[part]) for part in parts]
    load = sum(part.load for part in alone)
    np.testing.assert_allclose(load, whole.load)
    known = [route(jnp.array(LOGITS[part], jnp.float32), jnp.array(FILLED[part]), k=2, load=load) for part in parts]
    assert_close(sum(part.balance for part in known), whole.balance, roundings=2 * M)
    assert abs(float(sum(part.balance for part in alone)) / 2 / float(whole.balance) - 1) > 1e-3


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_capacity_serves_first_choices_and_then_second_ones_in_the_order_of_tokens(capacity):
    x, up, down = WEIGHTS
    order = np.argsort(-LOGITS, axis=1)[:, :2]
    full = dict.fromkeys(range(E), 0)
    accepted = set()
    for choice in range(2):
        for token in np.flatnonzero(FILLED):
            expert = order[token, choice]
            if full[expert] < capacity:
                full[expert] += 1
                accepted.add((token, choice))
    assert len(accepted) < 2 * FILLED.sum(), "something must be dropped"
    got = jax.jit(lambda r: with_capacity(x, r, batched(up, down), count=E, capacity=capacity))(routing(2))
    expected = loop(2, accept=lambda token, choice, expert: (token, choice) in accepted)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_ample_capacity_drops_nothing_and_has_the_gradients_of_dropless_routing():
    chosen = routing(2)

    def ample(x, up, down):
        return jnp.sum(jnp.sin(with_capacity(x, chosen, batched(up, down), count=E, capacity=M)))

    def exact(x, up, down):
        return jnp.sum(jnp.sin(dropless(x, chosen, grouped(up, down), count=E)))

    (a, da), (b, db) = (jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(*WEIGHTS) for f in (ample, exact))
    assert float(a) == pytest.approx(float(b), rel=1e-5)
    for got, expected in zip(da, db, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_no_tokens_are_no_trouble():
    _, up, down = WEIGHTS
    nothing = routing(2, logits=np.zeros((0, E)), filled=np.zeros(0, bool))
    assert dropless(jnp.zeros((0, D)), nothing, grouped(up, down), count=E).shape == (0, D)
    assert float(nothing.balance) == 0
