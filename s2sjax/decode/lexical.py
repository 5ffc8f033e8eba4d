"""Beam search that must use given phrases: dynamic beam allocation (Post and Vilar 2018, arXiv:1804.06609).

Left to itself a beam keeps the most probable beginnings, and a phrase that the model did not think of is in none of
them. So,

1. of every live hypothesis there are, beside the best continuations of all, those by a token that takes it on with a
   phrase it has not met, and its single best;
2. the beam is divided into banks by the number of tokens that would be `enough` to meet all phrases (the paper counts
   those that are met), so that a hypothesis competes with those that have as much before them, and not with those that
   have done nothing yet;
3. end-of-sentence may follow only where all phrases are met. Then it is a candidate for sure, and competes in the bank
   of those that are through, bank 0.

Allocation, of K places to the banks 0, 1, ... N of a sentence whose phrases have N tokens in all: K // (N + 1) each,
and the remainder to bank 0. What a bank cannot fill goes to the next, and what the last cannot fill to whichever can,
from bank 0 on: no place stays empty for which there is a candidate. A sentence without phrases has one bank, which gets
all: it is searched exactly as it would be without this module.

So whatever K is, the least bank that has candidates has a place, and the best of it leads on to a lesser one. Where
nothing else forbids words and the limit leaves room for N + 1 tokens, there is a hypothesis. But a beam of at most N
goes to the least banks there are, and writes the phrases as soon as it can; where in its output they belong, only a
wider one lets the model decide.

A hypothesis that cannot meet its phrases within its length limit gives its place away: where the `fewest` tokens that
it needs and end-of-sentence are more than it has left, it is no candidate. That is exact as long as no phrase begins
as another ends. If one does, or if other constraints forbid words, a place may be held for some steps by a hypothesis
that is lost, but never refused to one that is not.

Nothing is renormalised, and log-probabilities stay the model's, as with every constraint (`s2sjax.decode.constraints`).
A sentence whose phrases cannot be met has no hypothesis.

Example: the lattice of `beam_search`, no length penalty, K = 2.

    no phrase         "b eos" 0.36, then "a b eos" 0.297
    phrase "a"        "a b eos" 0.60 * 0.55 * 0.90 = 0.297, then "a b b eos" 0.0297. "a eos" 0.27 is missed: after one
                      step "a" is in bank 0 and "b" in bank 1, and of the two places after the next, "a b" has one and
                      "b b" the other
    phrase "b b"      "b b eos" 0.40 * 0.10 * 0.90 = 0.036, then "a b b eos" 0.60 * 0.55 * 0.10 * 0.90 = 0.0297
    "b b" and "a b"   "a b b eos", in which they overlap
    phrase "b a"      none: a never follows b
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from s2sjax.decode.candidates import Candidates, chosen, rows, top_k
from s2sjax.decode.constraints import NOTHING, any_of
from s2sjax.decode.phrases import BLANK, Phrases, Progress, enough, fewest, next_tokens, update_progress


def asked_for(phrases: Phrases, progress: Progress, ends: Sequence[int]) -> Int[Array, "B K E"]:
    """What has to be a candidate of every hypothesis: what takes it on with a phrase, or end-of-sentence.

    `NOTHING` is in the places left over.
    """
    through = jnp.where(jnp.all(progress.met, axis=2)[..., None], jnp.array(ends), NOTHING)
    following = next_tokens(phrases, progress)
    return jnp.concatenate([jnp.where(following == BLANK, NOTHING, following), through], axis=2)


def choose_by_bank(
    candidates: Candidates,
    phrases: Phrases,
    progress: Progress,
    left: Int[Array, "B"],
    *,
    width: int,
    ends: Sequence[int],
) -> tuple[Candidates, Candidates, Progress]:
    """What `candidates.choose` gives, with the places divided among the banks; and the progress of those that go on.

    Args:
        progress: of the live hypotheses, which are the candidates' parents.
        left: the most tokens that may come after this one, end-of-sentence counted.
    """
    _, order = top_k(candidates.totals, candidates.totals.shape[1])
    candidates = chosen(candidates, order)
    after = update_progress(phrases, jax.tree.map(lambda x: rows(x, candidates.parents), progress), candidates.tokens)
    bank, ending = enough(phrases, after), any_of(candidates.tokens, ends)
    lost = ~ending & (fewest(phrases, after) + 1 > left[:, None])
    totals = jnp.where(lost, -jnp.inf, candidates.totals)
    most, (_, C, L) = (phrases.tokens != BLANK).sum(axis=(1, 2)), phrases.tokens.shape

    def places(totals: Array) -> tuple[Array, Array]:
        return top_k(jnp.where(holds_place(totals, bank, most, C * L + 1, width), totals, -jnp.inf), width)

    totals_of_best, best = places(totals)
    totals_going, going = places(jnp.where(ending, -jnp.inf, totals))
    return (
        chosen(candidates, best)._replace(totals=totals_of_best),
        chosen(candidates, going)._replace(totals=totals_going),
        jax.tree.map(lambda x: rows(x, going), after),
    )


def holds_place(
    totals: Float[Array, "B M"], bank: Int[Array, "B M"], most: Int[Array, "B"], banks: int, width: int
) -> Array:
    """Which of the candidates get one of `width` places. Bool `[B, M]`.

    Args:
        totals: best first, but for -inf, which gets no place and may stand anywhere.
        bank: of each candidate, from 0 to its sentence's `most`.
        banks: more than the greatest `most`.
    """
    numbers = jnp.arange(banks)
    inside = (bank[..., None] == numbers) & (totals > -jnp.inf)[..., None]  # [B, M, banks]
    rank = jnp.take_along_axis(jnp.cumsum(inside, axis=1), bank[..., None], axis=2)[..., 0]  # from 1
    there = inside.sum(axis=1)

    share = width // (most + 1)
    given = jnp.where(numbers <= most[:, None], share[:, None], 0).at[:, 0].add(width - share * (most + 1))
    # With t(b) taken by banks 0 to b, t(b) = min(t(b - 1) + there(b), given to 0 to b). Unrolled:
    there_so_far = jnp.cumsum(there, axis=1)
    spare = lax.cummin(jnp.cumsum(given, axis=1) - there_so_far, axis=1)
    taken_so_far = there_so_far + jnp.minimum(spare, 0)
    taken = jnp.diff(taken_so_far, axis=1, prepend=0)
    # What the last bank could not fill, once more from the first.
    filled = jnp.minimum(jnp.cumsum(there - taken, axis=1), width - taken_so_far[:, -1:])
    taken += jnp.diff(filled, axis=1, prepend=0)
    return (rank <= jnp.take_along_axis(taken, bank, axis=1)) & (totals > -jnp.inf)
