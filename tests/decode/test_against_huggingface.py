"""Our search beside Hugging Face `generate` on the same random weights, convention by convention.

    .venv/bin/python -m pip install torch transformers      # no dependencies of the project; skipped without them
    bash launch/test.sh -m slow tests/decode/test_against_huggingface.py

What `generate` does is read from transformers 5.23 (`generation/utils.py`, `generation/logits_process.py`). What of
ours is the same, and held to be the same by the tests below, all four hypotheses of 64 sources, scores to 1e-4:

    max_new_tokens=n          max_len=n; end-of-sentence counts in both. max_length=n also counts what decoding begins
                              from: begin-of-sentence here, a language model's prompt there.
    min_length=n              min_lengths=n: theirs counts begin-of-sentence and ours end-of-sentence. But
                              min_new_tokens=n, which counts neither, is min_lengths=n + 1.
    length_penalty=a          length_penalty="power", alpha=a: log-probability / n ** a, where n counts end-of-sentence
                              and not what decoding began from. 0 is "none".
    early_stopping="never"    stop="bound": their best possible score is at the length limit too.
    early_stopping=False      (their default) stop="present": they take the best score at the present length for a
                              bound, which with a length penalty it is not, and stop too soon.
    early_stopping=True       stop="first", but for one case: when more hypotheses end at once than there is room for,
                              theirs may replace one that ended before, and ours (fairseq's rule) may not.
    forced_eos_token_id       a change of the model: at the limit end-of-sentence has probability 1. Ours pays for it.
    without it                a hypothesis at the limit stays as it is, without end-of-sentence, and competes. With
                              num_beams=1, max_new_tokens=n - 1 is max_len=n. In a beam without a length penalty it is
                              a model that is certain of end-of-sentence as token n + 1; with a penalty, no preset.
    decoder_input_ids         not a constraint but where decoding begins: neither its log-probability nor its length
                              count. So it is a cache that has read it; without a length penalty it is also a `prefix`,
                              whose log-probability ours adds.
    no_repeat_ngram_size      no_repeat_ngram, but theirs counts the prompt and begin-of-sentence in.
    repetition_penalty        the same in a beam (on log-probabilities). With num_beams=1 theirs acts on logits, whose
                              sign means nothing: no preset.
    suppress_tokens           Constraints.allowed; nothing is renormalised in either. Padding has to be suppressed
                              there, and never comes here.

They fill sequences with end-of-sentence when padding's id is 0 (a tensor of 0 is false), and keep pools, 2K candidates,
and merging by score as we do.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.decode.beam import beam_search
from s2sjax.decode.beam_config import BeamConfig
from s2sjax.decode.constraints import UNCONSTRAINED, Asked, Constraints
from s2sjax.inference.sentences import source_batch
from s2sjax.models import causal_lm, transformer
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from s2sjax.vocabulary import BOS, EOS, PAD

pytestmark = pytest.mark.slow

VOCAB, SOURCES, BEAM, LIMIT, POSITIONS = 60, 64, 4, 40, 64
SIZES: dict[str, Any] = {"width": 32, "hidden": 64, "heads": 4, "dropout": 0.0, "max_positions": POSITIONS}
ENCODER_DECODER = transformer.Config(
    encoder_layers=2, decoder_layers=2, norm="post", norm_epsilon=1e-5, positions="learned", mlp="swish", **SIZES
)
GPT2 = causal_lm.Config(
    layers=2, norm_epsilon=1e-5, positions="learned", mlp="gelu_tanh", scale_embeddings=False, **SIZES
)
LLAMA = causal_lm.Config(
    layers=2, norm_kind="rms", positions="rotary", mlp="swiglu", kv_heads=2, biases=False, tied=False,
    scale_embeddings=False, **SIZES,
)  # fmt: skip


class Pair(NamedTuple):
    """One model in both systems."""

    model: Any
    params: Any
    other: Any
    inputs: np.ndarray
    """[B, S], ours: padded at the end; a prompt without its last token."""
    first: np.ndarray
    """[B], what the first step of ours reads: begin-of-sentence, or a prompt's last token."""
    given: np.ndarray
    """[B, S], what Hugging Face's encoder reads; of a language model, prompts padded at the beginning."""
    begun: int
    """How many columns of Hugging Face's results were there before the first step."""


