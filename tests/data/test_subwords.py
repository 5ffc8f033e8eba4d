"""Draws of segmentations: without chance SentencePiece's own, with it those that the papers' definitions give."""

import functools
import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

from s2sjax.data import subwords
from s2sjax.data.subwords import BpeDropout, Pieces, UnigramSampling
from s2sjax.data.tokenizer import train_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig

WORDS = ["lower", "low", "newest", "widest", "wider", "lowest", "new", "Straße", "straßen", "über", "3", "21"]
MODELS = {
    "bpe": {"kind": "bpe", "vocab_size": 70},
    "bpe, symbols": {"kind": "bpe", "vocab_size": 80, "user_symbols": ("<2de>", "we", "=>")},
    "bpe, bytes": {"kind": "bpe", "vocab_size": 320, "byte_fallback": True},
    "bpe, some characters": {"kind": "bpe", "vocab_size": 60, "character_coverage": 0.98},
    "unigram": {"kind": "unigram", "vocab_size": 60},
    "unigram, symbols": {"kind": "unigram", "vocab_size": 70, "user_symbols": ("<2de>", "we", "=>")},
    "unigram, bytes": {"kind": "unigram", "vocab_size": 320, "byte_fallback": True},
}
PARTS = [*WORDS, " ", "<2de>", "=>", "▁", "ß", "lowerlowestnewest" * 3]
TEXTS = st.lists(st.sampled_from(PARTS) | st.text("lowenstdi \nxß€", max_size=6), max_size=8).map("".join)


@functools.cache
def trained(name, line_ends=False):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(100)]
    config = TokenizerConfig(**MODELS[name])
    return train_tokenizers(config, list(zip(texts, texts[::-1], strict=True)), line_ends=line_ends).source


@functools.cache
def sampler(name, strength, line_ends=False):
    """`strength` of the chance: the rate of BPE-dropout, or the exponent."""
    pieces = Pieces(trained(name, line_ends).to_bytes())
    return pieces, (BpeDropout if pieces.kind == "bpe" else UnigramSampling)(pieces, strength)


def cut(row, pieces, draw, uniform):
    """A row cut anew, word by word."""
    starts = np.flatnonzero(pieces.word_starts(row))
    words = np.split(row, starts[1:]) if len(row) else []
    made = [w.tobytes() if pieces.fixed[w[0]] else draw(w.tobytes(), uniform) for w in words]
    return np.frombuffer(b"".join(made), np.int32)


@pytest.mark.parametrize("line_ends", [False, True])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60)
@given(text=TEXTS)
def test_without_chance_the_segmentation_is_sentencepieces(name, line_ends, text):
    tokenizer = trained(name, line_ends)
    pieces, draw = sampler(name, 0.0 if "bpe" in name else 1e9, line_ends)
    (row,) = tokenizer.encode([text])
    found = cut(row, pieces, draw, random.Random(0).random)
    if "unigram" in name:  # of equals, which SentencePiece adds up in float32, it may take another
        likelihood = [sum(pieces.scores[i] for i in ids) for ids in (row.tolist(), found.tolist())]
        assert likelihood[1] == pytest.approx(likelihood[0], abs=1e-4)
        assert tokenizer.decode(found) == tokenizer.decode(row)
    else:
        assert found.tolist() == row.tolist()


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60)
@given(text=TEXTS, seed=st.integers(0, 2**32))
def test_any_sample_decodes_to_the_same_text_and_keeps_what_is_no_ordinary_piece(name, text, seed):
    tokenizer = trained(name)
    (row,) = tokenizer.encode([text])
    for strength in (0.0, 0.3, 0.8):
        pieces, draw = sampler(name, strength)
        found = cut(row, pieces, draw, random.Random(seed).random)
        assert tokenizer.decode(found) == tokenizer.decode(row)
        assert found[pieces.fixed[found]].tolist() == row[pieces.fixed[row]].tolist()


@pytest.mark.parametrize("name", ["bpe, symbols", "unigram, symbols"])
def test_what_follows_on_a_user_symbol_is_sampled_too(name):
    pieces, draw = sampler(name, 0.3 if "bpe" in name else 0.0)
    (row,) = trained(name).encode(["<2de>lost<2de>lost"])
    uniform = random.Random(0).random
    found = {tuple(cut(row, pieces, draw, uniform)[-4:].tolist()) for _ in range(100)}
    assert len(found) > 1


def made_model(kind, scores):
    """A model of these pieces, after the four specials."""
    proto = ModelProto(trainer_spec=TrainerSpec(model_type=TrainerSpec.ModelType.Value(kind.upper())))
    for special in ("<pad>", "<unk>", "<s>", "</s>"):
        proto.pieces.add(piece=special, type=ModelProto.SentencePiece.CONTROL)
    for piece, score in scores.items():
        proto.pieces.add(piece=piece, score=score)
    return Pieces(proto.SerializeToString())


def word_of(pieces, *texts):
    return np.array([pieces.ids[text] for text in texts], np.int32).tobytes()


def frequencies(pieces, draw, word, draws):
    uniform = random.Random(0).random
    counts = Counter(draw(word, uniform) for _ in range(draws))
    return {tuple(pieces.texts[i] for i in np.frombuffer(ids, np.int32)): n / draws for ids, n in counts.items()}


