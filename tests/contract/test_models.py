"""What every model has to keep, whatever it is made of."""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from s2sjax import models, sharding
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.decode.stepping import reorder
from s2sjax.inference.forced import cross_attention
from s2sjax.inference.likelihood import logits, loss_sums
from s2sjax.inference.sentences import source_batch
from s2sjax.nn.gathering import layers_gathered
from s2sjax.nn.transformer import MOST_ANCHORED
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions
from s2sjax.ports import Vectors
from s2sjax.vocabulary import PAD
from tests.contract.conftest import (
    FIRST,
    SPLIT,
    TASKS,
    VECTOR_SUBJECTS,
    VECTORS,
    VOCAB,
    WITHOUT_EMBEDDINGS,
    WITHOUT_PRECISION,
    Task,
    bucketed,
    packed,
    subject_params,
    vectors_of,
)
from tests.tolerance import allowed, assert_close

pytestmark = pytest.mark.grid(4)

thorough = pytest.mark.thorough
"""Of a family's variants only the first is put to this test among the fast ones; see `conftest.py`."""

FIRST_OF_VECTORS = {subject.family: subject for subject in reversed(VECTOR_SUBJECTS)}.values()
FLOAT32, BFLOAT16 = Precision.FLOAT32, Precision.BFLOAT16
by_turns = pytest.mark.fast_grid(2)
"""Half of the families are put to this test among the fast ones, the others in the next turn; see `tests/sampling.py`.

Which half differs from test to test."""

generating = pytest.mark.parametrize("subject", subject_params(writes_in_place=False))
"""For models that step; the others label what they read."""
labelling = pytest.mark.parametrize("subject", subject_params(writes_in_place=True))

both_precisions = pytest.mark.parametrize("precision", [FLOAT32, pytest.param(BFLOAT16, marks=pytest.mark.slow)])


def model_in(precision, subject, **options):
    """The subject's model; skips if it is the same under any policy."""
    model = subject.build(precision, **options)
    if subject.family in WITHOUT_PRECISION:
        assert model == subject.build(**options)
        if precision != FLOAT32:
            pytest.skip(WITHOUT_PRECISION[subject.family])
    else:
        assert model.precision == precision
    return model


def gentle(subject, precision):
    """Parameters: in bfloat16 half of the subject's, whose sharp attention makes much of little: there rounding alone
    moves a gradient by a fifth, and logits by nearly half."""
    if precision == FLOAT32:
        return subject.params
    return jax.tree.map(lambda p: jnp.asarray(np.float32(0.5) * np.asarray(p)), subject.params)


