"""The Transformer's choices: attention with each of them against a loop; loops over layers; what a config may say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.errors import UserError
from s2sjax.inference.forced import cross_attention
from s2sjax.models import transformer
from s2sjax.nn.attention import MultiHeadAttention
from s2sjax.nn.block_config import POSITIONS as POSITION_SCHEMES
from s2sjax.nn.block_config import BlockConfig
from s2sjax.nn.transformer import Positions
from s2sjax.ops.attention import segment_mask
from s2sjax.ops.linear import Precision
from s2sjax.ops.local_attention import make_band
from s2sjax.ports import Tokens
from s2sjax.sharding import path_name
from tests.contract.conftest import VOCAB, bucketed, packed
from tests.tolerance import allowed

D = 16
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
POSITIONS = np.array([[0, 1, 2, 3, 0, 1, 2, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8]])

CHOICES = [
    {},
    {"kv_heads": 2},
    {"kv_heads": 1, "qk_norm": True, "head_width": 6},
    {"window": 3},
    {"positions": "rotary", "rotary_base": 50.0},
    {"positions": "rotary", "rotary_scaling": "linear", "rotary_factor": 2.0, "kv_heads": 2, "window": 2},
    {"positions": "alibi", "window": 4},
    {"positions": "relative", "relative_buckets": 6, "relative_distance": 5, "scale_attention": False},
]


def self_attention_loop(c: BlockConfig, params, table, x, *, causal: bool, band: tuple[int, int] | None = None):
    """Self-attention from its definition, one query, head and key at a time, in float64.

    Args:
        band: positions seen on each side, and global tokens.
    """
    H, G, C = c.heads, c.key_value_heads, c.query_width
    B, N, _ = x.shape

    def project(name, token):
        return (token @ params[name]["kernel"] + params[name]["bias"]).reshape(-1, C)

    def normalise(name, head):
        return head / np.sqrt(np.mean(head**2) + 1e-6) * params[name]["scale"] if c.qk_norm else head

    def turn(head, position):
        if c.positions != "rotary":
            return head
        position = position / c.rotary_factor if c.rotary_scaling == "linear" else position
        pairs = head[: C // 2] + 1j * head[C // 2 :]
        pairs = pairs * np.exp(1j * position * c.rotary_base ** (-2 * np.arange(C // 2) / C))
        return np.concatenate([pairs.real, pairs.imag])

    def bias(h, distance):
        if c.positions == "alibi":
            return -(2.0 ** (-8 * (h + 1) / H)) * abs(distance)
        if c.positions == "relative":
            # 6 buckets up to distance 5. Causal: 0, 1, 2 alone, then from 3 (5/3)^(i/3) on. Both ways: 3 for each side.
            one_side, several = [0, 1, 2, 3, 4, 5, 5, 5, 5], [0, 1, 1, 2, 2, 2, 2, 2, 2]
            bucket = one_side[max(-distance, 0)] if causal else several[abs(distance)] + 3 * (distance > 0)
            return table[bucket, h]
        return 0.0

    y = np.zeros((B, N, H, C))
    for b, t, h in np.ndindex(B, N, H):
        g = h // (H // G)
        query = turn(normalise("query_norm", project("query", x[b, t])[h]), POSITIONS[b, t])
        scores, values = [], []
        for s in range(N):
            distance = int(POSITIONS[b, s] - POSITIONS[b, t])
            if SEGMENTS[b, t] != SEGMENTS[b, s] or SEGMENTS[b, s] == 0 or (causal and s > t):
                continue
            if c.window and abs(distance) >= c.window:
                continue
            if band and abs(distance) > band[0] and min(POSITIONS[b, t], POSITIONS[b, s]) >= band[1]:
                continue
            key = turn(normalise("key_norm", project("key", x[b, s])[g]), POSITIONS[b, s])
            scores.append(query @ key / (np.sqrt(C) if c.scale_attention else 1) + bias(h, distance))
            values.append(project("value", x[b, s])[g])
        if scores:
            weights = np.exp(scores - np.max(scores))
            y[b, t, h] = weights / weights.sum() @ np.array(values)
    return y.reshape(B, N, -1) @ params["output"]["kernel"] + params["output"]["bias"]


WAYS = {"causal": None, "both ways": None, "in a band": (2, 0), "in a band, one global": (1, 1)}
"""How positions see each other, and the band."""


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("choices", CHOICES, ids=lambda c: "-".join(map(str, c.values())) or "plain")
def test_self_attention_equals_a_float64_loop(choices, way):
    causal, band = way == "causal", WAYS[way]
    # A band takes the window's place: the config refuses both.
    c = BlockConfig(width=D, heads=4, **(choices | {"window": 0} if band else choices))
    rng = np.random.default_rng(0)
    attention = MultiHeadAttention(
        D, c.heads, c.key_value_heads, c.query_width, Precision.FLOAT32, qk_norm=c.qk_norm, scale=c.scale_attention
    )
    positions = Positions(c, bidirectional=not causal)

    @jax.jit
    def run(params, tables, x, segments, where):
        index = jnp.arange(segments.shape[1])[None]
        if band:
            view = positions.apply({"params": tables}, make_band(segments, where, *band), where, method="local_view")
        else:
            mask = segment_mask(segments, segments, causal=causal)
            view = positions.apply({"params": tables}, mask, where, index, index, method="view")
        return attention.apply({"params": params}, x, view)

    def init():
        key, where = jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
        view, variables = positions.init_with_output(key, where[None] == 0, where, where, where, method="view")
        return attention.init(key, jnp.zeros((1, 1, D)), view)["params"], variables.get("params", {})

    params, tables = jax.tree.map(lambda p: rng.normal(size=p.shape), jax.eval_shape(init))
    x = rng.normal(size=(2, 9, D))
    expected = self_attention_loop(c, params, tables.get("relative_bias"), x, causal=causal, band=band)
    got = run(*jax.tree.map(lambda a: jnp.array(a, jnp.float32), (params, tables, x)), SEGMENTS, POSITIONS)
    np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())


BUCKETED, PACKED = ({name: jnp.array(a) for name, a in batch().items()} for batch in (bucketed, packed))
T5 = {
    "positions": "relative", "norm_kind": "rms", "mlp": "gated_gelu", "biases": False, "scale_attention": False,
    "width": D, "hidden": 24, "heads": 2, "encoder_layers": 2, "decoder_layers": 3,
}  # fmt: skip


def build(**options):
    return transformer.build(
        transformer.Config(**{**T5, **options}), Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32
    )


def shapes(model):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), BUCKETED, train=False))
    return {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(variables["params"])}


def test_the_parameters_of_a_scanned_stack_are_those_of_the_others_stacked():
    plain, scanned = shapes(build()), shapes(build(scan=True))
    assert plain["decoder/layers_2/cross_attention/query/kernel"] == (D, D)
    assert scanned["decoder/layers/cross_attention/query/kernel"] == (3, D, D)
    assert scanned["encoder/positions/relative_bias"] == (32, 2)
    by_layer = {f"{name.replace('layers', f'layers_{i}')}": shape[1:] for name, shape in scanned.items()
                if "/layers/" in name for i in range(shape[0])}  # fmt: skip
    assert plain == by_layer | {name: shape for name, shape in scanned.items() if "/layers/" not in name}


def stack(params):
    """`layers_0`, `layers_1` .. as one tree `layers`."""
    stacked = dict(params)
    for side in ("encoder", "decoder"):
        layers = [params[side][name] for name in sorted(params[side]) if name.startswith("layers_")]
        rest = {name: value for name, value in params[side].items() if not name.startswith("layers_")}
        stacked[side] = rest | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}
    return stacked


@pytest.fixture(scope="module")
def plain():
    """An unscanned model with dropout and experts, and its parameters."""
    model = build(dropout=0.2, hidden_dropout=0.1, experts=3)
    return model, jax.jit(lambda: model.init(jax.random.key(0), BUCKETED, train=False))()["params"]


@pytest.fixture(scope="module")
def trained(plain):
    """Its loss and gradients in training."""
    return training(*plain)


def training(model, params):
    def loss(params):
        output = model.apply({"params": params}, PACKED, train=True, rngs={"dropout": jax.random.key(1)})
        return jnp.sum(jnp.sin(output.features) * PACKED["weights"][..., None]) + output.aux

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"scan": True}, {"scan": True, "remat": "dots"}, {"remat": "full"}], ids=str)
def test_scanning_and_rematerialising_change_nothing_not_even_dropout(plain, trained, options):
    (model, params), (loss, gradients) = plain, trained
    if options.get("scan"):
        params, gradients = stack(params), stack(gradients)
    got = training(build(**{**dataclasses.asdict(model.config), **options}), params)
    assert float(got[0]) == pytest.approx(float(loss), rel=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients))
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale)


def test_rematerialising_keeps_less_for_the_backward_pass():
    def kept(remat):
        model = build(remat=remat, dropout=0.0, encoder_layers=1, decoder_layers=1)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), BUCKETED, train=False))["params"]

        def residuals(params):
            _, backward = jax.vjp(lambda p: model.apply({"params": p}, BUCKETED, train=True).features, params)
            return jax.tree.leaves(backward)

        return sum(leaf.size for leaf in jax.eval_shape(residuals, params))

    assert kept("full") < kept("dots") < kept("none")


def test_watching_cross_attention_does_not_depend_on_scanning(plain):
    model, params = plain
    expected = jax.jit(lambda p: cross_attention(model, p, PACKED))(params)
    scanned = build(**{**dataclasses.asdict(model.config), "scan": True})
    got = jax.jit(lambda p: cross_attention(scanned, p, PACKED))(stack(params))
    assert got.shape == (4, 20, 20)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_balance_loss_is_of_the_size_of_a_sum_over_target_tokens(plain):
    """Of 5 blocks with 3 experts each: between the 1 of equal loads and the 3 of one for all, for every token."""
    model, params = plain
    aux = jax.jit(lambda p: model.apply({"params": p}, PACKED, train=False).aux)(params)
    tokens = PACKED["weights"].sum()
    assert 5 * 1.0 <= aux / (0.01 * tokens) < 5 * 3.0


@pytest.mark.parametrize("positions", [pytest.param(p, marks=[] if p == "relative" else pytest.mark.slow)
                                       for p in POSITION_SCHEMES])  # fmt: skip
def test_a_window_that_covers_all_sources_is_full_attention(positions):
    """Loss and gradients in training, with dropout; parameters are the same."""
    options = {"positions": positions, "dropout": 0.2, "encoder_layers": 1, "decoder_layers": 1}
    full, windowed = build(**options), build(**options, encoder_window=5, encoder_global_tokens=2)
    params = jax.jit(lambda: full.init(jax.random.key(0), BUCKETED, train=False))()["params"]

    def differentiated(model):
        def loss(params):
            output = model.apply({"params": params}, PACKED, train=True, rngs={"dropout": jax.random.key(1)})
            return jnp.sum(jnp.sin(output.features) * PACKED["weights"][..., None])

        return jax.jit(jax.value_and_grad(loss))

    expected, tolerances = differentiated(full)(params), allowed(differentiated(full), params)
    found = differentiated(windowed)(params)
    for a, b, tolerance in zip(*map(jax.tree.leaves, (found, expected, tolerances)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_dense_models_have_no_auxiliary_loss():
    output = jax.eval_shape(lambda: build().init_with_output(jax.random.key(0), BUCKETED, train=False)[0])
    assert output.aux is None


def test_capacity_limits_training_only():
    sizes = {"experts": 3, "capacity_factor": 0.3, "dropout": 0.0, "encoder_layers": 1, "decoder_layers": 1}
    exact, limited = (build(routing=r, **sizes) for r in ("dropless", "capacity"))
    params = jax.jit(lambda: exact.init(jax.random.key(0), BUCKETED, train=False))()["params"]

    @jax.jit
    def features(params):
        return [model.apply({"params": params}, BUCKETED, train=train).features
                for model, train in ((exact, False), (limited, False), (limited, True))]  # fmt: skip

    evaluated, never_dropped, trained = features(params)
    np.testing.assert_array_equal(evaluated, never_dropped)
    assert np.abs(evaluated - trained).max() > 1e-3


def test_a_learned_table_is_loud_about_positions_beyond_it():
    model = build(positions="learned", max_positions=4, encoder_layers=1, decoder_layers=1)
    output, _ = jax.jit(lambda: model.init_with_output(jax.random.key(0), BUCKETED, train=False))()
    lengths = [(BUCKETED[f"{side}_segments"] > 0).sum(axis=1) for side in ("input", "target")]
    long = jnp.maximum(*lengths) > 4
    assert 0 < long.sum() < 8
    np.testing.assert_array_equal(np.isnan(output.features[:, 0]).all(axis=-1), long)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"heads": 3, "width": 128}, "width 128 is not divisible by config.model.heads 3; set another"),
        ({"heads": 4, "kv_heads": 3}, "heads 4 is not divisible by config.model.kv_heads 3"),
        ({"positions": "rotary", "head_width": 5}, "rotary positions turn pairs, but heads are 5 wide"),
        ({"positions": "sinusoidal", "width": 9, "heads": 3}, "even config.model.width, not 9"),
        ({"positions": "rope"}, "config.model.positions is 'rope': "),
        ({"mlp": "swiglue"}, "did you mean 'swiglu'"),
        ({"window": -1}, "config.model.window is -1, but must be at least 0"),
        ({"experts": 2, "experts_per_token": 3}, "experts_per_token is 3, but there are 2 experts"),
        ({"capacity_factor": 0.0}, "capacity_factor is 0.0, but must be above 0"),
        ({"positions": "relative", "relative_buckets": 2}, "relative_buckets is 2, but must be between 4 and"),
        ({"encoder_layers": 0}, "config.model.encoder_layers is 0"),
        ({"encoder_window": -1}, "config.model.encoder_window is -1, but must be at least 0"),
        ({"encoder_window": 4, "window": 5}, "model.window is 5 and bounds the encoder too.* set one of them to 0"),
        ({"encoder_global_tokens": 1}, "global_tokens is 1, but must be at most config.model.encoder_window, 0"),
        ({"tied": "both"}, "config.model.tied is 'both'"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(options, message):
    with pytest.raises(UserError, match=message):
        transformer.Config(**options)
