"""Random models small enough to enumerate, in JAX and in plain Python, and slow twins of search.
 Their logits depend on the whole history, through a cache: a hypothesis that is handed another's cache gets other
logits. The same integer arithmetic runs in JAX and in numpy, so both see the same models.
"""

import functools
import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.decode.beam import beam_search
from s2sjax.decode.constraints import UNCONSTRAINED, Asked

SCORE = 32
"""Roundings in a score: log-softmax over a vocabulary of at most 12, a sum over at most 13 tokens, and a penalty."""
PAD, UNK, BOS, EOS = 0, 1, 2, 3
A, B = 4, 5
WORDS = (UNK, BOS, A, B)


def penalty(config, n):
    """The length penalties once more, as the papers write them."""
    match config.length_penalty:
        case "none":
            return 1.0
        case "power":
            return n**config.alpha
        case "gnmt":
            return ((5 + n) / 6) ** config.alpha
        case "sockeye":
            return (config.beta + n) ** config.alpha / (config.beta + 1) ** config.alpha


def score(config, total, n, reference=None):
    brevity = config.brevity * math.log(min(1.0, math.exp(1 - reference / n))) if config.brevity else 0.0
    return total / penalty(config, n) + brevity


def mix(x):
    """A 32-bit integer hash (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def to_logits(state, xp, vocabulary):
    """`[...] -> [..., V]`, uniform in [-3, 3), padding included."""
    bits = mix(state[..., None] + xp.arange(1, vocabulary + 1, dtype=xp.uint32) * np.uint32(0x9E3779B9))
    return (bits >> 8).astype(xp.float32) * np.float32(6 / 2**24) - np.float32(3)


def hash_step(tokens, cache, *, vocabulary):
    """A step function whose state is spread over leaves of several ranks and types."""
    wide = cache["wide"][:, :, 1, 0].astype(jnp.uint32)
    state = mix(cache["state"] * np.uint32(31) + wide + tokens.astype(jnp.uint32))
    cache = {"state": state, "wide": jnp.full_like(cache["wide"], 7) + (state % 1024)[..., None, None]}
    return to_logits(state, jnp, vocabulary), cache


def hash_cache(seeds, beam_size):
    state = jnp.broadcast_to(jnp.asarray(seeds, jnp.uint32)[:, None], (len(seeds), beam_size))
    return {"state": state, "wide": jnp.zeros((*state.shape, 2, 3), jnp.float32)}


class PlainModel:
    """The same models for plain Python: log-probabilities after a tuple of tokens, float64.

    With an array of seeds `[B]` it is as many models at once.
    """

    def __init__(self, seed, vocabulary):
        self.seed, self.vocabulary = np.asarray(seed).astype(np.uint32), vocabulary

    @functools.cache  # noqa: B019 - a model lives for one test
    def state(self, prefix):
        if not prefix:
            state, wide, token = self.seed, np.uint32(0), BOS
        else:
            state, token = self.state(prefix[:-1]), prefix[-1]
            wide = np.uint32(7) + state % np.uint32(1024)
        with np.errstate(over="ignore"):
            return mix(state * np.uint32(31) + wide + np.uint32(token))

    @functools.cache  # noqa: B019
    def log_probs(self, prefix):
        with np.errstate(over="ignore"):
            logits = to_logits(np.asarray(self.state(prefix)), np, self.vocabulary).astype(np.float64)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def rescore(self, tokens):
        return sum(self.log_probs(tuple(tokens[:i]))[..., token] for i, token in enumerate(tokens))


def every_hypothesis(vocabulary, max_len, *, ends=(EOS,), pad=PAD):
    """All token sequences that end within `max_len` tokens."""
    words = [token for token in range(vocabulary) if token not in (pad, *ends)]
    return [(*body, end) for n in range(max_len) for body in itertools.product(words, repeat=n) for end in ends]


def repeats(tokens, size):
    """Whether an n-gram of this size occurs twice."""
    ngrams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return len(set(ngrams)) < len(ngrams)


def plain_beam_search(log_probs, vocabulary, config, limit, *, minimum=0, reference=None, obeys=lambda tokens: True):
    """The slow twin: beam search of one sentence in plain Python. Returns [(score, log_prob, tokens)], best first.

    Args:
        log_probs: of the token after a tuple of tokens.
        obeys: whether a tuple of tokens may be a prefix of a hypothesis, or one.
    """
    W, ends = config.beam_size // config.groups, config.ends
    groups = [([(0.0, 0.0, ())], []) for _ in range(config.groups)]
    for n in range(1, limit + 1):
        newest = Counter()
        for g, (live, pool) in enumerate(groups):
            candidates = []
            for total, log_prob, h in live:
                for token in ends if n == limit else range(vocabulary):
                    word = log_probs(h)[token]
                    new = (*h, token)
                    early = token in ends and n < minimum
                    if token == config.pad or word == -math.inf or early or not obeys(new):
                        continue
                    if config.no_repeat_ngram and repeats(new, config.no_repeat_ngram):
                        continue
                    ranked = word * (config.repetition_penalty if token in h else 1) - config.diversity * newest[token]
                    candidates.append((total + ranked, log_prob + word, new))
            candidates = sorted(candidates, key=lambda c: -c[0])[: (1 + len(ends)) * W if W > 1 else 1]
            ended = [(score(config, total, n, reference), lp, h) for total, lp, h in candidates[:W] if h[-1] in ends]
            if config.stop == "first":
                pool = pool + ended[: W - len(pool)]
            else:
                pool = sorted(pool + ended, key=lambda f: -f[0])[:W]
            live = [c for c in candidates if c[2][-1] not in ends][:W]
            if len(pool) == W and (
                config.stop == "first"
                or (config.stop == "bound" and live and score(config, live[0][0], limit, reference) <= pool[-1][0])
                or (config.stop == "present" and live and score(config, live[0][0], n, reference) <= pool[-1][0])
            ):
                live = []
            newest.update(h[-1] for _, _, h in live)
            groups[g] = (live, pool)
    found = {}
    for entry in sorted((entry for _, pool in groups for entry in pool), key=lambda f: -f[0]):
        found.setdefault(entry[2], entry)
    return list(found.values())


# One compilation for each (config, vocabulary, batch, kinds of constraints), shared by all tests.


@functools.partial(jax.jit, static_argnames=("config", "vocabulary"))
def search_hash(seeds, max_lengths, min_lengths, references, constraints, *, config, vocabulary):
    return beam_search(
        functools.partial(hash_step, vocabulary=vocabulary),
        hash_cache(seeds, config.beam_size),
        jnp.full(seeds.shape, BOS, jnp.int32),
        config,
        Asked(max_lengths, min_lengths, references, constraints),
    )


def run_hash(
    seeds,
    *,
    config,
    vocabulary=6,
    max_lengths=None,
    min_lengths=None,
    references=None,
    constraints=UNCONSTRAINED,
):
    limits = np.full(len(seeds), config.max_len) if max_lengths is None else max_lengths
    result = search_hash(
        jnp.asarray(seeds, jnp.uint32),
        jnp.asarray(limits, jnp.int32),
        None if min_lengths is None else jnp.asarray(min_lengths, jnp.int32),
        None if references is None else jnp.asarray(references, jnp.float32),
        jax.tree.map(jnp.asarray, constraints),
        config=config,
        vocabulary=vocabulary,
    )
    return jax.tree.map(np.asarray, result)


def table_step(tables):
    """The step function of Markov models, `[B, V, V]` logits of what follows each token, and its cache for a width."""
    rows = jnp.arange(tables.shape[0])[:, None]
    return (
        lambda tokens, sentence: (tables[sentence, tokens], sentence),
        lambda width: jnp.broadcast_to(rows, (tables.shape[0], width)),
    )


@functools.partial(jax.jit, static_argnames=("config",))
def search_table(tables, max_lengths, constraints, bos, *, config):
    step, cache = table_step(tables)
    bos = jnp.full(tables.shape[0], bos, jnp.int32)
    return beam_search(step, cache(config.beam_size), bos, config, Asked(max_lengths, constraints=constraints))


def run_table(table, config, constraints=UNCONSTRAINED, max_lengths=None, bos=BOS):
    table = np.asarray(table, np.float32)
    tables = table if table.ndim == 3 else table[None]
    limits = jnp.full(len(tables), config.max_len, jnp.int32) if max_lengths is None else jnp.asarray(max_lengths)
    constraints = jax.tree.map(jnp.asarray, constraints)
    return jax.tree.map(np.asarray, search_table(jnp.asarray(tables), limits, constraints, bos, config=config))


def log_table(vocabulary, rows):
    """Logits from rows of probabilities: {token: {next: probability}}; what is not named ends at once."""
    table = np.full((vocabulary, vocabulary), -np.inf)
    table[:, EOS] = 0.0
    for token, follows in rows.items():
        table[token] = -np.inf
        for following, probability in follows.items():
            table[token, following] = math.log(probability)
    return table


LATTICE = log_table(6, {BOS: {A: 0.60, B: 0.40}, A: {B: 0.55, EOS: 0.45}, B: {B: 0.10, EOS: 0.90}})


def hypotheses(result, row):
    """[(tokens, score, log_prob)] of one sentence, without the places left over."""
    tokens, scores, log_probs, lengths = (x[row] for x in result[:4])
    return [
        (tuple(tokens[n][:length].tolist()), float(scores[n]), float(log_probs[n]))
        for n, length in enumerate(lengths)
        if length
    ]


def assert_complete(result, row, expected):
    """All that there is was found of one sentence, `{tokens: (score, log_prob)}`, the best first."""
    found = {h: (ranked, log_prob) for h, ranked, log_prob in hypotheses(result, row)}
    assert set(found) == set(expected)
    if expected:
        assert next(iter(found)) == max(expected, key=expected.get)
        np.testing.assert_allclose([found[h] for h in expected], list(expected.values()), atol=1e-5)
    else:
        assert result.scores[row, 0] == -np.inf and result.lengths[row, 0] == 0
    ranks = [ranked for ranked, _ in found.values()]
    assert ranks == sorted(ranks, reverse=True)


def assert_lawful(result, row, log_probs):
    """What was found of one sentence of a Markov model, `log_probs` [V, V]: nothing twice, each with one end and the
    log-probability of its tokens. Returns it."""
    found = hypotheses(result, row)
    assert len({h for h, _, _ in found}) == len(found)
    for tokens, _, log_prob in found:
        assert tokens[-1] == EOS and EOS not in tokens[:-1] and PAD not in tokens
        rescored = sum(log_probs[a, b] for a, b in zip((BOS, *tokens), tokens, strict=False))
        assert -math.inf < log_prob == pytest.approx(rescored, rel=1e-5, abs=1e-4)
    return found


def assert_same(left, right, rows_left=slice(None), rows_right=slice(None)):
    for name, a, b in zip(left._fields, left, right, strict=True):
        np.testing.assert_array_equal(a[rows_left], b[rows_right], err_msg=name)
