"""Stochastic beam search (Kool et al. 2019, arXiv:1903.06059): samples without replacement, by a beam of width K.

Every hypothesis y has a perturbed log-probability, log q(y) plus Gumbel noise of its own, and the K hypotheses where
it is greatest are an ordered sample without replacement from q. They are found without looking at the others, because
the greatest among the continuations of a prefix is itself log q(prefix) plus Gumbel noise: so it is drawn first, from
the root down, and the continuations are drawn under the condition that their maximum is what their parent has.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Key

from s2sjax.api import Cache
from s2sjax.decode.candidates import rows, top_k
from s2sjax.decode.constraints import Asked, any_of, follow_states, refuse_phrases, root_states
from s2sjax.decode.sampling import SampleConfig, proposal
from s2sjax.decode.stepping import StepFn, check_cache, checked, expanding, reorder
from s2sjax.vocabulary import FILL


class StochasticResult(NamedTuple):
    """K different hypotheses of each sentence, in the order in which they were drawn: the greatest perturbed first.

    Where fewer were found, the places left over have -inf, length 0 and only padding. Where the step function gave a
    NaN (or +inf) logit to a live hypothesis of a sentence, the numbers of that sentence are NaN, with length 0 and
    only padding.
    """

    tokens: Int[Array, "B K T"]
    """Int32: the tokens, end-of-sentence, then padding."""
    perturbed: Float[Array, "B K"]
    """Float32: `drawn` plus Gumbel noise, descending."""
    log_probs: Float[Array, "B K"]
    """Float32: as in `SampleResult`, the model's own."""
    drawn: Float[Array, "B K"]
    """Float32: log q of the hypothesis, as in `SampleResult`."""
    lengths: Int[Array, "B K"]
    """Int32: number of tokens, end-of-sentence counted."""


class _State(NamedTuple):
    length: Array  # [], tokens of every hypothesis that has not ended
    cache: Cache
    alive: Array  # [B, K]
    keys: Array  # [B, K, ...], data of the random key of each hypothesis
    states: Array | None  # [B, K], of the trie
    tokens: Array  # [B, K], the last token
    found: StochasticResult  # what has ended and what has not; -inf is an empty place
    broken: Array  # [B], a live hypothesis met NaN