class Found(NamedTuple):
    tokens: tuple[int, ...]
    score: float


# ---- Models with something to say ----


def parameters(model, key: int):
    """Random, and all of them: biases begin at 0 and scales at 1, which would hide a wrong mapping."""
    batch = {**source_batch(jnp.full((1, 2), EOS), jnp.full(1, 2)), **teacher_forcing(np.full((1, 2), EOS))}
    params = jax.jit(functools.partial(model.init, train=False))(jax.random.key(key), batch)["params"]
    keys = iter(jax.random.split(jax.random.key(key + 1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)


def give_opinions(params, *, nats: float, positions: float, end: tuple[float, float], damped: float = 1.0) -> None:
    """Let next words be a matter of taste, of position, and of how long it has been: random models go in circles.

    Args:
        nats: how far logits are apart, about.
        positions: standard deviation of the position embeddings.
        end: how much of end-of-sentence is in the first position, and how much more in each later one.
        damped: what sub-layers are multiplied by, so that positions are not forgotten on the way.
    """
    table = params["target_embedding"]["table"] * nats
    params["target_embedding"]["table"] = table
    keys = iter(jax.random.split(jax.random.key(2), 2))
    for side in (side for side in ("encoder", "decoder") if side in params):
        random = positions * jax.random.normal(next(keys), (POSITIONS, table.shape[1]))
        params[side]["positions"]["learned"]["table"] = random
        for name, layer in params[side].items():
            if name.startswith("layers_"):
                attentions = [layer[part]["output"] for part in ("attention", "cross_attention") if part in layer]
                for sublayer in (*attentions, layer["mlp"]["down"]):
                    sublayer["kernel"] *= damped
    rising = jnp.minimum(end[0] + end[1] * jnp.arange(POSITIONS), 16)
    direction = table[EOS] / jnp.linalg.norm(table[EOS]) * table.shape[1] ** 0.5
    params["decoder"]["positions"]["learned"]["table"] += rising[:, None] * direction


def random_rows(longest: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(EOS + 1, VOCAB, rng.integers(2, longest)) for _ in range(SOURCES)]


def padded(rows: list[np.ndarray], *, left: bool = False) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([np.pad(row, (width - len(row), 0) if left else (0, width - len(row))) for row in rows], np.int32)


def teacher_forcing(targets: np.ndarray) -> dict[str, jax.Array]:
    """The target's part of a batch, one sentence a row, padded at the end."""
    tokens = jnp.asarray(targets, jnp.int32)
    filled = (tokens != PAD).astype(jnp.int32)
    return {
        "targets": tokens,
        "decoder_inputs": jnp.concatenate([jnp.full_like(tokens[:, :1], BOS), tokens[:, :-1]], axis=1),
        "target_segments": filled,
        "target_positions": jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape),
        "weights": filled.astype(jnp.float32),
    }


@pytest.fixture(scope="module")
def hugging_face():
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"pip install {package}: it is no dependency of the project")
    import torch

    from tests.benchmarks import hugging_face

    torch.set_num_threads(1)  # tiny models, and other tests beside them
    return hugging_face


@pytest.fixture(scope="module")
def marian(hugging_face) -> Pair:
    model = transformer.build(ENCODER_DECODER, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)
    params = parameters(model, 0)
    give_opinions(params, nats=2.0, positions=2.0, end=(-2.0, 0.6), damped=0.6)
    table, norm = params["target_embedding"]["table"], params["decoder"]["layers_1"]["around_mlp"]["norm"]
    norm["bias"] += 3 * table[EOS] / jnp.sum(table[EOS] ** 2)  # post-norm forgets positions; this adds 3 to a logit
    inputs = padded([np.append(row, EOS) for row in random_rows(12)])
    first = np.full(SOURCES, BOS, np.int32)
    return Pair(model, params, hugging_face.marian(params, heads=4), inputs, first, inputs, 1)


