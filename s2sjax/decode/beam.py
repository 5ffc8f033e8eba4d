"""Beam search over any step function: batched, compiled, exact in its bookkeeping.

What comes out for a sentence is a function of that sentence, the config and its length limit: not of the other
sentences in the batch, not of padding, not of how many hypotheses were asked for. `beam_search` says how.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from s2sjax.api import Cache
from s2sjax.decode.penalty import LENGTH_PENALTIES, length_penalty
from s2sjax.errors import UserError
from s2sjax.vocabulary import EOS, PAD

StepFn = Callable[[Array, Cache], tuple[Array, Cache]]
"""Previous tokens [B, K] int32 and the cache -> logits [B, K, V] (any float type, unnormalised) and the new cache."""

# Top-k looks for the best blocks of this many words first. A whole search step over [64, 5, 8000] on two cores: 1.8 ms
# with 32 or 64, 3.6 with 128, against 5.2 with one top-k over [64, 5 * 8000]; making logits and softmax is 1.3 of each.
BLOCK = 32


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """How to search. Hashable, so it can be a static argument of `jax.jit`."""

    beam_size: int = 5
    """K: live hypotheses a sentence, and places in its pool of finished ones. 1 is greedy search."""
    nbest: int = 1
    """N: finished hypotheses returned, at most `beam_size`. It does not change what is searched."""
    max_len: int = 128
    """T: the most tokens a hypothesis may have, end-of-sentence counted; the length of the static buffers."""
    length_penalty: str = "gnmt"
    """What a log-probability is divided by: "none", "power" or "gnmt" (see `s2sjax.decode.penalty`)."""
    alpha: float = 0.6
    """Strength of the length penalty, at least 0; 0 means none."""
    eos_id: int = EOS
    pad_id: int = PAD

    def __post_init__(self):
        for name in ("beam_size", "nbest", "max_len"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.nbest > self.beam_size:
            raise UserError(
                f"nbest is {self.nbest}, but a beam of {self.beam_size} finishes at most {self.beam_size} hypotheses: "
                f"lower nbest to {self.beam_size} or raise beam_size to {self.nbest}"
            )
        if self.length_penalty not in LENGTH_PENALTIES:
            raise UserError(f"length_penalty is '{self.length_penalty}', expected one of {', '.join(LENGTH_PENALTIES)}")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise UserError(
                f"alpha is {self.alpha}, expected a finite number of at least 0: below 0 a longer hypothesis would be "
                "penalised less and less, and search could not tell when to stop"
            )
        if self.eos_id < 0 or self.pad_id < 0 or self.eos_id == self.pad_id:
            raise UserError(f"eos_id {self.eos_id} and pad_id {self.pad_id} must be two different token ids, from 0")


class BeamResult(NamedTuple):
    """The N best finished hypotheses of each sentence, best first.

    Where a sentence has fewer than N possible hypotheses, the places left over have score and log-probability -inf,
    length 0 and only padding. Where the step function gave a NaN (or +inf) logit to a live hypothesis of a sentence,
    every score and log-probability of that sentence is NaN, with length 0 and only padding.
    """

    tokens: Int[Array, "B N T"]
    """Int32: the tokens, end-of-sentence, then padding."""
    scores: Float[Array, "B N"]
    """Float32: log-probability divided by the length penalty."""
    log_probs: Float[Array, "B N"]
    """Float32: sum of the tokens' log-probabilities in nats, end-of-sentence counted: what teacher forcing gives."""
    lengths: Int[Array, "B N"]
    """Int32: number of tokens, end-of-sentence counted."""


class _State(NamedTuple):
    length: Array  # [], tokens in every live hypothesis
    cache: Cache
    tokens: Array  # [B, K], the last token of each live hypothesis
    sequences: Array  # [B, K, T], all of its tokens
    log_probs: Array  # [B, K], descending; -inf is a dead hypothesis: an empty place in the beam
    finished: BeamResult  # the pool, with N = K
    broken: Array  # [B], a live hypothesis met NaN


class _Candidates(NamedTuple):
    """Continuations of live hypotheses by one token, best first."""

    log_probs: Float[Array, "B W"]
    parents: Int[Array, "B W"]
    tokens: Int[Array, "B W"]


