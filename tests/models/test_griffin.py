"""Griffin: what it sees, what it keeps of the past, and its choices. Stepping and packing are the contract's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax import sharding
from s2sjax.errors import UserError
from s2sjax.inference.likelihood import logits
from s2sjax.models import griffin
from s2sjax.nn.linear_recurrence import slow_decay
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from s2sjax.vocabulary import BOS

V, P = 17, Precision.FLOAT32
TINY = {
    "pattern": ("recurrent", "attention"), "repeats": 2, "window": 3,
    "width": 8, "hidden": 8, "recurrent_width": 6, "heads": 2, "dropout": 0.0,
}  # fmt: skip
TEXT = np.random.default_rng(0).integers(4, V, (2, 8))


def build(**options):
    return griffin.build(griffin.Config(**{**TINY, **options}), Tokens(V), Tokens(V), precision=P)


def batch_of(inputs, decoder_inputs):
    """Rows of one segment, without padding."""

    def side(name, tokens):
        tokens = jnp.asarray(tokens, jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return {f"{name}_segments": jnp.ones_like(tokens), f"{name}_positions": positions}

    return {
        "inputs": jnp.asarray(inputs, jnp.int32),
        "decoder_inputs": jnp.asarray(decoder_inputs, jnp.int32),
        **side("input", inputs),
        **side("target", decoder_inputs),
    }


@functools.cache
def init(model):
    batch = batch_of(TEXT[:, :0], TEXT[:, :2])
    return jax.jit(lambda key: model.init(key, batch, train=False)["params"])(jax.random.key(0))


@functools.cache
def features_of(model):
    params = init(model)
    return jax.jit(lambda batch: model.apply({"params": params}, batch, train=False).features)


def reach(pattern):
    """How far back, in tokens, a feature is moved by what stands there."""
    features = features_of(build(pattern=pattern))
    base = features(batch_of(TEXT[:, :0], TEXT))[:, -1]
    moved = []
    for t in range(TEXT.shape[1]):
        text = TEXT.copy()
        text[:, t] = 4 + (text[:, t] - 3) % (V - 4)
        moved.append(bool((features(batch_of(TEXT[:, :0], text))[:, -1] != base).any()))
    return TEXT.shape[1] - moved.index(True)


@pytest.mark.slow
def test_attention_reaches_as_far_as_windows_do_one_above_the_other_and_recurrence_to_the_beginning():
    assert reach(("attention",)) == 1 + 2 * (TINY["window"] - 1)
    assert reach(TINY["pattern"]) == TEXT.shape[1]


def test_continuing_a_prompt_is_exact():
    text = np.concatenate([np.full((2, 1), BOS), TEXT[:, 1:]], axis=1)
    whole = features_of(build())(batch_of(text[:, :0], text))
    continued = features_of(build())(batch_of(text[:, :5], text[:, 5:]))
    np.testing.assert_allclose(continued, whole[:, 5:], atol=2e-5)


def test_stepping_from_nothing_far_beyond_the_window_equals_teacher_forcing():
    model, params = build(), init(build())
    forced = logits(jax.jit(lambda b: model.apply({"params": params}, b, train=False))(batch_of(TEXT[:, :0], TEXT)), P)

    @jax.jit
    def stepped(tokens):
        def method(name, *args, **kwargs):
            return model.apply({"params": params}, *args, method=name, **kwargs)

        memory = method("encode", batch_of(TEXT[:, :0], TEXT[:, :0]))
        cache = method("init_cache", memory, width=1, max_len=tokens.shape[1])

        def step(cache, token):
            scores, cache = method("decode_step", token[:, None], cache, memory)
            return cache, scores[:, 0]

        return jax.lax.scan(step, cache, tokens.T)[1].swapaxes(0, 1)

    np.testing.assert_allclose(stepped(jnp.asarray(TEXT)), forced, atol=2e-5)


def test_what_is_kept_of_the_past_does_not_grow_with_it():
    model = build()
    params = init(model)

    def sizes(length, max_len):
        def kept():
            batch = batch_of(np.ones((2, length)), TEXT[:, :0])
            memory = model.apply({"params": params}, batch, method="encode")
            return memory, model.apply({"params": params}, memory, width=3, max_len=max_len, method="init_cache")

        return [sum(x.size for x in jax.tree.leaves(tree)) for tree in jax.eval_shape(kept)]

    assert sizes(50, 10) == sizes(100, 20)


@pytest.mark.slow
def test_rematerialisation_changes_no_gradient():
    batch, params = batch_of(TEXT[:, :4], TEXT[:, 4:]), init(build())

    def gradient(model):
        def loss(params):
            output = model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(1)})
            return jnp.sum(output.features**2)

        return jax.jit(jax.grad(loss))(params)

    plain, *others = (gradient(build(dropout=0.3, remat=remat)) for remat in ("none", "full", "dots"))
    for other in others:
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", [("recurrent",), ("attention",), ("recurrent", "recurrent", "attention")])
def test_every_parameter_of_every_pattern_has_a_rule_and_every_rule_a_parameter(pattern):
    model = build(pattern=pattern)
    batch = batch_of(TEXT[:, :1], TEXT[:, :2])
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=False)["params"])
    mesh = sharding.make_mesh(sharding.MeshConfig(2, 2, 2))
    placed = sharding.shard_parameters(mesh, shapes, griffin.sharding_rules(model.config), stored=True)
    assert jax.tree.structure(placed) == jax.tree.structure(shapes)
    assert all(leaf.shape[0] == TINY["repeats"] for leaf in jax.tree.leaves(shapes["layers"]))


def test_decays_begin_slow():
    """Section 2.4: `a ** c` is uniform in 0.9 .. 0.999."""
    decay = slow_decay(jax.random.key(0), (1000,), jnp.float32)
    kept = np.exp(-8 * np.log1p(np.exp(np.asarray(decay, np.float64))))
    assert 0.899 < kept.min() < 0.901 and 0.998 < kept.max() < 0.9991
    assert kept.mean() == pytest.approx(0.9495, abs=0.003)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pattern": ("recurent",)}, "config.model.pattern is 'recurent': did you mean 'recurrent'"),
        ({"pattern": ()}, "config.model.pattern is empty"),
        ({"remat": "dot"}, "config.model.remat is 'dot': did you mean 'dots'"),
        ({"heads": 3}, "twice config.model.heads 3"),
        ({"recurrent_width": 13}, "config.model.recurrent_width 13 is not divisible by config.model.heads 2"),
        ({"window": 0}, "config.model.window is 0, but must be at least 1"),
        ({"dropout": 1.0}, "config.model.dropout is 1.0"),
    ],
)
def test_a_choice_that_makes_no_sense_is_a_users_error(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_two_vocabularies_are_a_users_error():
    with pytest.raises(UserError, match="config.tokenizer.joint=True"):
        griffin.build(griffin.Config(), Tokens(10), Tokens(11), precision=P)