@pytest.fixture(scope="module")
def gpt2(hugging_face) -> Pair:
    model = causal_lm.build(GPT2, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)
    params = parameters(model, 4)
    give_opinions(params, nats=3.0, positions=1.0, end=(-3.0, 0.3))
    prompts = [np.insert(row, 0, BOS) for row in random_rows(8)]
    given = padded(prompts, left=True)
    inputs, first = padded([row[:-1] for row in prompts]), np.array([row[-1] for row in prompts], np.int32)
    return Pair(model, params, hugging_face.gpt2(params, heads=4), inputs, first, given, given.shape[1])


# ---- The two systems ----


def ours(
    pair: Pair, config: BeamConfig, *, constraints=UNCONSTRAINED, read=None, certain_at: int = 0, least: int = 0
) -> list[list[Found]]:
    """The K best of every source.

    Args:
        read: [B, P] tokens that the cache has read after the first, before search begins.
        certain_at: the number of the token at which the model is certain of end-of-sentence; 0 is never.
        least: the least length.
    """
    read = np.zeros((SOURCES, 0), np.int32) if read is None else read
    result = search(
        pair.params, *(jnp.asarray(x) for x in (pair.inputs, pair.first, read, np.full(SOURCES, least, np.int32))),
        jax.tree.map(jnp.asarray, constraints), model=pair.model, config=config, certain_at=certain_at,
    )  # fmt: skip
    tokens, scores, lengths = (np.asarray(x) for x in (result.tokens, result.scores, result.lengths))
    return [
        [Found(tuple(tokens[b, k, : lengths[b, k]].tolist()), float(scores[b, k])) for k in range(config.nbest)]
        for b in range(SOURCES)
    ]


@functools.partial(jax.jit, static_argnames=("model", "config", "certain_at"))
def search(params, inputs, first, read, least, constraints, *, model, config, certain_at):
    def method(name, *args, **kwargs):
        return model.apply({"params": params}, *args, method=name, **kwargs)

    memory = method("encode", source_batch(inputs, (inputs != PAD).sum(axis=1)))
    cache = method("init_cache", memory, width=config.beam_size, max_len=config.max_len + read.shape[1])

    def step(tokens, cache):
        return method("decode_step", tokens, cache, memory)

    for column in range(read.shape[1]):
        _, cache = step(jnp.broadcast_to(first[:, None], (SOURCES, config.beam_size)), cache)
        first = read[:, column]

    def certain_of_the_end(tokens, made_and_cache):
        made, cache = made_and_cache
        logits, cache = step(tokens, cache)
        only_the_end = jnp.where(jnp.arange(VOCAB) == EOS, 0.0, -jnp.inf)
        return jnp.where((made == certain_at - 1)[..., None], only_the_end, logits), (made + 1, cache)

    if certain_at:
        cache = (jnp.zeros((SOURCES, config.beam_size), jnp.int32), cache)
    steps = certain_of_the_end if certain_at else step
    return beam_search(steps, cache, first, config, Asked(min_lengths=least, constraints=constraints))