def beam_search(
    step: StepFn,
    cache: Cache,
    bos: Int[Array, "B"],
    config: BeamConfig,
    *,
    max_lengths: Int[Array, "B"] | None = None,
) -> BeamResult:
    """Search for the hypotheses with the best log-probability over length penalty.

    1. A sentence has K live hypotheses and a pool of K finished ones. Every step ranks all one-token continuations of
       the live hypotheses by log-probability. Those among the K best that are end-of-sentence are finished: they
       enter the pool if their score (penalised) beats its worst. The K best that are not end-of-sentence live on. So
       2K candidates are enough, even when the K best all end at once.
    2. At first all K hypotheses are the same, so only the first is alive (log-probability 0); the others are dead
       (-inf). That is why no hypothesis can appear twice. A dead hypothesis is fed padding, its logits are not looked
       at, and it is never returned.
    3. A sentence is done when no live hypothesis can enter its pool any more: when the best live log-probability,
       over the penalty at the sentence's length limit, does not exceed the worst score in the (full) pool. The bound
       is true because log-probabilities only fall and penalties never do (`s2sjax.decode.penalty`); of a tie the
       earlier one stays. Then all its live hypotheses die, which freezes its pool: what the rest of the batch does
       cannot reach it.
    4. Neither the pool's size nor the bound knows `nbest`: the best of 1 is the best of 5.
    5. At its length limit a hypothesis can only end, and pays end-of-sentence's log-probability for it. So every
       hypothesis ends in end-of-sentence, and its log-probability is the one that teacher forcing gives to the same
       tokens.
    6. Log-probabilities are those of the whole softmax, in float32. Padding is never a candidate, because a
       hypothesis could not be told from a shorter one; nothing is renormalised for it, so observation 5 holds. No
       other token is excluded.
    7. With K = 1 there is no second-best candidate to go on with: the sentence ends at its first end-of-sentence.
       That is greedy search, argmax by argmax, under every penalty.
    8. A NaN is not searched around: it ends the sentence and makes its scores NaN (see `BeamResult`), and no other's.

    Example: the Markov lattice below (a row gives the probabilities of what may follow), K = 2, at most 4 tokens, the
    "power" penalty with alpha 1, that is, the mean log-probability a token.

                   a     b    eos        step 1  live   a -0.511,  b -0.916
            bos  0.60  0.40     -        step 2  best:  b eos -1.022,  a b -1.109;  then a eos -1.309,  b b -3.219
            a      -   0.55  0.45                pool   b eos (-1.022 / 2 = -0.511);  a eos was not among the 2 best
            b      -   0.10  0.90                live   a b -1.109,  b b -3.219
                                         step 3  best:  a b eos -1.214,  b b eos -3.324;  then a b b -3.411,  ...
                                                 pool   a b eos (-1.214 / 3 = -0.405),  b eos (-0.511)
                                                 live   a b b -3.411: at best -3.411 / 4 = -0.853 < -0.511, so done

    "a b eos" wins. Without a penalty "b eos" does, whose probability 0.36 is the greatest; greedy search misses it.

    Args:
        step: the step function. It sees tokens `[B, K]` int32, `bos` at first.
        cache: pytree of arrays before the first step; every leaf leads with `[B, K]`. The new cache must have the same
            structure, shapes and types.
        bos: what every sentence begins with, `[B]` int32. Not part of the hypotheses.
        config: static.
        max_lengths: the length limit of each sentence, `[B]` int32, end-of-sentence counted; clipped to
            `[1, config.max_len]`. By default `config.max_len` for all. The closer the limit, the closer the
            bound, and the sooner a sentence is done.

    Returns:
        The `config.nbest` best hypotheses of each sentence.

    Raises:
        UserError: if a cache leaf does not lead with `[B, K]`, if the logits are not `[B, K, V]`, or if V does not hold
            `eos_id` and `pad_id`.
    """
    (B,), K, T = bos.shape, config.beam_size, config.max_len
    for path, leaf in jax.tree.leaves_with_path(cache):
        if leaf.shape[:2] != (B, K):
            raise UserError(
                f"cache leaf {jax.tree_util.keystr(path) or '(the cache itself)'} has shape {leaf.shape}; "
                f"every leaf must lead with [batch, beam_size] = [{B}, {K}]"
            )
    limits = jnp.full(B, T, jnp.int32) if max_lengths is None else jnp.clip(max_lengths, 1, T).astype(jnp.int32)
    nothing = BeamResult(
        tokens=jnp.full((B, K, T), config.pad_id, jnp.int32),
        scores=jnp.full((B, K), -jnp.inf),
        log_probs=jnp.full((B, K), -jnp.inf),
        lengths=jnp.zeros((B, K), jnp.int32),
    )
    start = _State(
        length=jnp.int32(0),
        cache=cache,
        tokens=jnp.broadcast_to(bos[:, None], (B, K)).astype(jnp.int32),
        sequences=nothing.tokens,
        log_probs=jnp.broadcast_to(jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf), (B, K)),
        finished=nothing,
        broken=jnp.zeros(B, bool),
    )
    advance = functools.partial(_advance, step=step, limits=limits, config=config)
    end = lax.while_loop(lambda state: (state.length < T) & jnp.any(state.log_probs > -jnp.inf), advance, start)
    best = jax.tree.map(lambda x: x[:, : config.nbest], end.finished)
    broken = end.broken[:, None]
    return BeamResult(
        tokens=jnp.where(broken[..., None], config.pad_id, best.tokens),
        scores=jnp.where(broken, jnp.nan, best.scores),
        log_probs=jnp.where(broken, jnp.nan, best.log_probs),
        lengths=jnp.where(broken, 0, best.lengths),
    )


