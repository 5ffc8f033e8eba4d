import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from s2sjax.errors import UserError
from s2sjax.learning.optim import OptimizerConfig, make_optimizer, make_schedule
from tests.tolerance import assert_close

NAMES = ("adamw", "adafactor", "lion", "sgd")


def rate(update: int, **config) -> float:
    """Learning rate of the update with this number, from 1, of 20."""
    return float(make_schedule(OptimizerConfig(learning_rate=2.0, **config), 20)(update - 1))


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt", "cosine", "wsd"])
def test_warm_up_is_a_line_whose_first_update_is_not_zero_and_whose_end_is_the_peak(schedule):
    rates = [rate(update, schedule=schedule, warmup_steps=4) for update in (1, 2, 3, 4)]
    np.testing.assert_allclose(rates, [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    assert rate(1, schedule=schedule, warmup_steps=0) == pytest.approx(2.0, rel=0.02)


def test_inverse_sqrt_falls_with_the_root_of_the_step():
    rates = [rate(update, schedule="inverse_sqrt", warmup_steps=4) for update in (5, 16, 36)]
    np.testing.assert_allclose(rates, [2 * (4 / 5) ** 0.5, 1.0, 2 / 3], rtol=1e-6)


def test_cosine_is_half_way_down_in_the_middle_and_ends_at_the_final_fraction():
    rates = [rate(u, schedule="cosine", warmup_steps=4, final_fraction=0.1) for u in (4, 12, 20, 25)]
    np.testing.assert_allclose(rates, [2.0, 2 * (0.1 + 0.9 / 2), 0.2, 0.2], rtol=1e-6)


def test_wsd_stays_at_the_peak_and_falls_in_a_line_at_the_end():
    options = {"schedule": "wsd", "warmup_steps": 4, "decay_fraction": 0.25, "final_fraction": 0.2}
    rates = [rate(update, **options) for update in (4, 10, 15, 16, 20)]
    np.testing.assert_allclose(rates, [2.0, 2.0, 2.0, 2 * (1 - 0.8 / 5), 0.4], rtol=1e-6)
    assert rate(20, **options | {"final_fraction": 0.0}) == pytest.approx(0.0, abs=1e-7)


def test_a_constant_schedule_stays():
    assert [rate(update, schedule="constant", warmup_steps=2) for update in (2, 7, 20)] == [2.0, 2.0, 2.0]


def run(config: OptimizerConfig, params, gradient, steps: int):
    """Parameters after each of `steps` updates."""
    optimizer = make_optimizer(config, steps)

    @jax.jit
    def update(params, state):
        updates, state = optimizer.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    state, history = optimizer.init(params), []
    for _ in range(steps):
        params, state = update(params, state)
        history.append(params)
    return history


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_descends_into_a_bowl(name):
    def loss(params):
        return sum(jnp.sum((p - 0.5) ** 2) for p in jax.tree.leaves(params))

    start = {"kernel": jnp.ones((3, 4)), "bias": jnp.full(4, 2.0)}
    config = OptimizerConfig(name=name, learning_rate=0.05, schedule="cosine", warmup_steps=2, clip_norm=5.0)
    assert loss(run(config, start, jax.grad(loss), 150)[-1]) < 0.05 * loss(start)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_decoupled_and_leaves_biases_alone(name):
    """Without a gradient, each update takes `rate * decay` of every matrix, whatever the optimizer remembers."""
    config = OptimizerConfig(name=name, learning_rate=0.5, schedule="constant", warmup_steps=0, weight_decay=0.1)
    params = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}
    for i, after in enumerate(run(config, params, lambda p: jax.tree.map(jnp.zeros_like, p), 3), start=1):
        np.testing.assert_allclose(after["kernel"], 2 * 0.95**i, rtol=1e-6)
        np.testing.assert_array_equal(after["bias"], 2.0)


def test_clipping_shortens_long_gradients_and_leaves_short_ones():
    config = OptimizerConfig(name="sgd", b1=0.0, learning_rate=1.0, schedule="constant", warmup_steps=0, clip_norm=0.5)
    zero = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}
    for gradient, expected in (((30.0, 0.0, 40.0), (0.3, 0.0, 0.4)), ((0.1, 0.2, 0.2), (0.1, 0.2, 0.2))):
        tree = {"a": jnp.array(gradient[:2]), "b": jnp.array([[gradient[2]]])}
        (after,) = run(config, zero, lambda p, tree=tree: tree, 1)
        np.testing.assert_allclose([*after["a"], after["b"][0, 0]], -np.array(expected), rtol=1e-5)