def theirs(pair: Pair, **asked) -> list[list[Found]]:
    """The same from `generate`, cut after end-of-sentence; greedy search has no scores."""
    import torch

    asked = {"num_beams": BEAM, "suppress_tokens": [PAD], "max_new_tokens": LIMIT, **asked}
    begun = pair.begun
    if "decoder_input_ids" in asked:
        begun = asked["decoder_input_ids"].shape[1]
        asked["decoder_input_ids"] = torch.tensor(asked["decoder_input_ids"], dtype=torch.long)
    if "max_length" in asked:
        del asked["max_new_tokens"]
    ids = torch.tensor(pair.given, dtype=torch.long)
    with torch.no_grad():
        output = pair.other.generate(
            ids, attention_mask=(ids != PAD).long(), do_sample=False, return_dict_in_generate=True, output_scores=True,
            num_return_sequences=asked["num_beams"], **asked,
        )  # fmt: skip
    sequences = output.sequences[:, begun:].reshape(SOURCES, asked["num_beams"], -1).tolist()
    scores = np.zeros(SOURCES) if asked["num_beams"] == 1 else output.sequences_scores.numpy()
    scores = scores.reshape(SOURCES, -1).tolist()
    return [
        [Found(tuple(_to_the_end(t)), s) for t, s in zip(*row, strict=True)]
        for row in zip(sequences, scores, strict=True)
    ]


def _to_the_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


def plain(**fields) -> BeamConfig:
    return BeamConfig(**{"beam_size": BEAM, "nbest": BEAM, "max_len": LIMIT, "length_penalty": "none", **fields})


def assert_same(left: list[list[Found]], right: list[list[Found]]) -> None:
    for row, (a, b) in enumerate(zip(left, right, strict=True)):
        assert [f.tokens for f in a] == [f.tokens for f in b], f"source {row}"
        np.testing.assert_allclose([f.score for f in a], [f.score for f in b], atol=1e-4, err_msg=f"source {row}")


def best(found: list[list[Found]]) -> list[tuple[int, ...]]:
    return [row[0].tokens for row in found]


# ---- The same model ----


@pytest.mark.parametrize(
    ("family", "config", "name", "sizes"),
    [
        (transformer, ENCODER_DECODER, "marian", {"heads": 4}),
        (causal_lm, GPT2, "gpt2", {"heads": 4}),
        (causal_lm, LLAMA, "llama", {"heads": 4, "kv_heads": 2}),
    ],
    ids=["marian", "gpt2", "llama"],
)
def test_logits_are_equal(family, config, name, sizes, hugging_face):
    import torch

    model = family.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)
    params = parameters(model, 6)
    other = getattr(hugging_face, name)(params, **sizes)
    targets = padded([np.append(row, EOS) for row in random_rows(9)])
    inputs = padded([row[::-1] for row in random_rows(12)]) if name == "marian" else np.zeros((SOURCES, 0), np.int32)
    batch = {**source_batch(jnp.asarray(inputs), (inputs != PAD).sum(axis=1)), **teacher_forcing(targets)}
    output = jax.jit(functools.partial(model.apply, train=False))({"params": params}, batch)
    decoder_inputs = torch.tensor(np.array(batch["decoder_inputs"]), dtype=torch.long)
    source = torch.tensor(inputs, dtype=torch.long)
    with torch.no_grad():
        if name == "marian":
            answer = other(source, attention_mask=(source != PAD).long(), decoder_input_ids=decoder_inputs)
        else:
            answer = other(decoder_inputs)
    filled, expected = targets != PAD, np.asarray(output.features @ output.kernel)
    np.testing.assert_allclose(answer.logits.numpy()[filled], expected[filled], rtol=0, atol=1e-5)


# ---- The same search ----


@pytest.mark.parametrize("name", ["marian", "gpt2"])
def test_greedy_search_is_equal(name, request):
    pair = request.getfixturevalue(name)
    for limit in (LIMIT, 6):
        mine = best(ours(pair, plain(beam_size=1, nbest=1, max_len=limit)))
        unended = best(theirs(pair, num_beams=1, max_new_tokens=limit - 1))
        assert mine == [tokens if tokens[-1] == EOS else (*tokens, EOS) for tokens in unended]
        if limit == LIMIT:
            assert len(set(mine)) > SOURCES / 3 and len({len(tokens) for tokens in mine}) > 3, "too easy"


@pytest.mark.parametrize("early_stopping", ["never", False])
@pytest.mark.parametrize("name", ["marian", "gpt2"])
def test_a_beam_without_a_length_penalty_is_equal(name, early_stopping, request):
    pair = request.getfixturevalue(name)
    assert_same(ours(pair, plain()), theirs(pair, length_penalty=0.0, early_stopping=early_stopping))