def assert_near(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@functools.cache
def forced_logits(subject, precision):
    """Teacher forcing's logits [B, T, V] of `bucketed()`, and how far others may be from them."""
    batch, model = bucketed(), model_in(precision, subject)

    def real(params):  # [all tokens, V]
        return subject.logits(batch, model=model, params=params)[batch["weights"] > 0]

    params = gentle(subject, precision)
    return subject.logits(batch, model=model, params=params), allowed(real, params, precision)


def stepped(subject, batch, *, width=1, precision=FLOAT32):
    """Logits [B, T, K, V] of stepping through the targets, the same ones in each of `width` hypotheses."""
    model = model_in(precision, subject)

    @jax.jit
    def run(params, source, tokens):
        def method(name, *args, **kwargs):
            return model.apply({"params": params}, *args, method=name, **kwargs)

        memory = method("encode", source)
        cache = method("init_cache", memory, width=width, max_len=tokens.shape[1])

        def step(cache, tokens):
            logits, cache = method("decode_step", jnp.repeat(tokens[:, None], width, axis=1), cache, memory)
            return cache, logits

        return jax.lax.scan(step, cache, tokens.T)[1].swapaxes(0, 1)

    return np.asarray(run(gentle(subject, precision), source_of(subject, batch), batch["decoder_inputs"]))


def source_of(subject, batch):
    """What `encode` reads of a batch of tokens, one sentence a row."""
    inputs = batch["inputs"]
    return subject.given(source_batch(inputs, (inputs != PAD).sum(axis=1)))


@thorough
@generating
@by_turns
@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_stepping_equals_teacher_forcing(subject, precision):
    batch = bucketed()
    mask = batch["weights"] > 0
    forced, tolerance = forced_logits(subject, precision)
    for hypothesis in np.moveaxis(stepped(subject, batch, width=3, precision=precision), 2, 0):
        assert_near(hypothesis[mask], forced[mask], tolerance)


@thorough
@both_precisions
def test_a_token_that_is_seen_and_should_not_be_is_far_beyond_the_tolerance(subject, precision):
    """What a missing mask, a leak or a place that is off by one would do to the tests that compare logits."""
    batch, model, params = bucketed(), model_in(precision, subject), gentle(subject, precision)
    expected, tolerance = forced_logits(subject, precision)
    read = "inputs" if models.family(subject.family).TRAITS.writes_in_place else "decoder_inputs"
    first, longer = batch[read].copy(), {name: batch[name].copy() for name in ("inputs", "input_segments")}
    first[:, 1] = 4 + (first[:, 1] + 5) % (VOCAB - 4)
    short = (batch["inputs"] == 0).argmax(axis=1)[:, None]  # the first place of a source's padding
    np.put_along_axis(longer["inputs"], short, 7, axis=1)
    np.put_along_axis(longer["input_segments"], short, 1, axis=1)
    mask = batch["weights"] > 0
    times = 1000 if precision == FLOAT32 else 1
    for fault in ({read: first}, longer):
        found = subject.logits({**batch, **fault}, model=model, params=params)
        assert np.abs(found - expected)[mask].max() > times * tolerance


@thorough
@generating
@both_precisions
def test_the_future_does_not_leak(subject, precision):
    batch, model, params = bucketed(), model_in(precision, subject), gentle(subject, precision)

    def logits_at(tokens, t):
        return subject.logits({**batch, "decoder_inputs": tokens}, model=model, params=params)[:, t]

    base = batch["decoder_inputs"]
    for t in (0, 2):
        changed = base.copy()
        changed[:, t + 1 :] = 4 + (changed[:, t + 1 :] + 5) % (VOCAB - 4)
        a, b = logits_at(base, t), logits_at(changed, t)
        np.testing.assert_array_equal(a, b)
        changed[:, t] = 4 + (changed[:, t] + 5) % (VOCAB - 4)
        assert np.abs(logits_at(changed, t) - a).max() > 1e-3, "the present must matter"


@thorough
@generating
@by_turns
def test_the_gradient_of_a_position_with_respect_to_later_embeddings_is_exactly_zero(subject):
    batch = bucketed()
    # Each row's inputs are distinct tokens, so the embedding table's row of a token is that position's own.
    batch["decoder_inputs"] = np.tile(np.arange(6, dtype=np.int32) + 5, (8, 1))
    batch["inputs"] = np.where(batch["inputs"] > 0, 4, 0).astype(np.int32)
    if subject.family in WITHOUT_EMBEDDINGS:
        pytest.skip(WITHOUT_EMBEDDINGS[subject.family])

    def feature(params, batch):
        return jnp.sum(subject.model.apply({"params": params}, batch, train=False).features[:, 2] ** 2)

    gradient = jax.jit(jax.grad(feature))(subject.params, subject.given(batch))
    leaves = {sharding.path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(gradient)}
    tables = [leaf for name, leaf in leaves.items() if re.search(r"(^|/)(target_)?embedding/table$", name)]
    assert len(tables) == 1, f"which parameter embeds what the decoder reads? {sorted(leaves)}"
    table = tables[0]
    assert np.abs(table[5:8]).sum(axis=1).all(), "positions 0, 1 and 2 matter at position 2"
    np.testing.assert_array_equal(table[8:11], 0)


@thorough
@by_turns
@labelling
def test_a_label_depends_on_all_of_its_own_text_on_nothing_of_others_and_on_no_target(subject):
    """By the gradient of the label of the first text's first token, in a packed row."""
    batch = packed()
    batch["inputs"] = np.tile(np.arange(20, dtype=np.int32) % VOCAB, (4, 1))  # each token of the row is another one
    own = batch["inputs"][0, batch["input_segments"][0] == 1]
    others = np.setdiff1d(np.arange(VOCAB), own)

    def label(params, batch):
        return jnp.sum(subject.model.apply({"params": params}, batch, train=False).features[0, 0] ** 2)

    def label_of(vectors, params, batch):
        inputs = jnp.where(batch["input_segments"][..., None] > 0, vectors[batch["inputs"]], jnp.nan)
        return label(params, batch | {"inputs": inputs})

    if isinstance(subject.reads, Vectors):
        gradient = np.asarray(jax.jit(jax.grad(label_of))(VECTORS, subject.params, batch))
    else:
        gradient = np.asarray(jax.jit(jax.grad(label))(subject.params, batch)["source_embedding"]["table"])
    assert np.abs(gradient[own]).sum(axis=1).all()
    np.testing.assert_array_equal(gradient[others], 0)
    without = {name: np.zeros_like(batch[name]) for name in ("targets", "decoder_inputs")}
    np.testing.assert_array_equal(subject.logits(batch), subject.logits(batch | without))


@thorough
@by_turns
@both_precisions
def test_padding_the_source_and_the_target_leaves_the_logits_unchanged(subject, precision):
    loose, model = bucketed(source=11, target=9, rows=10), model_in(precision, subject)
    expected, tolerance = forced_logits(subject, precision)
    found = subject.logits(loose, model=model, params=gentle(subject, precision))[:8, :6]
    mask = bucketed()["weights"] > 0
    assert_near(found[mask], expected[mask], tolerance)


@thorough
@both_precisions
def test_packing_is_invisible(subject, precision):
    together, model = packed(), model_in(precision, subject)
    a, tolerance = forced_logits(subject, precision)
    b = subject.logits(together, model=model, params=gentle(subject, precision))
    rows, slot = [0, 0, 0, 1, 1, 1, 2, 2], [1, 2, 3, 1, 2, 3, 1, 2]
    here = [b[row, together["target_segments"][row] == n] for row, n in zip(rows, slot, strict=True)]
    expected = [a[i, : len(SPLIT["target"][i])] for i in range(8)]
    assert_near(np.concatenate(here), np.concatenate(expected), tolerance)


@thorough
@generating
@by_turns
def test_hypotheses_that_change_places_at_every_step_keep_their_pasts(subject):
    """`reorder` is all that search has to do: each hypothesis scores as if it had been alone."""
    check_pasts(subject, width=3)


@pytest.mark.thorough(families=("causal_lm",))
@generating
def test_so_do_hypotheses_that_are_many(subject):
    check_pasts(subject, width=MOST_ANCHORED + 1)


def check_pasts(subject, width):
    batch, steps, rng = bucketed(), 5, np.random.default_rng(0)
    B = len(batch["inputs"])
    chosen = rng.integers(4, VOCAB, (steps, B, width))
    parents = rng.integers(0, width, (steps, B, width))
    pasts = np.zeros((B, width, 0), int)
    for tokens, order in zip(chosen, parents, strict=True):
        pasts = np.concatenate([pasts, tokens[..., None]], axis=2)
        last, pasts = pasts, np.take_along_axis(pasts, order[..., None], axis=1)

    @jax.jit
    def run(params, source, chosen, parents):
        def method(name, *args, **kwargs):
            return subject.model.apply({"params": params}, *args, method=name, **kwargs)

        memory = method("encode", source)
        cache = method("init_cache", memory, width=width, max_len=steps)

        def step(cache, now):
            tokens, order = now
            logits, cache = method("decode_step", tokens, cache, memory)
            return reorder(cache, order), logits

        return jax.lax.scan(step, cache, (chosen, parents))[1][-1]

    given = source_of(subject, batch), jnp.asarray(chosen), jnp.asarray(parents)
    found = np.asarray(run(subject.params, *given))
    alone = {"inputs": np.repeat(batch["inputs"], width, axis=0), "decoder_inputs": last.reshape(B * width, steps)}
    expected = stepped(subject, alone)[:, -1, 0].reshape(found.shape)
    tolerance = allowed(lambda params: run(params, *given), subject.params)
    assert_near(found, expected, tolerance)
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-3


@thorough
@by_turns
@both_precisions
def test_jit_equals_eager(subject, precision):
    batch, model = bucketed(), model_in(precision, subject)
    given = jax.tree.map(jnp.asarray, subject.given(batch))
    output = model.apply({"params": gentle(subject, precision)}, given, train=False)
    expected, tolerance = forced_logits(subject, precision)
    real = batch["weights"] > 0
    assert_near(np.asarray(logits(output, FLOAT32))[real], expected[real], tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("subject", VECTOR_SUBJECTS, ids=lambda subject: subject.name)
def test_what_stands_in_padding_reaches_no_loss_and_no_gradient(subject):
    batch = bucketed()
    loss = functools.partial(summed_loss, subject.model, FLOAT32, shards=1)
    differentiated = jax.jit(jax.value_and_grad(loss))
    found = [
        differentiated(subject.params, batch | {"inputs": vectors_of(batch, padding=padding)})
        for padding in (0, np.nan, np.inf, -3e38)
    ]
    assert np.isfinite(found[0][0])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found[0][1]["source_embedding"]))
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


