"""Sampling: hypotheses drawn from the model, several a sentence, each sentence with a random key of its own.

`proposal` is the distribution that is drawn from; `sample` draws from it independently, and
`s2sjax.decode.stochastic.stochastic_beam_search` without replacement.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Key

from s2sjax.api import Cache
from s2sjax.decode import truncation
from s2sjax.decode.constraints import (
    Asked,
    any_of,
    constrain,
    follow_states,
    force,
    forced_tokens,
    refuse_phrases,
    root_states,
)
from s2sjax.decode.stepping import StepFn, check_cache, checked, expanding
from s2sjax.errors import UserError
from s2sjax.vocabulary import EOS, FILL, PAD, check_ends


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """What to draw from. Hashable, so it can be a static argument of `jax.jit`.

    What changes the distribution is applied in the order of the fields, and the result is normalised. With the
    defaults it is the model's own, but for padding, which is never drawn.

    Attributes:
      samples: N: hypotheses drawn for each sentence; the width K of the cache.
      max_len: T: the most tokens a hypothesis may have, end-of-sentence counted; at the limit it is drawn for sure.
      repetition_penalty: What log-probabilities of words that a hypothesis already has are multiplied by, above 0; 1 is
        off.
      no_repeat_ngram: No n-gram of this many tokens occurs twice in a hypothesis; 0 is off.
      temperature: What log-probabilities are divided by, above 0: below 1 sharper, above 1 flatter. For greedy search,
        use a beam of 1.
      top_k: Only the k most probable words; 0 is off. This and the next three: `s2sjax.decode.truncation`.
      top_p: Only the most probable words that have this probability together, above 0; 1 is off.
      min_p: Only words at least this many times as probable as the most probable, below 1; 0 is off.
      typical: Only the words nearest to the entropy that have this probability together, above 0; 1 is off.
      ends: Tokens of which each ends a hypothesis. Without any, end-of-sentence is a token like others, as between the
        lines of a running text, and a hypothesis has as many tokens as its limit says.
      pad: Token that is never drawn; None if all may be.
    """

    samples: int = 1
    max_len: int = 128
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    ends: tuple[int, ...] = (EOS,)
    pad: int | None = PAD

    def __post_init__(self):
        for name, least in (("samples", 1), ("max_len", 1), ("no_repeat_ngram", 0), ("top_k", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("repetition_penalty", "temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"{name} is {getattr(self, name)}, expected a finite number above 0; 1 changes nothing")
        for name in ("top_p", "typical"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected a number above 0, at most 1; 1 is off")
        if not 0 <= self.min_p < 1:
            raise UserError(f"min_p is {self.min_p}, expected a number from 0, below 1; 0 is off")
        check_ends(self.ends, self.pad)


class SampleResult(NamedTuple):
    """N hypotheses of each sentence, in the order in which they were drawn; there may be equal ones.

    Where a hypothesis came to a point where nothing may follow, it has log-probabilities -inf, length 0 and only
    padding. Where the step function gave it a NaN (or +inf) logit, its log-probabilities are NaN, with length 0 and
    only padding.
    """

    tokens: Int[Array, "B N T"]
    """Int32: the tokens, end-of-sentence, then padding."""
    log_probs: Float[Array, "B N"]
    """Float32: sum of the tokens' log-probabilities in nats, end-of-sentence counted: what teacher forcing gives. The
    model's own, whatever was drawn from."""
    drawn: Float[Array, "B N"]
    """Float32: the log-probability with which the hypothesis was drawn; `exp(log_probs - drawn)` is its importance
    weight."""
    lengths: Int[Array, "B N"]
    """Int32: number of tokens, end-of-sentence counted."""


def sentence_keys(seed: Int[Array, ""] | int, ids: Int[Array, "B"]) -> Key[Array, "B"]:
    """A random key for each sentence from one seed and the sentences' own numbers (their lines in the input, say)."""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(ids)


class _State(NamedTuple):
    length: Array  # [], tokens of every hypothesis that has not ended
    cache: Cache
    alive: Array  # [B, N]
    states: Array | None  # [B, N], of the trie
    tokens: Array  # [B, N], the last token
    found: SampleResult


