"""Beam search over any step function: batched, compiled, exact in its bookkeeping.

What comes out for a sentence is a function of that sentence, the config, its limits and constraints: not of the other
sentences in the batch, not of padding, not of how many hypotheses were asked for. `beam_search` says how.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from s2sjax.api import Cache
from s2sjax.decode.beam_config import BeamConfig
from s2sjax.decode.candidates import Candidates, Following, best_candidates, choose, rows, top_k
from s2sjax.decode.constraints import (
    Asked,
    any_of,
    constrain,
    follow_states,
    forced_tokens,
    is_off,
    root_states,
)
from s2sjax.decode.lexical import asked_for, choose_by_bank
from s2sjax.decode.penalty import brevity_penalty, length_penalty
from s2sjax.decode.phrases import Progress, no_progress
from s2sjax.decode.stepping import StepFn, check_cache, checked, expanding, reorder
from s2sjax.errors import UserError
from s2sjax.vocabulary import FILL

__all__ = ["BeamConfig", "BeamResult", "beam_search"]


class BeamResult(NamedTuple):
    """The N best finished hypotheses of each sentence, best first.

    Where a sentence has fewer than N possible hypotheses, the places left over have score and log-probability -inf,
    length 0 and only padding. Where the step function gave a NaN (or +inf) logit to a live hypothesis of a sentence,
    every score and log-probability of that sentence is NaN, with length 0 and only padding.
    """

    tokens: Int[Array, "B N T"]
    """Int32: the tokens, end-of-sentence, then padding."""
    scores: Float[Array, "B N"]
    """Float32, what hypotheses are ranked by: log-probability (with the repetition penalty and diversity, where these
    are on) divided by the length penalty, plus the brevity penalty and the bonus."""
    log_probs: Float[Array, "B N"]
    """Float32: sum of the tokens' log-probabilities in nats, end-of-sentence counted: what teacher forcing gives. The
    model's own, whatever the config says."""
    lengths: Int[Array, "B N"]
    """Int32: number of tokens, end-of-sentence counted."""


class _Group(NamedTuple):
    """W = K / groups live hypotheses and a pool of W finished ones. With one group, all there is."""

    tokens: Array  # [B, W], the last token of each live hypothesis
    sequences: Array  # [B, W, T], all of its tokens
    totals: Array  # [B, W], what they are ranked by, descending; -inf is a dead hypothesis: an empty place in the beam
    log_probs: Array  # [B, W], the model's own
    states: Array | None  # [B, W], of the trie
    progress: Progress | None  # with phrases
    finished: BeamResult  # the pool, with N = W


class _State(NamedTuple):
    length: Array  # [], tokens in every live hypothesis
    cache: Cache
    groups: tuple[_Group, ...]
    broken: Array  # [B], a live hypothesis met NaN


class _Stepped(NamedTuple):
    """What a step gives one group."""

    length: Int[Array, ""]
    """Tokens of each hypothesis with the one that follows."""
    logits: Float[Array, "B W V"]
    gains: Float[Array, "B W"] | None
    """What the score of each hypothesis gains if it ends with this step."""


Bonus = Callable[[Cache], Float[Array, "B K"]]
"""From the cache after a step to what the score of each hypothesis gains if it ends with that step; at most 0."""


