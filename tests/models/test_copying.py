"""Encoder-decoders that copy: what copies, what the losses see, and what copying is for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from s2sjax import models
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.errors import UserError
from s2sjax.experiment import base_config, resolve
from s2sjax.inference.likelihood import logits, loss_sums
from s2sjax.ops.copying import coverage_loss
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions
from s2sjax.ports import Tokens
from s2sjax.sharding import path_name
from tests import loops
from tests.contract.conftest import VOCAB, packed
from tests.tolerance import assert_close

FAMILIES = ("gnmt", "rnn_seq2seq", "transformer")
SMALL = {"dropout": 0.0, "width": 16}
LAYERS = {"encoder_layers": 2, "decoder_layers": 2}


def build(family, vocab=VOCAB, **options):
    module = models.family(family)
    return module.build(
        module.Config(**SMALL | LAYERS | options), Tokens(vocab), Tokens(vocab), precision=Precision.FLOAT32
    )


@functools.cache
def sown(scan: bool):
    """Parameters of a Transformer that copies; of `packed()` its output, watched and not, and its blocks' attention."""
    model, batch = build("transformer", copy=True, coverage_weight=0.5, heads=2, hidden=16, scan=scan), packed()

    @jax.jit
    def run(batch):
        params = model.init(jax.random.key(0), batch, train=False)["params"]
        params = jax.tree.map(lambda p: p * 1.5 + 0.2 * jax.random.normal(jax.random.key(1), p.shape), params)
        output, made = model.apply({"params": params}, batch, train=False, mutable=["attention"])
        alone = model.apply({"params": params}, batch, train=False)  # while nobody watches
        return params, output, jax.tree.leaves(made), alone

    return run(batch)


@pytest.mark.parametrize("scan", [False, True], ids=["in turn", "in a loop"])
def test_the_last_block_of_a_transformer_copies_by_the_mean_of_its_heads(scan):
    params, output, attention, alone = sown(scan)
    batch, p = packed(), loops.float64(params)
    assert len(attention) == 2 and np.abs(attention[0] - attention[1]).max() > 0.1
    for made in (output, alone):
        probabilities = np.exp(logits(made, Precision.FLOAT32))
        for row, t in ((0, 0), (0, 3), (1, 5)):
            word = p["target_embedding"]["table"][batch["decoder_inputs"][row, t]] * 16**0.5
            x, pointing = (np.asarray(of[row, t], np.float64) for of in (output.features, attention[1]))
            scores = p["target_embedding"]["table"] @ x
            expected = loops.copying(p["copy_gate"], (x, word), scores, pointing, batch["inputs"][row])
            np.testing.assert_allclose(probabilities[row, t], expected, rtol=1e-4, atol=1e-7)
        assert_close(made.aux, 0.5 * coverage_loss(attention[1], jnp.asarray(batch["weights"])), roundings=100)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_copied_needs_a_vocabulary_of_both(family):
    module = models.family(family)
    with pytest.raises(UserError, match=r"19 and 20 entries; set config.tokenizer.joint=True or config.model.copy=F"):
        module.build(module.Config(copy=True, tied="none"), Tokens(19), Tokens(20), precision=Precision.FLOAT32)
    config = base_config(model=family)
    config.model.copy, config.model.tied, config.tokenizer.joint = True, "none", False
    with pytest.raises(UserError, match="so there is one vocabulary: set config.tokenizer.joint=True"):
        resolve(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_copying_there_are_no_parameters_for_it(family):
    def names(**options):
        init = functools.partial(build(family, **options).init, jax.random.key(0), train=False)
        shapes = jax.eval_shape(init, packed())["params"]
        return {path_name(path) for path, _ in jax.tree.leaves_with_path(shapes)}

    vectors = {"transformer": set(), "rnn_seq2seq": {"coverage"}, "gnmt": {"decoder_bottom/coverage"}}[family]
    gate = {"copy_gate/generation/kernel", "copy_gate/generation/bias"}
    assert names(copy=True) - names() == gate
    assert names(coverage_weight=1.0) - names() == vectors


WORDS = range(4, 304)
"""Training writes all but the last 50 of them."""


def pairs(rng, words, count):
    """Strings of six random words: sources, and the same as targets."""
    side = Column.from_rows([np.append(rng.choice(words, 6), 3) for _ in range(count)])
    split = Examples.of_pairs(side, side)
    return assemble(PlannedBatch(Shape(count, 8, 8), np.arange(count), np.arange(count)), split)


def tokens_right(copy: bool) -> tuple[float, float]:
    """Share of the tokens that a Transformer ranks first, in strings of words that training wrote, and of others."""
    rng, seen, unseen = np.random.default_rng(0), WORDS[:-50], WORDS[-50:]
    model = build("transformer", vocab=WORDS.stop, copy=copy, width=48, heads=2, hidden=64)
    params = jax.jit(lambda batch: model.init(jax.random.key(0), batch, train=False))(pairs(rng, seen, 2))["params"]
    optimizer = optax.adam(optax.linear_schedule(0, 4e-3, 40), b2=0.98)

    def loss(params, batch):
        sums = loss_sums(model, params, batch, LossOptions(), dropout_key=None)
        return sums.loss / sums.weight, sums.correct / sums.weight

    @jax.jit
    def step(params, state, batch):
        (_, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, accuracy

    state = optimizer.init(params)
    for _ in range(600):
        params, state, accuracy = step(params, state, pairs(rng, seen, 64))
        if accuracy > 0.99:
            break
    right = jax.jit(loss)
    return float(right(params, pairs(rng, seen, 64))[1]), float(right(params, pairs(rng, unseen, 64))[1])


@pytest.mark.slow
def test_words_that_training_never_wrote_are_copied_and_are_not_generated():
    copying, plain = tokens_right(copy=True), tokens_right(copy=False)
    assert min(copying[0], plain[0]) > 0.95, "both learn to repeat words that they have written"
    assert plain[1] < 1.1 / 7, "of seven tokens one is end-of-sentence"
    assert copying[1] > 2.5 / 7