def stochastic_beam_search(
    step: StepFn,
    cache: Cache,
    bos: Int[Array, "B"],
    config: SampleConfig,
    keys: Key[Array, "B"],
    asked: Asked = Asked(),  # noqa: B008 - it does not change
) -> StochasticResult:
    """Draw `config.samples` hypotheses of each sentence without replacement.

    1. The first is drawn with probability q(y), the second with q(y) / (1 - q(first)) from the others, and so on, where
       q is what `sample` draws from with the same config: the model's own distribution, if nothing is set.
    2. An ended hypothesis keeps its place in the beam as long as its perturbed log-probability is among the K
       greatest. It is the search's own score: there is no length penalty and no pool.
    3. A hypothesis's noise is a function of (the sentence's key, its tokens): not of the batch, nor of K. The
       hypotheses of K = 3 are the first three of K = 5 with the same keys.
    4. Expectations: with k the `perturbed` of the last of K hypotheses, the sum over the others of
       f(y) p(y) / (1 - exp(-exp(drawn - k))) is an unbiased estimate of the sum of f(y) p(y) over all y (section 4.2).

    Args:
        step: as in `sample`, with N = K.
        cache: as in `beam_search`; reordered at every step.
        bos: what every sentence begins with, `[B]` int32. Not part of the hypotheses.
        config: static. The distribution to draw from, and K as `samples`.
        keys: typed random keys (`jax.random.key`), one a sentence; `sampling.sentence_keys` makes them.
        asked: of each sentence; phrases are refused.

    Raises:
        UserError: as `beam_search`.
    """
    (B,), K, T = bos.shape, config.samples, config.max_len
    cache_width = check_cache(cache, B, K)
    refuse_phrases(asked.constraints, "stochastic beam search")
    asked, constraints = asked.limited(B, T), asked.constraints
    only_first = jnp.broadcast_to(jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf), (B, K))
    own_key, path_key = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    path = jax.random.key_data(path_key)
    start = _State(
        length=jnp.int32(0),
        cache=cache,
        alive=only_first > -jnp.inf,
        keys=jnp.broadcast_to(path[:, None], (B, K, *path.shape[1:])),
        states=root_states(constraints, B, K),
        tokens=jnp.broadcast_to(bos[:, None], (B, K)).astype(jnp.int32),
        found=StochasticResult(
            tokens=jnp.full((B, K, T), FILL, jnp.int32),
            perturbed=only_first + jax.vmap(jax.random.gumbel)(own_key)[:, None],
            log_probs=only_first,
            drawn=only_first,
            lengths=jnp.zeros((B, K), jnp.int32),
        ),
        broken=jnp.zeros(B, bool),
    )
    step = checked(step, ends=config.ends, pad=config.pad)

    def advance(state: _State, step: StepFn = step) -> _State:
        length, found = state.length + 1, state.found
        logits, cache = step(state.tokens, state.cache)
        V = logits.shape[2]
        log_q, log_p = proposal(logits, found.tokens, length, state.states, asked, config)
        broken = state.broken | jnp.any(state.alive & jnp.isnan(log_q[..., 0]), axis=1)
        own = jax.random.wrap_key_data(state.keys, impl=jax.random.key_impl(keys))
        drawn = found.drawn[..., None] + log_q
        noisy = drawn + jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, (V,))))(own)
        # What has ended stands as its only continuation, by whatever token.
        waiting = jnp.where(jnp.arange(V) == FILL, found.perturbed[..., None], -jnp.inf)
        perturbed = jnp.where(state.alive[..., None], conditioned(noisy, found.perturbed), waiting)
        perturbed, best = top_k(perturbed.reshape(B, K * V), K)
        perturbed = jnp.where(broken[:, None], -jnp.inf, perturbed)
        parents, tokens = best // V, best % V

        goes_on = rows(state.alive, parents) & (perturbed > -jnp.inf)
        ended = goes_on & any_of(tokens, config.ends)
        tokens = jnp.where(goes_on, tokens, FILL)
        states = None if state.states is None else rows(state.states, parents)
        old = jax.tree.map(lambda x: rows(x, parents), found)
        fold = jax.vmap(jax.vmap(jax.random.fold_in))
        new_keys = fold(jax.random.wrap_key_data(rows(state.keys, parents), impl=jax.random.key_impl(keys)), tokens)
        return _State(
            length=length,
            cache=reorder(cache, parents),
            alive=goes_on & ~ended,
            keys=jax.random.key_data(new_keys),
            states=follow_states(constraints, states, tokens),
            tokens=jnp.where(ended, FILL, tokens),
            found=StochasticResult(
                tokens=old.tokens.at[:, :, length - 1].set(tokens),
                perturbed=perturbed,
                log_probs=jnp.where(goes_on, old.log_probs + rows(log_p.reshape(B, K * V), best), old.log_probs),
                drawn=jnp.where(goes_on, rows(drawn.reshape(B, K * V), best), old.drawn),
                lengths=jnp.where(ended, length, old.lengths),
            ),
            broken=broken,
        )

    if cache_width < K:
        start = advance(start, expanding(step))
    end = lax.while_loop(lambda state: (state.length < T) & jnp.any(state.alive), advance, start)
    found, nan = end.found, end.broken[:, None]
    gone = nan | (found.perturbed == -jnp.inf)

    def emptied(x: Array) -> Array:
        return jnp.where(gone, jnp.where(nan, jnp.nan, -jnp.inf), x)

    return StochasticResult(
        tokens=jnp.where(gone[..., None], FILL, found.tokens),
        perturbed=emptied(found.perturbed),
        log_probs=emptied(found.log_probs),
        drawn=emptied(found.drawn),
        lengths=jnp.where(gone, 0, found.lengths),
    )


def conditioned(noisy: Float[Array, "B K V"], maximum: Float[Array, "B K"]) -> Float[Array, "B K V"]:
    """Perturbed log-probabilities under the condition that the greatest of each row is `maximum`.

    -log(exp(-maximum) - exp(-Z) + exp(-noisy)) with Z the greatest of the row, as in appendix B.3 of the paper, which
    is stable: with v = maximum - noisy + log(1 - exp(noisy - Z)), it is maximum - max(0, v) - log(1 + exp(-|v|)).
    """
    peak = noisy.max(axis=-1, keepdims=True)
    below = jnp.where(noisy > -jnp.inf, noisy - peak, -jnp.inf)  # -inf where nothing may follow, too
    v = maximum[..., None] - noisy + jnp.where(below > -0.693, jnp.log(-jnp.expm1(below)), jnp.log1p(-jnp.exp(below)))
    result = maximum[..., None] - jnp.maximum(0.0, v) - jnp.log1p(jnp.exp(-jnp.abs(v)))
    return jnp.where(noisy > -jnp.inf, result, -jnp.inf)