def _advance(state: _State, *, step: StepFn, limits: Int[Array, "B"], config: BeamConfig) -> _State:
    """Make every live hypothesis one token longer, and finish those that end."""
    (B, K), length = state.tokens.shape, state.length + 1
    penalty = functools.partial(length_penalty, config.length_penalty, config.alpha)

    logits, cache = step(state.tokens, state.cache)
    if logits.ndim != 3 or logits.shape[:2] != (B, K):
        raise UserError(f"the step function gave logits of shape {logits.shape}, expected [{B}, {K}, vocabulary]")
    if logits.shape[2] <= max(config.eos_id, config.pad_id):
        raise UserError(
            f"the step function gave logits over {logits.shape[2]} tokens, which do not hold "
            f"eos_id {config.eos_id} and pad_id {config.pad_id}"
        )
    candidates, broken = _best_candidates(logits, state.log_probs, length >= limits, config)
    broken = state.broken | broken
    ends = candidates.tokens == config.eos_id
    sequences = _rows(state.sequences, candidates.parents).at[:, :, length - 1].set(candidates.tokens)

    scores = jnp.where(ends, candidates.log_probs / penalty(length), -jnp.inf)
    new = BeamResult(sequences, scores, candidates.log_probs, jnp.full_like(candidates.tokens, length))
    # The pool comes first: top_k prefers the earlier of equals, so a tie changes nothing and -inf never enters.
    pool = jax.tree.map(lambda old, new: jnp.concatenate([old, new[:, :K]], axis=1), state.finished, new)
    _, kept = _top_k(pool.scores, K)
    finished = jax.tree.map(lambda x: _rows(x, kept), pool)

    log_probs, living = _top_k(jnp.where(ends, -jnp.inf, candidates.log_probs), K)
    done = log_probs[:, 0] / penalty(limits) <= finished.scores[:, -1]
    log_probs = jnp.where((done | broken)[:, None], -jnp.inf, log_probs)
    parents = _rows(candidates.parents, living)
    return _State(
        length=length,
        cache=jax.tree.map(lambda x: _rows(x, parents), cache),
        tokens=jnp.where(log_probs > -jnp.inf, _rows(candidates.tokens, living), config.pad_id),
        sequences=_rows(sequences, living),
        log_probs=log_probs,
        finished=finished,
        broken=broken,
    )