def sample(
    step: StepFn,
    cache: Cache,
    bos: Int[Array, "B"],
    config: SampleConfig,
    keys: Key[Array, "B"],
    asked: Asked = Asked(),  # noqa: B008 - it does not change
) -> SampleResult:
    """Draw `config.samples` hypotheses of each sentence, independently of each other.

    1. A word is drawn by the Gumbel-max trick: the greatest log-probability plus noise. The noise of token t of sample
       n is a function of (the sentence's key, n, t): not of the batch, its order or its padding, nor of N.
    2. Constraints (`s2sjax.decode.constraints`), limits and truncations make words impossible, and what is left is
       normalised at every step. That is how `drawn` comes to differ from `log_probs`, which are the model's.
    3. Every hypothesis ends in end-of-sentence: at its limit nothing else can be drawn. Without `config.ends`, none
       does: at its limit it just ends.

    Args:
        step: the step function. It sees tokens `[B, N]` int32, `bos` at first; padding where a hypothesis has ended.
        cache: as in `beam_search`, with K = N. It is never reordered.
        bos: what every sentence begins with, `[B]` int32. Not part of the hypotheses.
        config: static.
        keys: typed random keys (`jax.random.key`), one a sentence; `sentence_keys` makes them.
        asked: of each sentence; phrases are refused.

    Raises:
        UserError: as `beam_search`.
    """
    (B,), N, T = bos.shape, config.samples, config.max_len
    cache_width = check_cache(cache, B, N)
    refuse_phrases(asked.constraints, "sampling")
    asked, constraints = asked.limited(B, T), asked.constraints
    sample_keys = jax.vmap(lambda key: jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(N)))(keys)
    step = checked(step, ends=config.ends, pad=config.pad)

    def advance(state: _State, step: StepFn = step) -> _State:
        length, found = state.length + 1, state.found
        logits, cache = step(state.tokens, state.cache)
        log_q, log_p = proposal(logits, found.tokens, length, state.states, asked, config)
        noise = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, length), log_q.shape[2:])))
        tokens = jnp.argmax(log_q + noise(sample_keys), axis=-1).astype(jnp.int32)
        chosen = functools.partial(jnp.take_along_axis, indices=tokens[..., None], axis=-1)
        # -inf or NaN where nothing may follow or a logit was NaN; either ends the hypothesis without a length.
        drawn = jnp.where(state.alive, found.drawn + chosen(log_q)[..., 0], found.drawn)
        log_probs = jnp.where(state.alive, found.log_probs + chosen(log_p)[..., 0], found.log_probs)
        alive = state.alive & jnp.isfinite(drawn)
        ended = alive & (any_of(tokens, config.ends) if config.ends else (length >= asked.limits)[:, None])
        tokens = jnp.where(alive, tokens, FILL)
        return _State(
            length=length,
            cache=cache,
            alive=alive & ~ended,
            states=follow_states(constraints, state.states, tokens),
            tokens=jnp.where(ended, FILL, tokens),
            found=SampleResult(
                tokens=found.tokens.at[:, :, length - 1].set(tokens),
                log_probs=log_probs,
                drawn=drawn,
                lengths=jnp.where(ended, length, found.lengths),
            ),
        )

    start = _State(
        length=jnp.int32(0),
        cache=cache,
        alive=jnp.ones((B, N), bool),
        states=root_states(constraints, B, N),
        tokens=jnp.broadcast_to(bos[:, None], (B, N)).astype(jnp.int32),
        found=SampleResult(
            tokens=jnp.full((B, N, T), FILL, jnp.int32),
            log_probs=jnp.zeros((B, N)),
            drawn=jnp.zeros((B, N)),
            lengths=jnp.zeros((B, N), jnp.int32),
        ),
    )
    if cache_width < N:
        start = advance(start, expanding(step))
    end = lax.while_loop(lambda state: (state.length < T) & jnp.any(state.alive), advance, start).found
    gone = end.lengths == 0
    return end._replace(
        tokens=jnp.where(gone[..., None], FILL, end.tokens),
        log_probs=jnp.where(gone, end.drawn, end.log_probs),
    )


def proposal(
    logits: Float[Array, "B K V"],
    sequences: Int[Array, "B K T"],
    length: Int[Array, ""],
    states: Int[Array, "B K"] | None,
    asked: Asked,
    config: SampleConfig,
) -> tuple[Float[Array, "B K V"], Float[Array, "B K V"]]:
    """The distribution that token number `length` (from 1) is drawn from, and the model's own, as log-probabilities.

    The first is -inf everywhere where nothing may follow, and NaN everywhere where a logit is NaN or +inf.
    """
    logits = logits.astype(jnp.float32)
    peak = logits.max(axis=-1, keepdims=True)
    # Without any possible word (all logits -inf) there is no softmax: nothing may follow, and that is no NaN.
    log_p = jnp.where(peak == -jnp.inf, -jnp.inf, jax.nn.log_softmax(logits, axis=-1))
    constraints, minimums = asked.constraints, asked.min_lengths
    log_q = constrain(log_p, sequences, length - 1, states, constraints, config)
    too_short = None if minimums is None or not config.ends else length < minimums
    forced = forced_tokens(constraints.prefix, length, asked.limits, config.ends)
    log_q = force(log_q, forced, too_short, ends=config.ends, pad=config.pad)
    log_q /= config.temperature
    if config.top_k:
        log_q = truncation.top_k(log_q, config.top_k)
    if config.top_p < 1:
        log_q = truncation.top_p(log_q, config.top_p)
    if config.min_p > 0:
        log_q = truncation.min_p(log_q, config.min_p)
    if config.typical < 1:
        log_q = truncation.typical(log_q, config.typical)
    possible = jnp.any(log_q > -jnp.inf, axis=-1, keepdims=True)
    log_q = jnp.where(possible, jax.nn.log_softmax(log_q, axis=-1), -jnp.inf)
    return jnp.where(peak < jnp.inf, log_q, jnp.nan), log_p
