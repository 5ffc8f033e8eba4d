"""From the logits of live hypotheses to their best continuations, in one pass over the vocabulary.

This is where a step of search spends its time, so what is not asked for costs nothing here, and what concerns single
words (padding, end-of-sentence, a forced word) never becomes a mask over `[B, K, V]`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from s2sjax.decode.constraints import FREE, NOTHING, any_of

# Top-k looks for the best blocks of this many words first. A whole search step over [64, 5, 8000] on two cores: 1.8 ms
# with 32 or 64, 3.6 with 128, against 5.2 with one top-k over [64, 5 * 8000]; making logits and softmax is 1.3 of each.
BLOCK = 32


class Candidates(NamedTuple):
    """Continuations of live hypotheses by one token, best first. -inf is no continuation at all."""

    totals: Float[Array, "B W"]
    """What the hypothesis is ranked by: the total of its parent and this token's log-probability, adjusted."""
    log_probs: Float[Array, "B W"]
    """The model's own log-probability of the token."""
    parents: Int[Array, "B W"]
    tokens: Int[Array, "B W"]


class Following(NamedTuple):
    """Which tokens may follow live hypotheses. What is None costs nothing."""

    forced: Int[Array, "B E"]
    """The only tokens that may follow in a sentence (`constraints.forced_tokens`)."""
    too_short: Bool[Array, "B K"] | None = None
    """Hypotheses that no end-of-sentence may follow."""
    adjust: Callable[[Array], Array] | None = None
    """From log-probabilities `[B, K, V]` to what they are ranked by, at most 0; -inf forbids."""
    also: Int[Array, "B K E"] | None = None
    """Tokens, or `NOTHING`, by which hypotheses are to go on whether that is among the best or not. These and the best
    token of each hypothesis then come after the best `width`, in no order; each continuation is there once."""