@pytest.mark.parametrize("alpha", [0.6, 1.0])
@pytest.mark.parametrize("name", ["marian", "gpt2"])
def test_a_beam_with_a_length_penalty_is_equal(name, alpha, request):
    pair = request.getfixturevalue(name)
    mine = ours(pair, plain(length_penalty="power", alpha=alpha))
    assert_same(mine, theirs(pair, length_penalty=alpha, early_stopping="never"))
    assert best(mine) != best(ours(pair, plain())), "the penalty changes nothing"


def test_stopping_at_the_present_length_finds_nothing_better_and_some_worse(marian):
    mine = ours(marian, plain(length_penalty="power", alpha=1.0))
    early = theirs(marian, length_penalty=1.0, early_stopping=False)
    assert_same(ours(marian, plain(length_penalty="power", alpha=1.0, stop="present")), early)
    gains = [a[0].score - b[0].score for a, b in zip(mine, early, strict=True)]
    assert min(gains) > -1e-4 and max(gains) > 1e-2


def test_stopping_at_a_full_pool_is_equal_but_for_those_that_end_together(marian):
    mine = ours(marian, plain(length_penalty="power", alpha=1.0, stop="first"))
    others = theirs(marian, length_penalty=1.0, early_stopping=True)
    equal = [[f.tokens for f in a] == [f.tokens for f in b] for a, b in zip(mine, others, strict=True)]
    assert_same(*([row for row, same in zip(found, equal, strict=True) if same] for found in (mine, others)))
    for a, b in ((a, b) for a, b, same in zip(mine, others, equal, strict=True) if not same):
        kept, replaced = _without(a, b), _without(b, a)
        last = max(len(f.tokens) for f in (*a, *b))
        assert all(len(f.tokens) == last for f in replaced), "they ended in the last step"
        assert min(f.score for f in replaced) > max(f.score for f in kept), "and were better than what was there"
    assert SOURCES / 2 < sum(equal) < SOURCES


def _without(found: list[Found], others: list[Found]) -> list[Found]:
    return [f for f in found if f.tokens not in {other.tokens for other in others}]


# ---- Limits ----


def test_least_lengths_are_equal(marian):
    mine = ours(marian, plain(length_penalty="power", alpha=1.0), least=9)
    for asked in ({"min_length": 9}, {"min_new_tokens": 8}):
        assert_same(mine, theirs(marian, length_penalty=1.0, early_stopping="never", **asked))
    assert min(map(len, best(mine))) == 9


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_an_end_that_is_forced_and_free_is_a_model_that_is_certain_of_it(marian, alpha):
    config = plain(length_penalty="power", alpha=alpha, max_len=6)
    others = theirs(
        marian, length_penalty=alpha, early_stopping="never", max_length=1 + 6, forced_eos_token_id=EOS
    )  # fmt: skip
    assert_same(ours(marian, config, certain_at=6), others)
    # Ours pays for it, as teacher forcing does.
    assert all(f.tokens[-1] == EOS for row in ours(marian, config) for f in row)
    assert best(ours(marian, config)) != best(others)


def test_a_hypothesis_cut_at_the_limit_is_one_that_ends_for_free_after_it(marian):
    others = theirs(marian, length_penalty=0.0, max_new_tokens=6)
    mine = ours(marian, plain(max_len=7), certain_at=7)
    assert_same([[f._replace(tokens=f.tokens[:6]) for f in row] for row in mine], others)
    assert sum(tokens[-1] != EOS for tokens in best(others)) > SOURCES / 4
    # With a length penalty, theirs is divided by 6 to the power of alpha, ours by 7.
    others = theirs(marian, length_penalty=1.0, early_stopping="never", max_new_tokens=6)
    mine = ours(marian, plain(length_penalty="power", alpha=1.0, max_len=7), certain_at=7)
    assert [tokens[:6] for tokens in best(mine)] != best(others)