def beam_search(
    step: StepFn,
    cache: Cache,
    bos: Int[Array, "B"],
    config: BeamConfig,
    asked: Asked = Asked(),  # noqa: B008 - it does not change
    *,
    bonus: Bonus | None = None,
) -> BeamResult:
    """Search for the hypotheses with the best log-probability over length penalty.

    1. A sentence has K live hypotheses and a pool of K finished ones. Every step ranks all one-token continuations of
       the live hypotheses by log-probability. Those among the K best that are end-of-sentence are finished: they
       enter the pool if their score (penalised) beats its worst. The K best that are not end-of-sentence live on. So
       2K candidates are enough, even when the K best all end at once; with E tokens that end, (1 + E) K.
    2. At first all K hypotheses are the same, so only the first is alive (log-probability 0); the others are dead
       (-inf). That is why no hypothesis can appear twice. A dead hypothesis is fed padding, its logits are not looked
       at, and it is never returned. With a cache of one hypothesis the first step is made for one, and what it gives
       is given to all.
    3. A sentence is done when no live hypothesis can enter its pool any more: when the bound of `s2sjax.decode.penalty`
       on the best of them, at the sentence's length limit, does not exceed the worst score in the (full) pool; of a tie
       the earlier one stays. Then all its live hypotheses die, which freezes its pool: what the rest of the batch does
       cannot reach it. That is `stop="bound"`, and what comes out is what `stop="never"`, which goes on to the length
       limit, would return later. `stop="first"` is fairseq's rule: a sentence is done when K hypotheses have finished;
       those K, in the order in which they finished (within a step, of log-probability), are never replaced by better
       ones. `stop="present"` is Hugging Face's default: the bound, at the present length in place of the limit, which
       is none where a length penalty favours longer hypotheses. Both stop earlier, and may miss what is better.
    4. Neither the pool's size nor the bound knows `nbest`: the best of 1 is the best of 5.
    5. At its length limit a hypothesis can only end, and pays end-of-sentence's log-probability for it. So every
       hypothesis ends in end-of-sentence, and its log-probability is the one that teacher forcing gives to the same
       tokens.
    6. Log-probabilities are those of the whole softmax, in float32. Padding is never a candidate, because a
       hypothesis could not be told from a shorter one; nothing is renormalised for it, nor for constraints
       (`s2sjax.decode.constraints`), so observation 5 holds. With phrases to use, the places among the "K best" are
       divided (`s2sjax.decode.lexical`), in each group for itself.
    7. With K = 1 there is no second-best candidate to go on with: the sentence ends at its first end-of-sentence.
       That is greedy search, argmax by argmax, under every penalty.
    8. A NaN is not searched around: it ends the sentence and makes its scores NaN (see `BeamResult`), and no other's.
       A bonus above 0 is treated alike, since the bound would not hold.
    9. Diverse groups (arXiv:1610.02424, algorithm 1): each of G groups is a beam of K / G with a pool of its own. At
       every step they choose in turn, and a candidate loses `diversity` for each live hypothesis of an earlier group
       whose newest word is the same; what is lost stays lost in the score. The first group is plain beam search. At
       the end the pools are merged, best score first, and a hypothesis that several groups found is returned once. A
       group that is done pushes no longer. In the lattice below with K = G = 2 and no length penalty, both groups are
       greedy. The first finds "a b eos". The second would too, but with diversity 1 it begins with b, at -0.916 against
       -0.511 - 1 for a, and then ends, at -1.022 against -3.219 - 1 for another b: "b eos".

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
        cache: before the first step (`api.Cache`). But for what is anchored, every leaf leads with `[B, K]`, or every
            leaf with `[B, 1]` (observation 2; `stepping.narrow` makes it). The new cache must have the same structure,
            shapes and types.
        bos: what every sentence begins with, `[B]` int32. Not part of the hypotheses.
        config: static.
        asked: of each sentence. The closer its length limit, the closer the bound, and the sooner it is done. Where its
            constraints cannot be met there is no hypothesis (see `BeamResult`).
        bonus: what the score of a hypothesis gains when it ends, for one the coverage penalty
            (`s2sjax.decode.coverage`).

    Returns:
        The `config.nbest` best hypotheses of each sentence.

    Raises:
        UserError: if a cache leaf does not lead as it should, if the logits are not `[B, K, V]`, if V does not hold
            `ends` and `pad`, or if a constraint is over another vocabulary.
    """
    (B,), K, T = bos.shape, config.beam_size, config.max_len
    W = K // config.groups
    cache_width = check_cache(cache, B, K)
    if config.brevity and asked.reference_lengths is None:
        raise UserError(f"brevity is {config.brevity}, but there are no reference_lengths to compare with")
    asked, constraints = asked.limited(B, T), asked.constraints
    nothing = BeamResult(
        tokens=jnp.full((B, W, T), FILL, jnp.int32),
        scores=jnp.full((B, W), -jnp.inf),
        log_probs=jnp.full((B, W), -jnp.inf),
        lengths=jnp.zeros((B, W), jnp.int32),
    )
    only_first = jnp.broadcast_to(jnp.where(jnp.arange(W) == 0, 0.0, -jnp.inf), (B, W))
    group = _Group(
        tokens=jnp.broadcast_to(bos[:, None], (B, W)).astype(jnp.int32),
        sequences=nothing.tokens,
        totals=only_first,
        log_probs=only_first,
        states=root_states(constraints, B, W),
        progress=None if constraints.phrases is None else no_progress(constraints.phrases, W),
        finished=nothing,
    )
    start = _State(jnp.int32(0), cache, (group,) * config.groups, jnp.zeros(B, bool))
    step = checked(step, ends=config.ends, pad=config.pad)
    advance = functools.partial(_advance, asked=asked, bonus=bonus, config=config)

    def going_on(state: _State) -> Array:
        return (state.length < T) & jnp.any(jnp.stack([jnp.any(group.totals > -jnp.inf) for group in state.groups]))

    if cache_width < K:
        start = advance(start, step=expanding(step))
    end = lax.while_loop(going_on, functools.partial(advance, step=step), start)
    pools = [group.finished for group in end.groups]
    best = jax.tree.map(lambda x: x[:, : config.nbest], pools[0] if len(pools) == 1 else _merge(pools))
    broken = end.broken[:, None]
    gone = broken | (best.scores == -jnp.inf)
    return BeamResult(
        tokens=jnp.where(gone[..., None], FILL, best.tokens),
        scores=jnp.where(broken, jnp.nan, best.scores),
        log_probs=jnp.where(broken, jnp.nan, jnp.where(gone, -jnp.inf, best.log_probs)),
        lengths=jnp.where(gone, 0, best.lengths),
    )


