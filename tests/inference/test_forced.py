"""Teacher forcing over pairs, with a model whose attention and probabilities are known, and with every family's."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax import models
from s2sjax.api import Output
from s2sjax.data.columns import Column, Examples
from s2sjax.errors import UserError
from s2sjax.inference.forced import ForcedOptions, batches, choose_layers, forced_pairs
from s2sjax.inference.scorers import Ensemble, Single, attention_layers
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from tests.contract.conftest import SMALL, VOCAB
from tests.tiny import compiling_once


@pytest.fixture(scope="module", autouse=True)
def compiled_in_a_hurry(tmp_path_factory):
    with compiling_once(tmp_path_factory.mktemp("xla")):
        yield


class Known(nn.Module):
    """Layer l attends from position t to position t + l, from the last to the first; p(word) does not depend on it."""

    layers: int

    @nn.compact
    def __call__(self, batch, *, train):
        kernel = self.param("kernel", nn.initializers.normal(1.0), (4, VOCAB))
        mask = batch["input_segments"][:, None, :] > 0
        lengths = jnp.sum(mask, axis=2, keepdims=True)
        B, T = batch["targets"].shape
        S = batch["inputs"].shape[1]
        for layer in range(self.layers):
            place = (jnp.arange(T)[None, :, None] + layer) % jnp.maximum(lengths, 1)
            self.sow("attention", "weights", jnp.where(jnp.arange(S) == place, 1.0, 0.0) * mask)
        positions = jnp.stack([jnp.cos(batch["target_positions"] * k) for k in range(4)], axis=-1)
        return Output(positions.astype(jnp.float32), kernel)


def known(layers):
    scorer = Single(Known(layers), Precision.FLOAT32)
    return scorer, {"kernel": jax.random.normal(jax.random.key(layers), (4, VOCAB))}


def split_of(lengths, *, given=None):
    rng = np.random.default_rng(0)
    source, target = ([rng.integers(4, VOCAB, n) for n in side] for side in zip(*lengths, strict=True))
    return Examples.of_pairs(Column.from_rows(source), Column.from_rows(target), given=given)


LENGTHS = [(3, 2), (70, 9), (5, 80), (1, 1), (9, 9), (8, 8), (4, 0)]


def test_pairs_come_back_in_their_order_without_padding():
    scorer, params = known(1)
    split, told = split_of(LENGTHS), []
    pairs = forced_pairs(scorer, params, split, ForcedOptions(4, ((0,),)), progress=told.append)
    assert sum(told) == len(LENGTHS) and len(told) > 1
    for i, (pair, (S, T)) in enumerate(zip(pairs, LENGTHS, strict=True)):
        np.testing.assert_array_equal(pair.attention, np.eye(S)[np.arange(T) % S])
        features = np.cos(np.arange(T)[:, None] * np.arange(4))
        expected = np.asarray(jax.nn.log_softmax(features @ np.asarray(params["kernel"]), axis=-1))
        np.testing.assert_allclose(pair.log_probs, expected[np.arange(T), split["target"][i]], atol=1e-5)
    assert all(pair.attention is None for pair in forced_pairs(scorer, params, split, ForcedOptions(4)))


def test_tokens_that_are_only_given_are_left_out():
    scorer, params = known(1)
    whole = forced_pairs(scorer, params, split_of(LENGTHS), ForcedOptions(4, ((0,),)))
    given = np.minimum([target for _, target in LENGTHS], 2)
    pairs = forced_pairs(scorer, params, split_of(LENGTHS, given=given), ForcedOptions(4, ((0,),)))
    for pair, all_of_it, first in zip(pairs, whole, given, strict=True):
        np.testing.assert_array_equal(pair.log_probs, all_of_it.log_probs[first:])
        np.testing.assert_array_equal(pair.attention, all_of_it.attention[first:])


def test_attention_is_averaged_over_the_chosen_layers_and_then_over_models():
    (three, params), (none, others) = known(3), known(0)
    split = split_of([(4, 1)])
    for layer, expected in ((1, [1, 0, 0, 0]), (-1, [0, 0, 1, 0]), (2, [0, 1, 0, 0]), (None, [1 / 3] * 3 + [0])):
        layers = choose_layers(layer, attention_layers(three, params))
        (pair,) = forced_pairs(three, params, split, ForcedOptions(1, layers))
        np.testing.assert_allclose(pair.attention, [expected], rtol=1e-6)
    one, single = known(1)
    together, all_params = Ensemble((three, none, one), "probabilities"), (params, others, single)
    assert attention_layers(together, all_params) == (3, 0, 1)
    layers = choose_layers(None, (3, 0, 1))
    (pair,) = forced_pairs(together, all_params, split, ForcedOptions(1, layers))
    np.testing.assert_allclose(pair.attention, [[(1 / 3 + 1) / 2, 1 / 6, 1 / 6, 0]], rtol=1e-6)
    (unwatched,) = forced_pairs(together, all_params, split, ForcedOptions(1))
    np.testing.assert_array_equal(pair.log_probs, unwatched.log_probs)


@pytest.mark.parametrize("layer", [0, 4, -4])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(UserError, match=rf"layer {layer} is asked for.* are 1, the lowest, to 3.* -1 to -3"):
        choose_layers(layer, (3,))


def test_batches_hold_every_example_once_in_few_shapes_of_bounded_size():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.05, (400, 2)), 200)
    made = list(batches(split_of(lengths), 16))
    assert sorted(i for examples, _ in made for i in examples) == list(range(400))
    shapes = {(batch["inputs"].shape, batch["targets"].shape) for _, batch in made}
    assert len(shapes) <= 12 and len(made) > 24
    assert max(rows * max(S, T) for (rows, S), (_, T) in shapes) <= 16 * 64
    for examples, batch in batches(split_of([(3, 2)]), 16):
        assert len(examples) == len(batch["inputs"]) == 1, "a single pair does not pay for a batch"


FAMILIES = {
    "transformer": {},
    "rnn_seq2seq": {"attention": "additive"},
    "rnn_seq2seq without input feeding": {"attention": "general", "input_feeding": False},
    "gnmt": {},
}
FAST = ("transformer", "rnn_seq2seq")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FAMILIES]
)
def test_row_t_of_the_attention_predicts_token_t(name):
    """It depends on the tokens before and on no other: it is that of neither the step before nor the one after."""
    family = models.family(name.split()[0])
    sizes = {k: v for k, v in SMALL.items() if k in {f.name for f in dataclasses.fields(family.Config)}}
    config = family.Config(**sizes, dropout=0.0, **FAMILIES[name])
    scorer = Single(family.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32), Precision.FLOAT32)
    split = split_of([(7, 6), (7, 6)])
    split["source"].values[7:] = split["source"].values[:7]
    split["target"].values[6:] = split["target"].values[:6]
    split["target"].values[8] = 4 + (split["target"].values[8] == 4)  # the second pair's token 2 is another
    ((_, batch),) = batches(split, 2)
    init = jax.jit(lambda key, batch: scorer.model.init(key, batch, train=False)["params"])
    params = jax.tree.map(lambda p: 3.0 * p, init(jax.random.key(0), batch))
    layers = choose_layers(None, attention_layers(scorer, params))
    one, other = (pair.attention for pair in forced_pairs(scorer, params, split, ForcedOptions(2, layers)))
    np.testing.assert_array_equal(one[:3], other[:3])
    assert np.abs(one[3] - other[3]).max() > 1e-4
