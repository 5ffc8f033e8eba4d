"""What only a language model has to keep: prompt and answer are one sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.errors import UserError
from s2sjax.inference.sentences import source_batch
from s2sjax.models import causal_lm
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from tests.contract.conftest import VOCAB

PROMPT, ANSWER = [1, 7, 5, 9], [11, 6, 6, 13]
LLAMA = {
    "norm_kind": "rms", "positions": "rotary", "rotary_scaling": "llama3", "rotary_length": 6, "mlp": "swiglu",
    "kv_heads": 1, "biases": False, "tied": False, "window": 6,
}  # fmt: skip
KINDS = [{}, LLAMA, {"positions": "relative", "relative_buckets": 6, "relative_distance": 4}, {"positions": "alibi"},
         {"positions": "learned", "max_positions": 8}]  # fmt: skip


def build(**options):
    sizes = {"width": 16, "hidden": 24, "heads": 2, "layers": 2, "dropout": 0.0}
    model = causal_lm.build(
        causal_lm.Config(**{**sizes, **options}), Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32
    )
    params = jax.jit(lambda: model.init(jax.random.key(0), batch(PROMPT, ANSWER), train=False))()["params"]
    noise = lambda p: 1.5 * p + 0.1 * jax.random.normal(jax.random.key(1), p.shape)  # noqa: E731
    return model, jax.tree.map(noise, params)


def batch(prompt, decoder_inputs):
    def side(name, tokens):
        ids = jnp.array([tokens], jnp.int32)
        return {f"{name}_segments": jnp.ones_like(ids), f"{name}_positions": jnp.arange(ids.shape[1])[None]}

    tokens = {"inputs": jnp.array([prompt], jnp.int32), "decoder_inputs": jnp.array([decoder_inputs], jnp.int32)}
    return {**tokens, **side("input", prompt), **side("target", decoder_inputs),
            "weights": jnp.ones((1, len(decoder_inputs)))}  # fmt: skip


def features(model, params, *sequence):
    return np.asarray(jax.jit(lambda p: model.apply({"params": p}, batch(*sequence), train=False).features)(params))


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("options", KINDS, ids=lambda o: o.get("positions", "default"))
def test_continuing_a_prompt_equals_reading_everything_at_once(options):
    model, params = build(**options)
    continued, at_once = features(model, params, PROMPT, ANSWER), features(model, params, [], PROMPT + ANSWER)
    np.testing.assert_allclose(continued, at_once[:, len(PROMPT) :], atol=2e-5 * np.abs(at_once).max())


@pytest.mark.parametrize("options", [LLAMA, {"positions": "relative"}], ids=lambda o: o["positions"])
def test_stepping_without_a_prompt_equals_teacher_forcing(options):
    model, params = build(**options)

    @jax.jit
    def run(params):
        method = lambda name, *args, **kwargs: model.apply({"params": params}, *args, method=name, **kwargs)  # noqa: E731
        memory = method("encode", source_batch(jnp.zeros((1, 0), jnp.int32), jnp.zeros(1)))
        cache, logits = method("init_cache", memory, width=2, max_len=len(ANSWER)), []
        for token in ANSWER:
            step, cache = method("decode_step", jnp.full((1, 2), token, jnp.int32), cache, memory)
            logits.append(step)
        output = model.apply({"params": params}, batch([], ANSWER), train=False)
        return jnp.stack(logits, axis=2), output.features @ output.kernel

    stepped, forced = run(params)
    for hypothesis in np.moveaxis(np.asarray(stepped), 1, 0):
        np.testing.assert_allclose(hypothesis, forced, atol=2e-5 * np.abs(forced).max())


@pytest.mark.parametrize("prefix", [False, True])
def test_only_in_a_prefix_language_model_do_a_prompts_tokens_see_what_follows_in_it(prefix):
    """The gradient of an answer's feature with respect to how the first token of the prompt sees the last one."""
    model, params = build(prefix=prefix, layers=1)

    def memory(tokens):
        return model.apply(
            {"params": params}, source_batch(jnp.array([tokens]), jnp.array([len(tokens)])), method="encode"
        )

    # With one block, keys and values say nothing of the context; the second block's do.
    model, params = build(prefix=prefix, layers=2)
    a, b = (memory(tokens)["layers"][1].value for tokens in (PROMPT, [*PROMPT[:-1], 15]))
    assert (np.abs(a - b)[0, :, 0].max() > 1e-4) == prefix  # [B, G, S, C]
    a, b = (features(model, params, tokens, ANSWER) for tokens in (PROMPT, [*PROMPT[:-1], 15]))
    assert np.abs(a - b).max() > 1e-3


def test_a_window_reaches_from_the_answer_into_the_prompt_and_no_further():
    """One block that sees 3 positions: the answer's first feature depends on the last two tokens of the prompt."""
    model, params = build(layers=1, window=3, positions="none")
    expected = features(model, params, PROMPT, ANSWER)
    for place in range(len(PROMPT)):
        changed = [*PROMPT[:place], 16, *PROMPT[place + 1 :]]
        moved = np.abs(features(model, params, changed, ANSWER) - expected).max(axis=-1)[0] > 1e-4
        np.testing.assert_array_equal(moved, [place >= 2, place >= 3, False, False])


def test_two_vocabularies_are_refused():
    with pytest.raises(UserError, match="of 5 and 6 entries; set config.tokenizer.joint=True"):
        causal_lm.build(causal_lm.Config(), Tokens(5), Tokens(6), precision=Precision.FLOAT32)


def test_no_layers_are_refused():
    with pytest.raises(UserError, match="config.model.layers is 0"):
        causal_lm.Config(layers=0)