# ---- Constraints ----


def prefixes() -> np.ndarray:
    return np.random.default_rng(1).integers(EOS + 1, VOCAB, (SOURCES, 3)).astype(np.int32)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_what_decoding_begins_from_is_a_cache_that_has_read_it(marian, alpha):
    begun = np.concatenate([marian.first[:, None], prefixes()], axis=1)
    others = theirs(marian, decoder_input_ids=begun, length_penalty=alpha, early_stopping="never")
    assert_same(ours(marian, plain(length_penalty="power", alpha=alpha), read=prefixes()), others)


def test_without_a_length_penalty_a_prefix_finds_the_same_and_counts_in_the_score(marian):
    begun = np.concatenate([marian.first[:, None], prefixes()], axis=1)
    others = theirs(marian, decoder_input_ids=begun, length_penalty=0.0, early_stopping="never")
    mine = ours(marian, plain(max_len=LIMIT + 3), constraints=Constraints(prefix=prefixes()))
    batch = {
        **source_batch(jnp.asarray(marian.inputs), (marian.inputs != PAD).sum(axis=1)),
        **teacher_forcing(prefixes()),
    }
    output = marian.model.apply({"params": marian.params}, batch, train=False)
    log_probs = np.asarray(jax.nn.log_softmax(output.features @ output.kernel))
    prefix_scores = np.take_along_axis(log_probs, prefixes()[..., None], axis=2).sum(axis=(1, 2))
    expected = [
        [Found((*prefix, *f.tokens), f.score + score) for f in row]
        for prefix, score, row in zip(prefixes().tolist(), prefix_scores.tolist(), others, strict=True)
    ]
    assert_same(mine, expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_blocked_ngrams_are_equal(marian, size):
    # Begin-of-sentence counts in theirs as a word that was written; where it is not written again, nobody can tell.
    asked = {"no_repeat_ngram_size": size, "suppress_tokens": [PAD, BOS], "early_stopping": "never"}
    config = plain(length_penalty="power", alpha=1.0, no_repeat_ngram=size)
    mine = ours(marian, config, constraints=Constraints(allowed=np.arange(VOCAB) != BOS))
    assert_same(mine, theirs(marian, length_penalty=1.0, **asked))
    assert best(mine) != best(ours(marian, plain(length_penalty="power", alpha=1.0))), "nothing was blocked"


def test_a_prompt_counts_among_their_ngrams_and_not_among_ours(gpt2):
    config = plain(no_repeat_ngram=1)
    others = theirs(gpt2, no_repeat_ngram_size=1, length_penalty=0.0)
    assert best(ours(gpt2, config)) != best(others)
    allowed = np.ones((SOURCES, VOCAB), bool)
    for row, prompt in zip(allowed, gpt2.given, strict=True):
        row[prompt] = False
    assert_same(ours(gpt2, config, constraints=Constraints(allowed=allowed)), others)


def test_a_beams_repetition_penalty_is_equal(marian):
    config = plain(length_penalty="power", alpha=1.0, repetition_penalty=1.3)
    mine = ours(marian, config, constraints=Constraints(allowed=np.arange(VOCAB) != BOS))
    asked = {"repetition_penalty": 1.3, "suppress_tokens": [PAD, BOS], "early_stopping": "never"}
    assert_same(mine, theirs(marian, length_penalty=1.0, **asked))


def test_their_greedy_repetition_penalty_depends_on_a_constant_added_to_the_logits(marian):
    # As the sign of a logit does. Softmax and search do not see the constant, nor does ours.
    others = theirs(marian, num_beams=1, repetition_penalty=1.3)
    bias = marian.other.final_logits_bias
    try:
        marian.other.final_logits_bias = bias + 10
        shifted = theirs(marian, num_beams=1, repetition_penalty=1.3)
    finally:
        marian.other.final_logits_bias = bias
    assert best(others) != best(shifted)
