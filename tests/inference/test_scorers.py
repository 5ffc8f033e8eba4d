"""Models of different families as one: text in, text out, scores, and the likelihood of a batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax import models, sharding
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.units import CharTokenizer
from s2sjax.decode.ensemble import KINDS
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.likelihood import logits
from s2sjax.inference.requests import PositionLimit, RequestFormat
from s2sjax.inference.scorers import Ensemble, Single
from s2sjax.inference.translator import Translator
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from s2sjax.vocabulary import EOS
from tests.tiny import compiling_once

TOKENIZER = CharTokenizer("abcdefgh")
SOURCES = ["abc", "h", "gfedcba", "cc", "bad"]
CONFIG = DecodeConfig(beam_size=3, nbest=2, max_length_factor=1.0, max_length_offset=4, batch_size=8)
SIZES = {
    "transformer": {"width": 16, "hidden": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0},
    "hmm": {"states": 8},
}
"""An encoder-decoder, and a language model that mixes distributions."""


@pytest.fixture(scope="module", autouse=True)
def compiled_in_a_hurry(tmp_path_factory):
    with compiling_once(tmp_path_factory.mktemp("xla")):
        yield


def batch_of(pairs):
    """Pairs of text and token ids as a batch with one pair a row."""
    sources = [np.append(row, EOS) for row in TOKENIZER.encode([source for source, _ in pairs])]
    split = Examples.of_pairs(Column.from_rows(sources), Column.from_rows([np.array(ids) for _, ids in pairs]))
    return assemble(PlannedBatch(Shape(len(pairs), 8, 16), np.arange(len(pairs)), np.arange(len(pairs))), split)


@pytest.fixture(scope="module")
def members():
    """One model of each family with random parameters; nothing is compiled for them."""
    rng, vocab = np.random.default_rng(0), TOKENIZER.vocab_size

    def member(family):
        module = models.family(family)
        model = module.build(module.Config(**SIZES[family]), Tokens(vocab), Tokens(vocab), precision=Precision.FLOAT32)
        init = lambda key, batch: model.init(key, batch, train=False)["params"]  # noqa: E731
        shapes = jax.eval_shape(init, jax.random.key(0), batch_of([("a", [5, EOS])]))
        return Single(model, Precision.FLOAT32), jax.tree.map(
            lambda leaf: jnp.asarray(0.7 * rng.standard_normal(leaf.shape), leaf.dtype), shapes
        )

    return [member(family) for family in SIZES]


def translator(members, kind, **limits):
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    scorers, params = zip(*members, strict=True)
    pair, format = TokenizerPair(TOKENIZER, TOKENIZER), RequestFormat(max_source_length=20, **limits)
    config = dataclasses.replace(CONFIG, ensemble=kind)
    return Translator(Ensemble(scorers, kind), params, pair, config, format, mesh=mesh)


@functools.partial(jax.jit, static_argnums=0)
def all_logits(model, params, batch):
    return logits(model.apply({"params": params}, batch, train=False), Precision.FLOAT32)


def combined(members, kind, batch):
    """Log-probability of each target [B, T], from the members' whole distributions, float64."""
    scores = np.stack([np.asarray(all_logits(scorer.model, params, batch), np.float64) for scorer, params in members])
    log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    mixed = np.log(np.exp(log_probs).mean(axis=0)) if kind == "probabilities" else log_probs.mean(axis=0)
    mixed -= np.log(np.exp(mixed).sum(axis=-1, keepdims=True))
    return np.take_along_axis(mixed, np.asarray(batch["targets"])[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.slow)])
def test_scores_are_the_members_teacher_forced_and_nothing_depends_on_the_batch(members, kind):
    search = translator(members, kind)
    found = search(SOURCES).result
    pairs = [(source, h) for source, hypotheses in zip(SOURCES, found, strict=True) for h in hypotheses]
    assert len(pairs) == 2 * len(SOURCES)
    batch = batch_of([(source, h.ids) for source, h in pairs])
    expected = combined(members, kind, batch)
    np.testing.assert_allclose([h.score for _, h in pairs], (expected * batch["weights"]).sum(axis=1), atol=1e-4)

    log_probs, nll = jax.jit(
        lambda params, batch: (
            search.scorer.token_log_probs(params, batch), search.scorer.nll(params, batch, chunk=8, shards=1)
        )
    )(search.params, batch)  # fmt: skip
    np.testing.assert_allclose(log_probs * batch["weights"], expected * batch["weights"], atol=1e-5)
    assert float(nll) == pytest.approx(-(expected * batch["weights"]).sum(), rel=1e-5)

    for others in (search(SOURCES[::-1]).result[::-1], search(SOURCES[:2]).result):
        for left, right in zip(found, others, strict=False):
            assert [h.ids for h in left] == [h.ids for h in right]
            np.testing.assert_allclose([h.score for h in left], [h.score for h in right], atol=1e-4)


def test_the_narrowest_positions_hold_for_sources_and_outputs(members):
    search = translator(members, "probabilities", positions=(PositionLimit(9), PositionLimit(8, one_sequence=True)))
    assert search.requests.max_source_length == 7
    sources = [*SOURCES, "abcdefgh"]
    rows, found = search.requests.source_rows(sources).result, search(sources)
    assert max(map(len, rows)) == 7 and found.counts.truncated == 2
    pairs = zip(rows, found.result, strict=True)
    assert all(len(row) + len(h.ids) <= 8 for row, hypotheses in pairs for h in hypotheses)
