"""The first step is made for one hypothesis, and what comes out is what a step for all of them gives, to the bit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.api import Anchored
from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.constraints import UNCONSTRAINED, Asked, Constraints
from s2sjax.decode.phrases import build_phrases
from s2sjax.decode.sampling import SampleConfig, sample, sentence_keys
from s2sjax.decode.stepping import check_cache, narrow, reorder, widen
from s2sjax.decode.stochastic import stochastic_beam_search
from s2sjax.errors import UserError
from tests.decode.toys import BOS, EOS, A, B, assert_same, hash_cache, hash_step, mix, to_logits

SEEDS = np.arange(200) * 104729 + 7
PHRASES = build_phrases([[(A, B), (B, B)] if row % 3 == 0 else [] for row in range(len(SEEDS))], 6, (EOS,))


def anchored_cache(seeds, width, length=8):
    """Its past is written where it is computed, and stays there; who wrote it moves with the hypotheses."""
    return {
        "past": Anchored({"tokens": jnp.zeros((len(seeds), 6, length), jnp.uint32)}),
        "writers": jnp.zeros((len(seeds), width, length), jnp.int32),
        "seed": jnp.broadcast_to(jnp.asarray(seeds, jnp.uint32)[:, None], (len(seeds), width)),
        "time": jnp.zeros((len(seeds), width), jnp.int32),
    }


def anchored_step(tokens, cache):
    (_, K), time = tokens.shape, jnp.max(cache["time"])
    past = cache["past"].tree["tokens"].at[:, :K, time].set(tokens.astype(jnp.uint32))
    writers = cache["writers"].at[:, :, time].set(jnp.arange(K))
    read = jnp.take_along_axis(past, writers, axis=1)
    state = cache["seed"]
    for i in range(read.shape[2]):
        state = jnp.where(i <= time, mix(state * np.uint32(31) + read[..., i]), state)
    return to_logits(state, jnp, 6), {
        "past": Anchored({"tokens": past}), "writers": writers, "seed": cache["seed"], "time": cache["time"] + 1,
    }  # fmt: skip


FOLLOWING = functools.partial(hash_step, vocabulary=6), hash_cache
ANCHORED = anchored_step, anchored_cache
BEAM = BeamConfig(beam_size=6, nbest=6, max_len=7, groups=2, diversity=0.5)
DRAWS = SampleConfig(samples=6, max_len=7, top_p=0.9)


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    ("search", "config", "constraints", "toy"),
    [
        (beam_search, BEAM, UNCONSTRAINED, FOLLOWING),
        (beam_search, dataclasses.replace(BEAM, groups=1, diversity=0.0), Constraints(phrases=PHRASES), ANCHORED),
        (sample, DRAWS, UNCONSTRAINED, ANCHORED),
        (stochastic_beam_search, DRAWS, UNCONSTRAINED, ANCHORED),
    ],
    ids=["groups", "phrases", "sample", "stochastic"],
)
def test_one_hypothesis_or_all_at_the_first_step(search, config, constraints, toy):
    (step, make), widths = toy, []

    def watched(tokens, cache):
        widths.append(tokens.shape[1])
        return step(tokens, cache)

    def results(cache):
        keys = () if search is beam_search else (sentence_keys(3, jnp.arange(len(SEEDS))),)
        bos, limits = jnp.full(len(SEEDS), BOS, jnp.int32), jnp.asarray(SEEDS % 7 + 1, jnp.int32)
        return search(watched, cache, bos, config, *keys, Asked(limits, constraints=constraints))

    every = jax.tree.map(np.asarray, jax.jit(results)(make(SEEDS, 6)))
    assert set(widths) == {6}
    widths.clear()
    assert_same(jax.tree.map(np.asarray, jax.jit(results)(narrow(make(SEEDS, 6)))), every)
    assert widths[0] == 1 and set(widths[1:]) == {6}, "once for one, and once for the loop"
    assert len({tuple(h) for h in every.tokens.reshape(-1, 7).tolist()}) > 100


def test_one_made_wide_is_what_reordering_makes_of_it():
    cache = hash_cache(SEEDS, 4) | {"past": Anchored(jnp.zeros((3, 5)))}
    one = narrow(cache)
    assert check_cache(one, len(SEEDS), 4) == 1 and check_cache(cache, len(SEEDS), 4) == 4
    jax.tree.map(np.testing.assert_array_equal, widen(one, 4), reorder(one, jnp.zeros((len(SEEDS), 4), jnp.int32)))


def test_a_cache_partly_of_one_is_named():
    with pytest.raises(UserError, match=r"leaf \['b'\] has shape \(2, 1\).*\[2, 3\], or every one with \[2, 1\]"):
        check_cache({"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 1))}, 2, 3)
