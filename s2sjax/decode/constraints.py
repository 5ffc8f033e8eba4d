"""What hypotheses must obey, as pure functions that compose: log-probabilities `[B, K, V]` in, the same out.

1. A hard constraint gives a word -inf, and changes no other: nothing is renormalised, so the log-probability of a
   returned hypothesis is the model's own, the one that teacher forcing gives. Constraints only choose among
   hypotheses.
2. All constraints hold together. A forced prefix is not exempt from the others: a prefix that repeats a blocked
   n-gram, or leaves the vocabulary, or the trie, cannot be met.
3. What cannot be met is never dropped: the sentence then has fewer hypotheses than places, or none (score -inf, length
   0). With none, either no hypothesis obeys, or a narrow beam ran into dead ends (all of its live hypotheses had no
   word left, or could not end at the length limit); a wider beam may find one.
4. The repetition penalty is the one soft constraint: it changes what hypotheses are ranked by, and not `log_probs`.

Example: the lattice of `beam_search` (a then b or end; b then b or end), where "b eos" is best with 0.40 * 0.90 = 0.36.

    prefix "a"        "a b eos" 0.60 * 0.55 * 0.90 = 0.297, then "a eos" 0.60 * 0.45 = 0.27
    prefix "b b"      "b b eos" 0.40 * 0.10 * 0.90 = 0.036, then "b b b eos"
    prefix "a eos"    "a eos" 0.27, and nothing else
    prefix "a a"      none: a never follows a
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, UInt32

from s2sjax.decode.phrases import Phrases
from s2sjax.errors import UserError
from s2sjax.plural import counted

FREE = -1
"""In place of a forced token: any may follow."""
NOTHING = -2
"""In place of a token: none."""


class Trie(NamedTuple):
    """The sequences that outputs may be, as a deterministic automaton with R states; `build_tries` makes it.

    Compact: V bits a state and one number an edge, so 100,000 states over 8,000 words take 100 MB, not 3 GB. State 0
    is a root. Any deterministic automaton will do, one with cycles too.
    """

    allowed: UInt32[Array, "R words"]
    """Bit `w % 32` of `allowed[state, w // 32]`: whether token w may follow. End-of-sentence is a token like others."""
    first: Int[Array, "R"]
    """Where the state's edges begin in `targets`."""
    targets: Int[Array, "E"]
    """Where each edge leads; the edges of a state are in the order of their tokens."""


class Constraints(NamedTuple):
    """What the hypotheses of a batch must obey. None is no constraint, and costs nothing."""

    allowed: Bool[Array, "V"] | Bool[Array, "B V"] | None = None
    """The tokens that may occur, everywhere or in each sentence. End-of-sentence has to be among them, or nothing
    ends."""
    prefix: Int[Array, "B P"] | None = None
    """What hypotheses must begin with, and after that `FREE`; may be empty, may end in end-of-sentence (then it is the
    whole hypothesis). Part of the hypotheses: counted in lengths and log-probabilities."""
    trie: Trie | None = None
    """What hypotheses must be, from beginning to end-of-sentence."""
    roots: Int[Array, "B"] | None = None
    """The state of the trie where each sentence begins; by default 0."""
    phrases: Phrases | None = None
    """What hypotheses must contain, each phrase somewhere; for a beam only (`s2sjax.decode.lexical`)."""


UNCONSTRAINED = Constraints()


