"""Phrases that an output must contain, and how far a hypothesis has come with them. Pure functions, on the device.

A phrase is met where its tokens stand next to each other in the output, in their order, anywhere. Places may overlap:
"x y z" contains both "x y" and "y z".

A hypothesis remembers of each phrase which of its beginnings it ends with: all of them, not only the longest, so that
a phrase that is interrupted goes on from the longest beginning that still fits.

    phrase x x y, tokens x x x y        x      ends with "x"
                                        x x    ends with "x" and "x x"
                                        x x x  ends with "x" and "x x": the third x broke one try and is part of another
                                        x x x y        met

That is what the failure table of Knuth, Morris and Pratt finds, as the bits of Shift-And (Baeza-Yates and Gonnet 1992,
"A new approach to text searching"). Post and Vilar (2018), like the toolkits that followed them, give up what an
interrupted phrase had, and would not see that "x x x y" contains "x x y".
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int

from s2sjax.errors import UserError

BLANK = -1
"""Where a phrase has no token: no token's number, so that it is never met with."""


class Phrases(NamedTuple):
    """What the hypotheses of each sentence must contain; `build_phrases` makes it. Blanks only are no phrase."""

    tokens: Int[Array, "B C L"]
    """C phrases of up to L tokens, with `BLANK` after the end of each. None is part of another."""
    shared: Int[Array, "B C"]
    """How many of a phrase's first tokens can be the last tokens of another phrase of its sentence, at most."""


class Progress(NamedTuple):
    """How far hypotheses have come with the phrases of their sentences."""

    met: Bool[Array, "B K C"]
    begun: Bool[Array, "B K C L"]
    """Whether the hypothesis ends with the first 1, 2, ... L tokens of the phrase."""


def build_phrases(groups: Sequence[Sequence[Sequence[int]]], vocab_size: int, ends: Sequence[int]) -> Phrases:
    """The phrases of each sentence as arrays.

    A phrase that is part of another of its sentence is met with it, and left out; so is the second of two equal ones.
    C and L are powers of two, so that many batches share few shapes, and few searches are compiled.

    Args:
        groups: for each sentence its phrases, none or several, each of one or several tokens.

    Raises:
        UserError: if a phrase is empty, or holds end-of-sentence or a token outside the vocabulary.
    """
    kept: list[list[tuple[int, ...]]] = []
    for row, group in enumerate(groups):
        phrases = list(dict.fromkeys(tuple(int(token) for token in phrase) for phrase in group))
        for phrase in phrases:
            if not phrase or not all(0 <= token < vocab_size and token not in ends for token in phrase):
                raise UserError(
                    f"phrase {list(phrase)} of sentence {row} needs at least one token, ids from 0 to {vocab_size - 1} "
                    f"without end-of-sentence ({', '.join(map(str, ends))}), before which every phrase must have come"
                )
        kept.append([p for p in phrases if not any(p != other and _contains(other, p) for other in phrases)])
    C = _power_of_two(max((len(group) for group in kept), default=1))
    L = _power_of_two(max((len(phrase) for group in kept for phrase in group), default=1))
    tokens = np.full((len(groups), C, L), BLANK, np.int32)
    shared = np.zeros((len(groups), C), np.int32)
    for row, group in enumerate(kept):
        for c, phrase in enumerate(group):
            tokens[row, c, : len(phrase)] = phrase
            shared[row, c] = max((_overlap(other, phrase) for other in group if other != phrase), default=0)
    return Phrases(jnp.asarray(tokens), jnp.asarray(shared))


def _contains(tokens: tuple[int, ...], phrase: tuple[int, ...]) -> bool:
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens) - len(phrase) + 1))


def _overlap(before: tuple[int, ...], phrase: tuple[int, ...]) -> int:
    """The most tokens that end `before` and begin `phrase`, of two that do not contain each other."""
    return max(n for n in range(min(len(before), len(phrase))) if before[len(before) - n :] == phrase[:n])


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


def no_progress(phrases: Phrases, width: int) -> Progress:
    """Of hypotheses without tokens. What is no phrase is met."""
    B, C, L = phrases.tokens.shape
    none = jnp.broadcast_to((phrases.tokens[:, :, 0] == BLANK)[:, None], (B, width, C))
    return Progress(none, jnp.zeros((B, width, C, L), bool))


def update_progress(phrases: Phrases, progress: Progress, tokens: Int[Array, "B K"]) -> Progress:
    """The progress of every hypothesis after one more token."""
    wanted = phrases.tokens[:, None]
    last = (wanted != BLANK) & (jnp.pad(wanted[..., 1:], [(0, 0)] * 3 + [(0, 1)], constant_values=BLANK) == BLANK)
    so_far = jnp.pad(progress.begun[..., :-1], [(0, 0)] * 3 + [(1, 0)], constant_values=True)
    begun = so_far & (wanted == tokens[..., None, None])
    return Progress(progress.met | jnp.any(begun & last, axis=-1), begun)


def next_tokens(phrases: Phrases, progress: Progress) -> Int[Array, "B K C"]:
    """The token by which a hypothesis goes on with each phrase that it has not met; `BLANK` for those it has."""
    B, K, C, _ = progress.begun.shape
    wanted = jnp.broadcast_to(phrases.tokens[:, None], progress.begun.shape)
    token = jnp.take_along_axis(wanted, _longest(progress)[..., None], axis=3, mode="clip")[..., 0]
    return jnp.where(progress.met, BLANK, token)


def enough(phrases: Phrases, progress: Progress) -> Int[Array, "B K"]:
    """So many tokens will do to meet all phrases: the rest of the one that is farthest on, and the others whole.

    0 if all are met, and only then. There is always a next token with which it becomes less.
    """
    return _remaining(progress, jnp.zeros_like(phrases.shared), (phrases.tokens != BLANK).sum(axis=2))


def fewest(phrases: Phrases, progress: Progress) -> Int[Array, "B K"]:
    """With fewer tokens than these a hypothesis cannot meet all its phrases. At most `enough`, and equal to it where no
    phrase begins as another ends.

    Let the phrases that are missing be met one after another. Of the first at least those tokens come yet that the
    longest beginning that the hypothesis ends with lacks. When a later one is met, another has just been, and the
    longest beginning that stood there then was at most what is `shared` (a longer one would contain the other phrase):
    so at least its length less `shared` tokens come between the two.
    """
    return _remaining(progress, phrases.shared, (phrases.tokens != BLANK).sum(axis=2))


def _remaining(progress: Progress, free: Int[Array, "B C"], lengths: Int[Array, "B C"]) -> Int[Array, "B K"]:
    """The tokens of all phrases that are not met, but those that are `free` and those that one of them has already."""
    ahead = jnp.maximum(_longest(progress) - free[:, None], 0)
    whole = jnp.where(progress.met, 0, (lengths - free)[:, None]).sum(axis=2)
    return whole - jnp.where(progress.met, 0, ahead).max(axis=2)


def _longest(progress: Progress) -> Int[Array, "B K C"]:
    """How many tokens the longest beginning has that the hypothesis ends with."""
    return (progress.begun * (jnp.arange(progress.begun.shape[3], dtype=jnp.int32) + 1)).max(axis=3)