def _advance(state: _State, *, step: StepFn, asked: Asked, bonus: Bonus | None, config: BeamConfig) -> _State:
    """Make every live hypothesis one token longer, and finish those that end."""
    length, W = state.length + 1, config.beam_size // config.groups
    logits, cache = step(jnp.concatenate([group.tokens for group in state.groups], axis=1), state.cache)
    bonuses = None if bonus is None else bonus(cache)
    groups: list[_Group] = []
    parents, broken = [], state.broken
    for i, group in enumerate(state.groups):
        mine = slice(i * W, (i + 1) * W)
        stepped = _Stepped(length, logits[:, mine], None if bonuses is None else bonuses[:, mine])
        group, parent, met_nan = _extend(group, stepped, groups, asked, config)
        groups.append(group)
        parents.append(parent + i * W)
        broken |= met_nan
    order = jnp.concatenate(parents, axis=1)
    return _State(length, reorder(cache, order), tuple(groups), broken)


def _extend(
    group: _Group, stepped: _Stepped, earlier: Sequence[_Group], asked: Asked, config: BeamConfig
) -> tuple[_Group, Int[Array, "B W"], Array]:
    """One step of one group. Returns it, the parent of each of its hypotheses, and which sentences met NaN in it."""
    length, gains = stepped.length, stepped.gains
    best, going, progress, broken = _continue(group, stepped, earlier, asked, config)
    if gains is not None:
        broken |= jnp.any((group.totals > -jnp.inf) & ~(gains <= 0), axis=1)

    def written(chosen: Candidates) -> Array:
        return rows(group.sequences, chosen.parents).at[:, :, length - 1].set(chosen.tokens)

    def log_probs(chosen: Candidates) -> Array:
        return rows(group.log_probs, chosen.parents) + chosen.log_probs

    enters = any_of(best.tokens, config.ends) & (best.totals > -jnp.inf)
    if config.stop == "first":
        room = (group.finished.scores == -jnp.inf).sum(axis=1, keepdims=True)
        enters &= jnp.cumsum(enters, axis=1) <= room
    references = None if asked.reference_lengths is None else asked.reference_lengths[:, None]
    scores = _score(best.totals, length, references, config)
    if gains is not None:
        scores += rows(gains, best.parents)
    scores = jnp.where(enters, scores, -jnp.inf)
    new = BeamResult(written(best), scores, log_probs(best), jnp.full_like(best.tokens, length))
    # The pool comes first: top_k prefers the earlier of equals, so a tie changes nothing and -inf never enters.
    pool = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), group.finished, new)
    _, kept = top_k(pool.scores, scores.shape[1])
    finished = jax.tree.map(lambda x: rows(x, kept), pool)

    match config.stop:
        case "bound" | "present":
            longest = asked.limits[:, None] if config.stop == "bound" else length
            bound = _score(going.totals[:, :1], longest, references, config)
            done = bound[:, 0] <= finished.scores[:, -1]
        case "first":
            done = finished.scores[:, -1] > -jnp.inf
        case _:
            done = jnp.zeros_like(broken)
    totals = jnp.where((done | broken)[:, None], -jnp.inf, going.totals)
    states = None if group.states is None else rows(group.states, going.parents)
    extended = _Group(
        tokens=jnp.where(totals > -jnp.inf, going.tokens, FILL),
        sequences=written(going),
        totals=totals,
        log_probs=log_probs(going),
        states=follow_states(asked.constraints, states, going.tokens),
        progress=progress,
        finished=finished,
    )
    return extended, going.parents, broken