class Asked(NamedTuple):
    """What is asked of the output of each sentence of a batch."""

    max_lengths: Int[Array, "B"] | None = None
    """Int32: the length limit, end-of-sentence counted; clipped to `[1, config.max_len]`. None: `config.max_len` for
    all."""
    min_lengths: Int[Array, "B"] | None = None
    """Int32: the fewest tokens, end-of-sentence counted: n here is n - 1 in fairseq's --min-len and Hugging Face's
    min_new_tokens, which do not count it. Beyond the limit, nothing fits."""
    reference_lengths: Float[Array, "B"] | None = None
    """Float32: what the brevity penalty of a beam compares with, end-of-sentence counted."""
    constraints: Constraints = UNCONSTRAINED
    """What hypotheses must obey."""

    def limited(self, batch: int, max_len: int) -> "Asked":
        """The same for `batch` sentences, with a limit for each."""
        most = self.max_lengths
        limits = jnp.full(batch, max_len, jnp.int32) if most is None else jnp.clip(most, 1, max_len).astype(jnp.int32)
        return self._replace(max_lengths=limits)

    @property
    def limits(self) -> Int[Array, "B"]:
        """The length limits, which there are after `limited`."""
        assert self.max_lengths is not None
        return self.max_lengths


@runtime_checkable
class RepetitionRules(Protocol):
    """What a search's config says of repetition."""

    @property
    def no_repeat_ngram(self) -> int:
        """No n-gram of this many tokens occurs twice; 0 is off."""
        ...

    @property
    def repetition_penalty(self) -> float:
        """See `penalise_repetition`; 1 is off."""
        ...