def assert_close(found, expected, draws):
    """By Hoeffding's inequality, frequencies of so many draws are all this near in all but one of a million tests."""
    assert sum(expected.values()) == pytest.approx(1)
    bound = math.sqrt(math.log(2e6 * len(expected)) / (2 * draws))
    assert bound < 0.025
    assert found.keys() <= expected.keys()
    far = {cut: (found.get(cut, 0.0), p) for cut, p in expected.items() if abs(found.get(cut, 0.0) - p) > bound}
    assert not far


MERGES = {"ab": -1, "bc": -2, "abc": -3, "aba": -4, "cab": -5, "abab": -6, "bcab": -7}
CHARACTERS = dict.fromkeys("abc", -9)


def by_definition(word, rate):
    """Algorithm 1 of the paper: the probability of each outcome, over all sets of merges that a round leaves out."""
    outcomes, split = Counter(), tuple(word)
    ways = Counter({split: 1.0})
    while ways:
        split, probability = ways.popitem()
        merges = [(MERGES[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(split)) if a + b in MERGES]
        for kept in itertools.product((False, True), repeat=len(merges)):
            share = probability * math.prod(1 - rate if keep else rate for keep in kept)
            left = [merge for merge, keep in zip(merges, kept, strict=True) if keep]
            if left:
                place = -max(left)[1]
                ways[(*split[:place], split[place] + split[place + 1], *split[place + 2 :])] += share
            else:
                outcomes[split] += share
    return outcomes


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_bpe_dropout_is_distributed_as_algorithm_1_says(rate):
    pieces = made_model("bpe", CHARACTERS | MERGES)
    found = frequencies(pieces, BpeDropout(pieces, rate), word_of(pieces, *"abcabab"), 20_000)
    assert_close(found, by_definition("abcabab", rate), 20_000)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_unigram_sampling_is_distributed_as_the_power_of_the_probability(alpha):
    scores = CHARACTERS | {"a": -3.0, "b": -2.5, "ab": -4.0, "bc": -5.0, "abc": -6.0, "cab": -6.5}
    pieces, text = made_model("unigram", scores), "abcab"
    weights = {}
    for borders in itertools.product((False, True), repeat=len(text) - 1):
        places = [0, *(i + 1 for i, border in enumerate(borders) if border), len(text)]
        segments = tuple(text[a:b] for a, b in itertools.pairwise(places))
        if all(segment in scores for segment in segments):
            weights[segments] = math.exp(alpha * sum(scores[segment] for segment in segments))
    expected = {segments: weight / sum(weights.values()) for segments, weight in weights.items()}
    found = frequencies(pieces, UnigramSampling(pieces, alpha), word_of(pieces, *text), 20_000)
    assert_close(found, expected, 20_000)


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_draws_do_not_depend_on_what_is_kept_of_words(name, monkeypatch):
    rows = trained(name).encode([" ".join(WORDS), "newlowestwidest", "lowest lowest"])
    pieces = Pieces(trained(name).to_bytes())
    cls, strength = (BpeDropout, 0.3) if name == "bpe" else (UnigramSampling, 0.1)

    def draws():
        draw, uniform = cls(pieces, strength), random.Random(1).random
        return [cut(row, pieces, draw, uniform).tolist() for row in rows for _ in range(20)]

    expected = draws()
    assert len({tuple(row) for row in expected}) > 20
    monkeypatch.setattr(subwords, "_WORDS", 1)
    assert draws() == expected
    monkeypatch.setattr(subwords, "_LONG", 0)
    assert draws() == expected


AXB_AB = {"bpe": {("axb", "ab")}, "unigram": {(*a, *b) for a in (["axb"], ["ax", "b"]) for b in (["ab"], ["a", "b"])}}


@pytest.mark.parametrize(("kind", "outcomes"), AXB_AB.items())
def test_a_character_that_is_no_piece_of_its_own_is_never_alone(kind, outcomes):
    """As in a vocabulary that was cut down: "x" is only known in "ax"."""
    pieces = made_model(kind, {"a": -2.0, "b": -2.0, "ab": -2.5, "ax": -3.0, "axb": -4.0})
    draw = (BpeDropout if kind == "bpe" else UnigramSampling)(pieces, 0.5)
    assert frequencies(pieces, draw, word_of(pieces, "axb", "ab"), 500).keys() == outcomes


def test_a_model_whose_pieces_go_beyond_words_is_cut_as_one():
    pieces = made_model("unigram", {"▁": -1.0, "a": -1.0, "▁a": -2.0, "a▁a": -3.0})
    row = np.frombuffer(word_of(pieces, "▁a", "▁a", "a▁a"), np.int32)
    assert pieces.word_starts(row).tolist() == [True, False, False]
    pieces = made_model("unigram", {"▁": -1.0, "a": -1.0, "▁a": -2.0, "▁▁": -3.0})
    row = np.frombuffer(word_of(pieces, "▁a", "▁a", "▁", "▁a", "a"), np.int32)
    assert pieces.word_starts(row).tolist() == [True, True, True, False, False]