def best_candidates(
    logits: Float[Array, "B K V"],
    live: Float[Array, "B K"],
    following: Following,
    *,
    width: int,
    ends: Sequence[int],
    pad: int | None,
) -> tuple[Candidates, Bool[Array, "B"]]:
    """The best `width` continuations, and which sentences met NaN (or +inf) in a live hypothesis.

    Equal to one top-k over the flattened `[B, K * V]`, ties included, and several times faster on a CPU: the W best
    words lie in the W blocks with the greatest maxima, so only those blocks are looked into.

    Args:
        logits: of the next token, unnormalised.
        live: totals of the live hypotheses; -inf is a dead one.
        width: W, at most `K * BLOCK`.
    """
    forced, too_short, adjust, also = following
    B, K, V = logits.shape
    blocks = -(-V // BLOCK)
    logits = logits.astype(jnp.float32)

    def block_maxima(words):
        # [B, K, V] -> [B, K, V / BLOCK]
        padded = jnp.pad(words, ((0, 0), (0, 0), (0, blocks * BLOCK - V)), constant_values=-jnp.inf)
        return padded, padded.reshape(B, K, blocks, BLOCK).max(axis=-1)

    padded, maxima = block_maxima(logits)
    peak = maxima.max(axis=-1)
    broken = jnp.any(~(peak < jnp.inf) & (live > -jnp.inf), axis=1)
    # A hypothesis without any possible token (all logits -inf) has no softmax: it dies here instead of becoming NaN.
    alive = (live > -jnp.inf) & jnp.isfinite(peak)
    log_total = jnp.log(jnp.exp(logits - peak[..., None]).sum(axis=-1))

    if adjust is None:
        ranked, shift, scale = logits, peak, log_total
    else:
        ranked = adjust((logits - peak[..., None]) - log_total[..., None])
        shift = scale = jnp.zeros_like(peak)
        padded, maxima = block_maxima(ranked)

    def total(words, alive, live, shift, scale):
        # Each operation is monotone after rounding too, so the total of a block's maximum is the maximum of its totals.
        return jnp.where(alive, live + ((words - shift) - scale), -jnp.inf)

    def forbidden(tokens, too_short):
        """Whether words may not follow hypotheses, forced or not; what is given is broadcast."""
        no_word = (tokens < 0) | any_of(tokens, () if pad is None else (pad,))
        return no_word if too_short is None else no_word | (any_of(tokens, ends) & too_short)

    # Forbidden words are kept out of their block's maximum: a mask over [B, K, V] takes as long as the softmax.
    some_forbidden = (*(() if pad is None else (pad,)), *(() if too_short is None else ends))
    for block in sorted({word // BLOCK for word in some_forbidden}):
        words = jnp.arange(BLOCK) + block * BLOCK
        inside = padded[:, :, block * BLOCK : (block + 1) * BLOCK]
        barred = forbidden(words, None if too_short is None else too_short[..., None])
        maxima = maxima.at[:, :, block].set(jnp.where(barred, -jnp.inf, inside).max(axis=-1))
    is_forced = forced[:, :1] != FREE
    words = jnp.broadcast_to(forced[:, None], (B, K, forced.shape[1]))
    values = jnp.take_along_axis(ranked, jnp.clip(words, 0, V - 1), axis=2)
    barred = forbidden(words, None if too_short is None else too_short[..., None]) | (words >= V)
    values = jnp.where(barred, -jnp.inf, values)
    # [B, K, E] -> [B, K, E, V / BLOCK] -> [B, K, V / BLOCK]
    in_block = jnp.arange(blocks) == (words // BLOCK)[..., None]
    only = jnp.where(in_block, values[..., None], -jnp.inf).max(axis=2)
    maxima = jnp.where(is_forced[..., None], only, maxima)

    maxima = total(maxima, *(x[..., None] for x in (alive, live, shift, scale)))
    _, hopeful = top_k(maxima.reshape(B, K * blocks), min(width, K * blocks))
    # Back in the order of words: top_k prefers the earlier of equals, here the same ones as over [B, K * V].
    hopeful = jnp.sort(hopeful, axis=1)

    def places(parents, tokens):
        """Where continuations `[B, any]` stand in `[B, K * V]`."""
        return parents * V + jnp.clip(tokens, 0, V - 1)

    def look_up(parents, tokens):
        """Their totals."""
        barred = forbidden(tokens, None if too_short is None else rows(too_short, parents))
        among = jnp.any(tokens[..., None] == forced[:, None], axis=2) | ~is_forced
        allowed = ~barred & (tokens < V) & among
        values = jnp.where(allowed, rows(ranked.reshape(B, K * V), places(parents, tokens)), -jnp.inf)
        return total(values, *(rows(x, parents) for x in (alive, live, shift, scale)))

    # [B, W] blocks -> [B, W * BLOCK] words -> [B, W]
    parents = jnp.repeat(hopeful // blocks, BLOCK, axis=1)
    tokens = (hopeful[..., None] % blocks * BLOCK + jnp.arange(BLOCK)).reshape(B, -1)
    totals, best = top_k(look_up(parents, tokens), width)
    parents, tokens = rows(parents, best), rows(tokens, best)
    if also is not None:
        # [B, K] blocks -> [B, K, BLOCK] words -> [B, K, 1]
        words = jnp.argmax(maxima, axis=2)[..., None] * BLOCK + jnp.arange(BLOCK)
        own = look_up(_each(B, K, BLOCK), words.reshape(B, -1)).reshape(words.shape)
        first = jnp.take_along_axis(words, jnp.argmax(own, axis=2)[..., None], axis=2)
        others = _others(jnp.concatenate([first, also], axis=2), parents, tokens, totals)
        parents = jnp.concatenate([parents, _each(B, K, others.shape[2])], axis=1)
        tokens = jnp.concatenate([tokens, others.reshape(B, -1)], axis=1)
        totals = look_up(parents, tokens)
    chosen_logits = rows(logits.reshape(B, K * V), places(parents, tokens))
    log_probs = (chosen_logits - rows(peak, parents)) - rows(log_total, parents)
    return Candidates(totals, jnp.where(totals > -jnp.inf, log_probs, -jnp.inf), parents, tokens), broken


def _each(batch: int, width: int, count: int) -> Int[Array, "B M"]:
    """Parents of `count` continuations of each hypothesis, those of the first at first."""
    return jnp.broadcast_to(jnp.repeat(jnp.arange(width, dtype=jnp.int32), count), (batch, width * count))


def _others(tokens: Int[Array, "B K E"], parents: Array, taken: Array, totals: Array) -> Array:
    """The same tokens, with `NOTHING` in place of what occurs twice or is among the continuations `[B, W]` already."""
    E = tokens.shape[2]
    again = jnp.any((tokens[..., None] == tokens[..., None, :]) & jnp.tri(E, k=-1, dtype=bool), axis=3)
    its_own = (parents[:, None] == jnp.arange(tokens.shape[1])[:, None]) & (totals > -jnp.inf)[:, None]  # [B, K, W]
    known = jnp.any((tokens[..., None] == taken[:, None, None]) & its_own[:, :, None], axis=3)
    return jnp.where(again | known, NOTHING, tokens)


def choose(candidates: Candidates, *, width: int, ends: Sequence[int]) -> tuple[Candidates, Candidates]:
    """The best `width`, those that end among them, and the best that do not end; -inf where there are fewer."""
    best = jax.tree.map(lambda x: x[:, :width], candidates)
    totals, going = top_k(jnp.where(any_of(candidates.tokens, ends), -jnp.inf, candidates.totals), width)
    return best, chosen(candidates, going)._replace(totals=totals)


def chosen(candidates: Candidates, places: Int[Array, "B W"]) -> Candidates:
    """Those that stand at these places, in this order."""
    return jax.tree.map(lambda x: rows(x, places), candidates)


def rows(x: Array, indices: Int[Array, "B W"]) -> Array:
    """Choose along axis 1, each sentence by its own indices: `[B, K, ...]` -> `[B, W, ...]`."""
    return jax.vmap(lambda row, index: row.at[index].get(mode="promise_in_bounds"))(x, indices)


def top_k(x: Float[Array, "*any M"], k: int) -> tuple[Array, Array]:
    """The k greatest along the last axis, best first, and where they stood; the earlier of equals first."""
    values, places = lax.top_k(x, k)
    # The barriers keep XLA from merging a caller's slice into the top-k, which it then no longer recognises as one on a
    # CPU: it sorts everything instead, 450 ms in place of 4 for [64, 40000]. One for each: around both,
    # XLA aborts where a search is replicated over several CPU devices (TopkDecomposer takes it for a tuple's element).
    return lax.optimization_barrier(values), lax.optimization_barrier(places)