def _best_candidates(
    logits: Float[Array, "B K V"], live: Float[Array, "B K"], must_end: Bool[Array, "B"], config: BeamConfig
) -> tuple[_Candidates, Bool[Array, "B"]]:
    """The best 2K (with K = 1: the best) continuations by log-probability, and which sentences met NaN.

    Equal to one top-k over the flattened `[B, K * V]`, ties included, and several times faster on a CPU: the W best
    words lie in the W blocks with the greatest maxima, so only those blocks are looked into.

    Args:
        logits: of the next token, unnormalised.
        live: log-probabilities of the live hypotheses.
        must_end: where end-of-sentence is the only continuation.
    """
    B, K, V = logits.shape
    W = 2 * K if K > 1 else 1
    blocks = -(-V // BLOCK)
    logits = logits.astype(jnp.float32)
    # [B, K, V] -> [B, K, V / BLOCK]
    padded = jnp.pad(logits, ((0, 0), (0, 0), (0, blocks * BLOCK - V)), constant_values=-jnp.inf)
    maxima = padded.reshape(B, K, blocks, BLOCK).max(axis=-1)
    peak = maxima.max(axis=-1)
    broken = jnp.any(~(peak < jnp.inf) & (live > -jnp.inf), axis=1)
    # A hypothesis without any possible token (all logits -inf) has no softmax: it dies here instead of becoming NaN.
    alive = (live > -jnp.inf) & jnp.isfinite(peak)
    log_total = jnp.log(jnp.exp(logits - peak[..., None]).sum(axis=-1))

    def total(logits, alive, live, peak, log_total):
        # Each operation is monotone after rounding too, so the total of a block's maximum is the maximum of its totals.
        return jnp.where(alive, live + ((logits - peak) - log_total), -jnp.inf)

    # Forbidden words are kept out of their block's maximum: a mask over [B, K, V] takes as long as the softmax.
    pad_block = config.pad_id // BLOCK
    block = padded[:, :, pad_block * BLOCK : (pad_block + 1) * BLOCK]
    block = jnp.where(jnp.arange(BLOCK) == config.pad_id % BLOCK, -jnp.inf, block)
    maxima = maxima.at[:, :, pad_block].set(block.max(axis=-1))
    only_eos = jnp.where(jnp.arange(blocks) == config.eos_id // BLOCK, logits[:, :, config.eos_id, None], -jnp.inf)
    maxima = jnp.where(must_end[:, None, None], only_eos, maxima)
    maxima = total(maxima, *(x[..., None] for x in (alive, live, peak, log_total)))
    _, chosen = _top_k(maxima.reshape(B, K * blocks), min(W, K * blocks))
    # Back in the order of words: top_k prefers the earlier of equals, here the same ones as over [B, K * V].
    chosen = jnp.sort(chosen, axis=1)

    # [B, W] blocks -> [B, W * BLOCK] words -> [B, W]
    parents = jnp.repeat(chosen // blocks, BLOCK, axis=1)
    tokens = (chosen[..., None] % blocks * BLOCK + jnp.arange(BLOCK)).reshape(B, -1)
    values = _rows(logits.reshape(B, K * V), parents * V + jnp.minimum(tokens, V - 1))
    allowed = jnp.where(must_end[:, None], tokens == config.eos_id, (tokens != config.pad_id) & (tokens < V))
    values = jnp.where(allowed, values, -jnp.inf)
    totals = total(values, *(_rows(x, parents) for x in (alive, live, peak, log_total)))
    log_probs, best = _top_k(totals, W)
    return _Candidates(log_probs, _rows(parents, best), _rows(tokens, best)), broken


def _rows(x: Array, indices: Int[Array, "B W"]) -> Array:
    """Choose along axis 1, each sentence by its own indices: `[B, K, ...]` -> `[B, W, ...]`."""
    return jax.vmap(lambda row, index: row.at[index].get(mode="promise_in_bounds"))(x, indices)


def _top_k(x: Float[Array, "B M"], k: int) -> tuple[Array, Array]:
    """The k greatest along axis 1, `[B, k]`, and where they stood; the earlier of equals first."""
    values, places = lax.top_k(x, k)
    # The barrier keeps XLA from merging a caller's slice into the top-k, which it then no longer recognises as one on a
    # CPU: it sorts everything instead, 450 ms in place of 4 for [64, 40000].
    return lax.optimization_barrier((values, places))