def test_the_state_begins_at_zero_and_is_as_large_as_the_optimizer_needs():
    params = {"kernel": jnp.ones((200, 300))}
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(make_optimizer(OptimizerConfig(name=name), 10).init(params)))
        for name in NAMES
    }
    assert sizes["adafactor"] < 1000 < sizes["sgd"] <= sizes["lion"] < sizes["adamw"]


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("name", "adam", "did you mean 'adamw'"),
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("nan"), "above 0"),
        ("decay_fraction", 1.5, "0..1"),
        ("warmup_steps", -1, "0 or more"),
        ("em_smoothing", 1.0, "0..1, below 1"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_users_error(field, value, message):
    with pytest.raises(UserError, match=f"config.optimizer.{field} is .*{message}"):
        OptimizerConfig(**{field: value})


def em(**config):
    return OptimizerConfig(name="em", schedule="constant", warmup_steps=0, **config)


def counted(*counts):
    """Gradients that are minus these counts."""
    return {"p": -jnp.array(counts)}


def shares(params):
    return np.exp(np.asarray(params["p"], np.float64))


UNKNOWN = {"p": jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))}


def test_em_sets_each_distribution_to_the_shares_of_its_counts():
    (after,) = run(em(learning_rate=1.0, em_smoothing=0.0), UNKNOWN, lambda p: counted([3.0, 1.0], [0.0, 2.0]), 1)
    np.testing.assert_allclose(shares(after), [[0.75, 0.25], [0.0, 1.0]], rtol=1e-6, atol=1e-30)
    assert np.isfinite(after["p"]).all(), "what was never counted stays finite, so that updates can be subtracted"


def test_em_mixes_in_its_share_of_the_uniform_distribution():
    (after,) = run(em(learning_rate=1.0, em_smoothing=0.2), UNKNOWN, lambda p: counted([3.0, 1.0], [0.0, 2.0]), 1)
    np.testing.assert_allclose(shares(after), [[0.7, 0.3], [0.1, 0.9]], rtol=1e-6)


def test_em_leaves_a_distribution_alone_that_no_count_has_reached_and_takes_rounding_below_zero_for_zero():
    (after,) = run(em(learning_rate=1.0, em_smoothing=0.0), UNKNOWN, lambda p: counted([1.0, -1e-6], [0.0, 0.0]), 1)
    np.testing.assert_allclose(shares(after), [[1.0, 0.0], [0.9, 0.1]], rtol=1e-6, atol=1e-30)


def test_em_averages_the_counts_of_batches_by_its_rate():
    """Rates 1 and sqrt(1/2): of two batches, the second weighs sqrt(1/2) and the first the rest."""
    config = OptimizerConfig(name="em", learning_rate=1.0, schedule="inverse_sqrt", warmup_steps=1, em_smoothing=0.0)
    optimizer = make_optimizer(config, 2)
    params, state = UNKNOWN, optimizer.init(UNKNOWN)
    for counts in ([[4.0, 0.0], [1.0, 1.0]], [[0.0, 4.0], [1.0, 1.0]]):
        updates, state = optimizer.update(counted(*counts), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(shares(params), [[1 - 0.5**0.5, 0.5**0.5], [0.5, 0.5]], roundings=32)


def test_what_em_has_no_use_for_is_a_users_error():
    for options in ({"clip_norm": 1.0}, {"weight_decay": 0.1}):
        with pytest.raises(UserError, match="em neither clips nor decays"):
            em(learning_rate=1.0, **options)
    with pytest.raises(UserError, match="learning_rate is 2.0, but em takes at most 1"):
        em(learning_rate=2.0)


def test_a_stack_of_layers_decays_as_its_layers_do_one_by_one():
    """Biases and scales stay vectors when layers are stacked: nothing but matrices decays."""
    vectors = {"bias": jnp.ones(2), "norm": {"scale": jnp.ones(2)}, "gate": {"bias": jnp.ones((2, 2))}}
    layer = {"kernel": jnp.ones((3, 2)), **vectors}
    apart = {"layers_0": layer, "layers_1": layer}
    stacked = {"layers": jax.tree.map(lambda *x: jnp.stack(x), layer, layer)}
    config = OptimizerConfig(name="adamw", learning_rate=0.5, weight_decay=0.1, warmup_steps=0, schedule="constant")
    nothing = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    (one,), (other,) = run(config, apart, nothing, 1), run(config, stacked, nothing, 1)
    for i in range(2):
        from_stack = jax.tree.map(lambda x, i=i: x[i], other["layers"])
        jax.tree.map(np.testing.assert_array_equal, from_stack, one[f"layers_{i}"])
    assert one["layers_0"].pop("kernel")[0, 0] == pytest.approx(0.95)
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(one["layers_0"]))