def build_tries(groups: Sequence[Iterable[Sequence[int]]], vocab_size: int, ends: Sequence[int]) -> Trie:
    """Tries of token sequences, in one table: the root of group g is state g.

    Args:
        groups: for each trie its sequences, without end-of-sentence.
        ends: any of which may follow each sequence and nothing else ends.

    Raises:
        UserError: if a group is empty, or a sequence holds end-of-sentence or a token outside the vocabulary.
    """
    children: list[dict[int, int]] = [{} for _ in groups]
    for root, sequences in enumerate(groups):
        for sequence in sequences:
            if not all(0 <= token < vocab_size and token not in ends for token in sequence):
                raise UserError(
                    f"the sequence {list(sequence)} of trie {root} needs token ids from 0 to {vocab_size - 1} "
                    f"without end-of-sentence ({', '.join(map(str, ends))}), which is added to each"
                )
            state = root
            for token in sequence:
                if token not in children[state]:
                    children[state][token] = len(children)
                    children.append({})
                state = children[state][token]
            children[state].update(dict.fromkeys(ends, -1))
        if not children[root]:
            raise UserError(f"trie {root} has no sequences: nothing could be returned; give it one, or no trie")
    children.append({})  # where end-of-sentence leads, and nothing leads on
    bits = np.zeros((len(children), -(-vocab_size // 32)), np.uint32)
    targets: list[int] = []
    first = np.zeros(len(children), np.int32)
    for state, edges in enumerate(children):
        first[state] = len(targets)
        for token in sorted(edges):
            bits[state, token // 32] |= np.uint32(1 << token % 32)
            targets.append(edges[token] % len(children))
    return Trie(jnp.asarray(bits), jnp.asarray(first), jnp.asarray(targets, jnp.int32))


def follow(log_probs: Float[Array, "B K V"], trie: Trie, states: Int[Array, "B K"]) -> Float[Array, "B K V"]:
    """Forbid what has no edge from a hypothesis's state, `[B, K]`."""
    B, K, V = log_probs.shape
    bits = trie.allowed[states][..., None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    return jnp.where(bits.reshape(B, K, -1)[..., :V] == 1, log_probs, -jnp.inf)


def root_states(constraints: Constraints, batch: int, width: int) -> Int[Array, "B K"] | None:
    """The state of every hypothesis before its first token; None without a trie."""
    if constraints.trie is None:
        return None
    roots = jnp.zeros(batch, jnp.int32) if constraints.roots is None else constraints.roots.astype(jnp.int32)
    return jnp.broadcast_to(roots[:, None], (batch, width))


def follow_states(
    constraints: Constraints, states: Int[Array, "B W"] | None, tokens: Int[Array, "B W"]
) -> Int[Array, "B W"] | None:
    """The state of every hypothesis after one more token; None without a trie."""
    if constraints.trie is None or states is None:
        return None
    return next_states(constraints.trie, states, tokens)


def next_states(trie: Trie, states: Int[Array, "B W"], tokens: Int[Array, "B W"]) -> Int[Array, "B W"]:
    """Where `tokens` lead from `states`; of no consequence where there is no such edge.

    The edge is found by its rank: as many edges of the state stand before it as bits are set below the token's.
    """
    word, bit = tokens[..., None] // 32, (tokens[..., None] % 32).astype(jnp.uint32)
    index = jnp.arange(trie.allowed.shape[1])
    below = jnp.where(index < word, jnp.uint32(0xFFFFFFFF), (jnp.uint32(1) << bit) - 1)
    below = jnp.where(index > word, jnp.uint32(0), below)
    rank = lax.population_count(trie.allowed[states] & below).sum(axis=-1).astype(jnp.int32)
    return trie.targets.at[trie.first[states] + rank].get(mode="clip")


def block_ngrams(
    log_probs: Float[Array, "B K V"], sequences: Int[Array, "B K T"], length: Int[Array, ""], size: int
) -> Float[Array, "B K V"]:
    """Forbid words that would complete an n-gram of `size` words a second time (Paulus et al. 2018, arXiv:1705.04304).

        sequences  a b c a b      size 3: after "a b" once came "c", so c is forbidden
                                  size 2: after "b" once came "c", so c is forbidden
                                  size 1: a, b and c are

    Only what was generated counts (a forced prefix included, begin-of-sentence and the source not). End-of-sentence
    occurs once anyway.

    Args:
        sequences: tokens of each hypothesis; only the first `length` are looked at.
    """
    starts = sequences.shape[2] - size + 1
    if starts < 1:
        return log_probs
    # Where the hypothesis is shorter than the tail, no n-gram of it is complete, and `complete` is false everywhere.
    tail = lax.dynamic_slice_in_dim(sequences, length - (size - 1), size - 1, axis=2)
    complete = jnp.arange(starts) + size - 1 < length
    same = jnp.broadcast_to(complete, (*sequences.shape[:2], starts))
    for i in range(size - 1):
        same &= sequences[:, :, i : i + starts] == tail[:, :, i, None]
    limits = jnp.where(same, -jnp.inf, jnp.inf)  # not a mask over [B, K, V]: a few words a hypothesis
    return _each_hypothesis(lambda row, words, limit: row.at[words].min(limit))(
        log_probs, sequences[:, :, size - 1 :], limits
    )


def penalise_repetition(
    log_probs: Float[Array, "B K V"], sequences: Int[Array, "B K T"], length: Int[Array, ""], penalty: float
) -> Float[Array, "B K V"]:
    """Multiply the log-probability of words that the hypothesis already has by `penalty` (Keskar et al. 2019, CTRL).

    The paper divides logits (arXiv:1909.05858, section 4.1), whose sign means nothing: a logit below 0 would rise. On
    log-probabilities, which are what Hugging Face's beam search penalises, the operation does not depend on a constant
    added to the logits, and the result stays at most 0, which search's bound needs. 1 is no penalty; 1.2 is common.

    Args:
        sequences: tokens of each hypothesis; only the first `length` are looked at.
    """
    written, V = jnp.arange(sequences.shape[2]) < length, log_probs.shape[2]

    def penalise(row, words):
        # Words that are equal are set to equal values; places not written yet are of no word.
        return row.at[jnp.where(written, words, V)].set(row[words] * penalty, mode="drop")

    return _each_hypothesis(penalise)(log_probs, sequences)


def _each_hypothesis(function: Callable) -> Callable:
    return jax.vmap(jax.vmap(function))


def any_of(tokens: Int[Array, "*any"], ids: Sequence[int]) -> Bool[Array, "*any"]:
    """Which tokens are among a few ids."""
    return functools.reduce(operator.or_, (tokens == i for i in ids)) if ids else jnp.zeros(tokens.shape, bool)


def forced_tokens(
    prefix: Int[Array, "B P"] | None, length: Int[Array, ""], limits: Int[Array, "B"], ends: Sequence[int]
) -> Int[Array, "B E"]:
    """The only tokens that may come as number `length` (from 1): that of the prefix, the ends at the limit, or `FREE`.

    E is 1, or how many ends there are; what is one token stands in all places. Where the prefix goes beyond the limit,
    it is `NOTHING`. Without ends, the limit forces nothing.
    """
    forced = jnp.full(limits.shape, FREE, jnp.int32)
    if prefix is not None and prefix.shape[1]:
        forced = prefix.at[:, length - 1].get(mode="fill", fill_value=FREE).astype(jnp.int32)
    forced = forced[:, None]
    if not ends:
        return forced
    at_limit = jnp.where((forced == FREE) | (forced == jnp.array(ends)), jnp.array(ends), NOTHING)
    return jnp.where((length >= limits)[:, None], at_limit, forced)


def force(
    log_probs: Float[Array, "B K V"],
    forced: Int[Array, "B E"],
    too_short: Bool[Array, "B"] | None,
    *,
    ends: Sequence[int],
    pad: int | None,
) -> Float[Array, "B K V"]:
    """Forbid padding, what is none of the forced tokens, and the ends where they are too early.

    `candidates.best_candidates` does the same without a mask over the vocabulary.
    """
    token = jnp.arange(log_probs.shape[2])
    allowed = jnp.any((forced == FREE)[..., None] | (token == forced[..., None]), axis=1)
    if pad is not None:
        allowed &= token != pad
    if too_short is not None:
        allowed &= ~(any_of(token, ends) & too_short[:, None])
    return jnp.where(allowed[:, None], log_probs, -jnp.inf)


def constrain(
    log_probs: Float[Array, "B K V"],
    sequences: Int[Array, "B K T"],
    length: Int[Array, ""],
    states: Int[Array, "B K"] | None,
    constraints: Constraints,
    rules: RepetitionRules,
) -> Float[Array, "B K V"]:
    """Apply all that concerns the whole vocabulary; the prefix and the limits are `forced_tokens`'s.

    Args:
        length: tokens of each hypothesis so far.
        states: of the trie, if there is one.
        rules: static.

    Raises:
        UserError: if the vocabulary mask or the trie was made for another vocabulary.
    """
    V, allowed, trie = log_probs.shape[2], constraints.allowed, constraints.trie
    if allowed is not None and allowed.shape[-1] != V:
        raise UserError(
            f"the vocabulary mask is over {counted(allowed.shape[-1], 'token')}, the step function's logits over {V}"
        )
    if trie is not None and trie.allowed.shape[1] != -(-V // 32):
        raise UserError(
            f"the trie is over about {counted(trie.allowed.shape[1] * 32, 'token')}, the step function's logits over "
            f"{V}"
        )
    if rules.repetition_penalty != 1:
        log_probs = penalise_repetition(log_probs, sequences, length, rules.repetition_penalty)
    if rules.no_repeat_ngram:
        log_probs = block_ngrams(log_probs, sequences, length, rules.no_repeat_ngram)
    if allowed is not None:
        log_probs = jnp.where(allowed if allowed.ndim == 1 else allowed[:, None], log_probs, -jnp.inf)
    if trie is not None:
        assert states is not None, "a trie comes with the states of the hypotheses"
        log_probs = follow(log_probs, trie, states)
    return log_probs


def refuse_phrases(constraints: Constraints, method: str) -> None:
    """Raise UserError if there are phrases, for a search that cannot look ahead for them."""
    if constraints.phrases is not None:
        raise UserError(
            f"{method} cannot be made to use given phrases: which word is drawn would have to depend on whether the "
            "phrases still fit later, which no one knows of a draw; use beam search, or force a prefix"
        )


def is_off(constraints: Constraints, rules: RepetitionRules) -> bool:
    """Whether `constrain` would return what it is given, for any values of the arrays."""
    repeats = rules.no_repeat_ngram == 0 and rules.repetition_penalty == 1
    return repeats and constraints.allowed is None and constraints.trie is None