def _continue(
    group: _Group, stepped: _Stepped, earlier: Sequence[_Group], asked: Asked, config: BeamConfig
) -> tuple[Candidates, Candidates, Progress | None, Array]:
    """The W best continuations, those that end among them; the W best that go on, and their progress with phrases; and
    which sentences met NaN."""
    (B, W), constraints, phrases = group.tokens.shape, asked.constraints, asked.constraints.phrases
    length, limits, ends = stepped.length, asked.limits, config.ends

    def adjust(log_probs):
        log_probs = constrain(log_probs, group.sequences, length - 1, group.states, constraints, config)
        if config.diversity and earlier:
            log_probs -= config.diversity * _newest_words(earlier, log_probs.shape[2])[:, None]
        return log_probs

    off = is_off(constraints, config) and not (config.diversity and earlier)
    too_short = None
    if asked.min_lengths is not None:
        too_short = jnp.broadcast_to((length < asked.min_lengths)[:, None], (B, W))
    also = None
    if phrases is not None and group.progress is not None:
        unmet = ~jnp.all(group.progress.met, axis=2)
        too_short = unmet if too_short is None else too_short | unmet
        also = asked_for(phrases, group.progress, ends)
    forced = forced_tokens(constraints.prefix, length, limits, ends)
    following = Following(forced, too_short, None if off else adjust, also)
    width = (1 + len(ends)) * W if W > 1 else 1
    candidates, broken = best_candidates(
        stepped.logits, group.totals, following, width=width, ends=ends, pad=config.pad
    )
    if phrases is None or group.progress is None:
        best, going = choose(candidates, width=W, ends=ends)
        return best, going, None, broken
    best, going, progress = choose_by_bank(candidates, phrases, group.progress, limits - length, width=W, ends=ends)
    return best, going, progress, broken


def _score(totals: Float[Array, "B W"], lengths: Array, references: Array | None, config: BeamConfig) -> Array:
    """What hypotheses of these lengths (`[]` or `[B, 1]`) are ranked by: see `s2sjax.decode.penalty`."""
    lengths = jnp.broadcast_to(lengths, (totals.shape[0], 1))
    scores = totals / length_penalty(config.length_penalty, config.alpha, lengths, beta=config.beta)
    if config.brevity and references is not None:
        scores += brevity_penalty(config.brevity, lengths, references)
    return scores


def _newest_words(groups: Sequence[_Group], vocabulary: int) -> Float[Array, "B V"]:
    """How many live hypotheses of these groups have each word as their last."""
    tokens = jnp.concatenate([group.tokens for group in groups], axis=1)
    alive = jnp.concatenate([group.totals > -jnp.inf for group in groups], axis=1).astype(jnp.float32)
    return jax.vmap(lambda words, counts: jnp.zeros(vocabulary).at[words].add(counts))(tokens, alive)


def _merge(pools: Sequence[BeamResult]) -> BeamResult:
    """One pool from those of all groups, best first; of equal hypotheses, only the best scored keeps its score."""
    every = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *pools)
    for _ in range(2):  # sorted so that the better of equals comes first, then without the others
        scores, order = top_k(every.scores, every.scores.shape[1])
        every = jax.tree.map(lambda x, order=order: rows(x, order), every)
        same = jnp.all(every.tokens[:, :, None] == every.tokens[:, None], axis=-1)
        again = jnp.any(jnp.tril(same, k=-1), axis=2)
        every = every._replace(scores=jnp.where(again, -jnp.inf, scores))
    return every