def dropping(subject, precision):
    rates = {"dropout": 0.2} if "dropout" in {f.name for f in dataclasses.fields(subject.model.config)} else {}
    return model_in(precision, subject, **rates)


def summed_loss(model, precision, params, batch, shards):
    # Another key, 3, puts a unit of the Transformer 4e-6 from its ReLU's kink, where rounding decides the gradient.
    options = LossOptions(label_smoothing=0.1, z_loss=1e-4, chunk=5, shards=shards, precision=precision)
    return loss_sums(model, params, batch, options, dropout_key=jax.random.key(4)).loss


@functools.cache
def on_one_device(subject, precision):
    """Loss and gradients, and how far others may be from them."""
    loss = functools.partial(summed_loss, dropping(subject, precision), precision, shards=1)
    differentiated, params = jax.jit(jax.value_and_grad(loss)), gentle(subject, precision)
    batch = subject.given(bucketed())
    return differentiated(params, batch), allowed(lambda p: differentiated(p, batch), params, precision)


@pytest.mark.thorough(families=("rnn_seq2seq",))
@pytest.mark.parametrize(
    "axes, precision",
    [
        pytest.param((8, 1, 1), FLOAT32, marks=pytest.mark.slow),
        pytest.param((4, 2, 1), FLOAT32, marks=pytest.mark.slow),
        ((2, 2, 2), FLOAT32),
        pytest.param((2, 2, 2), BFLOAT16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_eight_devices_equal_one(subject, axes, precision):
    """Loss and gradients with dropout, over data, fsdp and tensor axes, parameters gathered as `step` does."""
    model, family = dropping(subject, precision), models.family(subject.family)
    mesh, rules = sharding.make_mesh(sharding.MeshConfig(*axes)), family.sharding_rules(model.config)
    params = gentle(subject, precision)
    places = sharding.shard_parameters(mesh, params, rules, stored=True)
    by_layer = family.TRAITS.gathers_layers and model.config.remat != "none" and mesh.shape["fsdp"] > 1
    knows_mesh, stacks = family.TRAITS.splits_time, set()

    def loss(params, batch):
        gather = sharding.layer_gather(mesh, params, rules)

        def gather_and_tell(path, layer):
            stacks.add(path)
            return gather(path, layer)

        with (
            sharding.with_mesh(mesh) if knows_mesh else contextlib.nullcontext(),
            layers_gathered(gather_and_tell if by_layer else None),
        ):
            ready = sharding.gather(mesh, params, rules, layers=not by_layer)
            return summed_loss(model, precision, ready, batch, sharding.batch_shards(mesh))

    @jax.jit
    def value(params, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        return value, jax.lax.with_sharding_constraint(grads, places)

    expected, tolerances = on_one_device(subject, precision)
    batch = sharding.to_devices(subject.given(bucketed()), sharding.batch_sharding(mesh))
    found = value(jax.device_put(params, places), batch)
    names = ("layers", "layers_0")  # stacked, or the first of those that are not, whose places are all layers'
    of_layers = {path[: path.index(name) + 1] for path in paths(params) for name in names if name in path}
    assert stacks == (of_layers if by_layer else set()), "all stacks gather their layers' parameters, if rematerialised"
    for (path, one), eight, tolerance in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(found), jax.tree.leaves(tolerances), strict=True
    ):
        np.testing.assert_allclose(eight, one, rtol=0, atol=tolerance, err_msg=sharding.path_name(path))


def paths(params) -> list[tuple[str, ...]]:
    return [tuple(sharding.path_name(path).split("/")) for path, _ in jax.tree.leaves_with_path(params)]


@thorough
@by_turns
def test_dropout_acts_in_training_only_and_by_its_key(subject):
    fields = {f.name for f in dataclasses.fields(subject.model.config)}
    if "dropout" not in fields:
        pytest.skip("no dropout")
    model = subject.build(dropout=0.4)

    @jax.jit
    def features(params, batch, key):
        return model.apply({"params": params}, batch, train=True, rngs={"dropout": key}).features

    @jax.jit
    def plain(params, batch):
        return model.apply({"params": params}, batch, train=False).features

    batch = subject.given(bucketed())
    a, b, c = (np.asarray(features(subject.params, batch, jax.random.key(k))) for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-2
    assert np.abs(a - plain(subject.params, batch)).max() > 1e-2


@thorough
def test_attention_rows_are_distributions_over_the_sentences_own_source(subject):
    batch = packed()
    weights = jax.jit(lambda p, b: cross_attention(subject.model, p, b))(subject.params, subject.given(batch))
    if weights is None:
        pytest.skip("no attention over a source")
    weights = np.asarray(weights)
    same = batch["target_segments"][:, :, None] == batch["input_segments"][:, None, :]
    real = batch["target_segments"] > 0
    assert_close(weights[real].sum(axis=-1), np.ones(real.sum()), roundings=2 * weights.shape[-1])
    np.testing.assert_array_equal(weights[real][~same[real]], 0)


@thorough
@generating
@by_turns
def test_attention_of_steps_is_that_of_teacher_forcing(subject):
    batch = bucketed()
    teach, given = jax.jit(lambda p, b: cross_attention(subject.model, p, b)), subject.given(batch)
    forced = teach(subject.params, given)

    @jax.jit
    def run(params, source, tokens):
        def method(name, *args, **kwargs):
            return subject.model.apply({"params": params}, *args, method=name, **kwargs)

        memory = method("encode", source)
        cache = method("init_cache", memory, width=2, max_len=tokens.shape[1])

        def step(cache, tokens):
            tokens = jnp.repeat(tokens[:, None], 2, axis=1)
            (_, cache), sown = method("decode_step", tokens, cache, memory, mutable=["attention"])
            weights = jax.tree.leaves(sown)
            return cache, sum(weights) / max(len(weights), 1)

        return jax.lax.scan(step, cache, tokens.T)[1]

    if forced is None:
        pytest.skip("no attention over a source")
    weights = np.asarray(run(subject.params, source_of(subject, batch), batch["decoder_inputs"]))  # [T, B, K, S]
    real, tolerance = batch["target_segments"] > 0, allowed(lambda params: teach(params, given), subject.params)
    for hypothesis in np.moveaxis(weights, (2, 0), (0, 2)):
        assert_near(hypothesis[real], np.asarray(forced)[real], tolerance)


@pytest.mark.thorough(families=("hmm",))
@pytest.mark.parametrize("subject", [*FIRST.values(), *FIRST_OF_VECTORS], ids=lambda subject: subject.name)
def test_a_simple_task_is_learned_in_seconds(subject):
    """By one variant of each family, and of each that reads vectors."""
    rng, task = np.random.default_rng(0), TASKS.get(subject.family, Task())

    def batch_of(n):
        sides = (Column.from_rows(side) for side in zip(*(task.example(rng) for _ in range(n)), strict=True))
        planned = PlannedBatch(Shape(n, 6, 6), np.arange(n), np.arange(n))
        return subject.given(assemble(planned, Examples.of_pairs(*sides)))

    fields = {f.name for f in dataclasses.fields(subject.model.config)}
    sizes = {name: size for name, size in (("width", 48), ("hidden", 96)) if name in fields}
    model = subject.build(**sizes, **task.options)
    params = jax.jit(lambda key, batch: model.init(key, batch, train=False))(jax.random.key(0), batch_of(2))["params"]
    optimizer = optax.adam(optax.linear_schedule(0, task.learning_rate, 40), b2=0.98)

    def loss(params, batch):
        sums = loss_sums(model, params, batch, LossOptions(), dropout_key=None)
        return sums.loss / sums.weight, sums.correct / sums.weight

    @jax.jit
    def step(params, state, batch):
        (_, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, accuracy

    state, accuracy = optimizer.init(params), 0.0
    for i in range(600):
        params, state, latest = step(params, state, batch_of(64))
        if i % 20 == 19:
            accuracy = float(latest)
            if accuracy > 0.98:
                return
    pytest.fail(f"accuracy {accuracy:.2f} after 600 steps")
