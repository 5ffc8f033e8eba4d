"""The LSTM language model: against a loop, prompts and answers as one sequence, and the pieces of AWD-LSTM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.errors import UserError
from s2sjax.models import lstm_lm
from s2sjax.models.lstm_lm import Config
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from tests import loops
from tests.contract.conftest import VOCAB, packed

CONFIG = Config(layers=2, width=8, embedding_width=6)


def build(**options):
    return lstm_lm.build(
        dataclasses.replace(CONFIG, **options), Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32
    )


@pytest.fixture(scope="module")
def params():
    params = jax.jit(lambda batch: build().init(jax.random.key(0), batch, train=False))(packed())["params"]
    return jax.tree.map(lambda p: p * 1.5 + 0.2 * jax.random.normal(jax.random.key(1), p.shape), params)


def run(params, batch, *, train=False, **options):
    model = build(**options)
    rngs = {"dropout": jax.random.key(2)}
    return jax.jit(lambda params, batch: model.apply({"params": params}, batch, train=train, rngs=rngs))(params, batch)


def top_outputs(params, tokens):
    """The top layer's outputs [L, D] over one sequence, by loops."""
    p = loops.float64(params)
    x = p["embedding"]["table"][tokens] * CONFIG.embedding_width**0.5
    for i in range(CONFIG.layers):
        x = loops.layer("lstm", p[f"stack_{i}"], x)[0]
    return x


def unprompted(batch):
    return batch | {name: batch[name][:, :0] for name in ("inputs", "input_segments", "input_positions")}


def segments(batch):
    """Of each segment: its row, where its targets are, its prompt and its decoder inputs."""
    for row in range(len(batch["inputs"])):
        for segment in sorted(set(batch["target_segments"][row]) - {0}):
            here = batch["target_segments"][row] == segment
            prompt = batch["inputs"][row, batch["input_segments"][row] == segment]
            yield row, here, prompt, batch["decoder_inputs"][row, here]


@pytest.mark.parametrize("prompted", [True, False])
def test_packed_sequences_equal_a_loop_over_prompt_and_answer(params, prompted):
    batch = packed() if prompted else unprompted(packed())
    got, count = run(params, batch).features, 0
    for row, here, prompt, answer in segments(batch):
        expected = top_outputs(params, np.concatenate([prompt, answer]))[len(prompt) :]
        np.testing.assert_allclose(got[row, here], expected, rtol=1e-4, atol=1e-5)
        count += 1
    assert count == 8


def test_a_prompt_is_continued_exactly(params):
    tokens = np.array([[1, 7, 9, 5, 8, 4, 6]], np.int32)
    ones, positions = np.ones_like(tokens), np.arange(7, dtype=np.int32)[None]

    def batch(split):
        source = {"inputs": tokens[:, :split], "input_segments": ones[:, :split]}
        target = {"decoder_inputs": tokens[:, split:], "target_segments": ones[:, split:]}
        return (
            source | target | {"input_positions": positions[:, :split], "target_positions": positions[:, : 7 - split]}
        )

    np.testing.assert_allclose(run(params, batch(3)).features, run(params, batch(0)).features[:, 3:], rtol=1e-5)


@pytest.mark.parametrize("prompted", [True, False])
def test_penalties_are_sums_over_weighted_target_tokens(params, prompted):
    """AR and TAR by hand, over packed rows, a token without weight among them, and a change from prompt to answer."""
    batch = packed() if prompted else unprompted(packed())
    batch["weights"] = batch["weights"].copy()
    batch["weights"][0, 1] = 0
    alpha, beta = 2.0, 3.0
    expected = 0.0
    for row, here, prompt, answer in segments(batch):
        h = top_outputs(params, np.concatenate([prompt, answer]))
        change = np.zeros(len(h))
        change[1:] = ((h[1:] - h[:-1]) ** 2).mean(axis=-1)
        penalty = alpha * (h**2).mean(axis=-1) + beta * change
        expected += penalty[len(prompt) :] @ batch["weights"][row, here]
    aux = run(params, batch, train=True, activation_penalty=alpha, change_penalty=beta).aux
    assert aux.dtype == jnp.float32
    np.testing.assert_allclose(aux, expected, rtol=1e-5)
    assert run(params, batch, activation_penalty=alpha).aux is None, "evaluation has no penalties"
    assert run(params, batch, train=True).aux is None


def test_the_activation_penalty_sees_dropout_and_the_change_penalty_does_not(params):
    batch = packed()
    plain, dropped = ({"output_dropout": rate, "train": True} for rate in (0.0, 0.5))
    change = [run(params, batch, change_penalty=1.0, **how).aux for how in (plain, dropped)]
    np.testing.assert_array_equal(*change)
    output = run(params, batch, activation_penalty=1.0, **dropped)
    np.testing.assert_allclose(
        output.aux, (np.asarray(output.features) ** 2).mean(axis=-1).ravel() @ batch["weights"].ravel(), rtol=1e-5
    )


def test_variational_dropout_has_one_mask_for_all_steps_of_a_row(params):
    plain = np.asarray(run(params, packed(), train=True).features)
    dropped = np.asarray(run(params, packed(), train=True, output_dropout=0.5).features)
    kept = dropped != 0
    assert (kept == kept[:, :1]).all(), "the same units at all steps"
    assert (kept[0] != kept[1]).any() and 0.2 < kept.mean() < 0.8
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-5)


def test_word_dropout_drops_words_wherever_they_are_read(params):
    tokens = jnp.array(np.random.default_rng(0).integers(0, VOCAB, (4, 30)))
    embedded = build(word_dropout=0.5).apply(
        {"params": params}, tokens, train=True, method="_embed", rngs={"dropout": jax.random.key(0)}
    )
    kept = np.asarray(embedded != 0).any(axis=-1)
    words = {int(token) for token in tokens[kept]}
    assert 0 < len(words) < VOCAB and not words & {int(token) for token in tokens[~kept]}
    table = np.asarray(params["embedding"]["table"]) * CONFIG.embedding_width**0.5
    np.testing.assert_allclose(embedded[kept], 2 * table[tokens[kept]], rtol=1e-6)


def test_weight_dropout_drops_the_same_recurrent_weights_at_all_steps_and_rows(params):
    """A dropped weight has no gradient; if each step or row drew its own mask, hardly a weight would have none."""
    model = build(weight_dropout=0.5)

    def loss(params, batch):
        rngs = {"dropout": jax.random.key(2)}
        return jnp.sum(model.apply({"params": params}, batch, train=True, rngs=rngs).features ** 2)

    gradient = jax.jit(jax.grad(loss))(params, packed())
    for i in range(CONFIG.layers):
        assert 0.35 < np.mean(gradient[f"stack_{i}"]["recurrent"]["kernel"] == 0) < 0.65
        assert np.all(gradient[f"stack_{i}"]["input"]["kernel"] != 0)


def test_the_vocabulary_is_one():
    with pytest.raises(UserError, match="set config.tokenizer.joint=True"):
        lstm_lm.build(CONFIG, Tokens(VOCAB), Tokens(VOCAB + 1), precision=Precision.FLOAT32)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"embedding_width": 0}, "config.model.embedding_width is 0"),
        ({"weight_dropout": 1.0}, "config.model.weight_dropout is 1.0"),
        ({"change_penalty": -1.0}, "config.model.change_penalty is -1.0"),
        ({"layers": 1, "dropout": 0.1}, "use config.model.input_dropout or output_dropout"),
    ],
)
def test_options_out_of_range_name_the_way_out(options, message):
    with pytest.raises(UserError, match=message):
        Config(**options)
