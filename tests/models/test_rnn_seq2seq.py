"""Recurrent encoder-decoders against a loop, sentence by sentence, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.errors import UserError
from s2sjax.inference.likelihood import logits
from s2sjax.models import rnn_seq2seq
from s2sjax.models.rnn_seq2seq import Config
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from tests import loops
from tests.contract.conftest import VOCAB, packed

D = 8


def decoded(config: Config, parameters, source, decoder_inputs):
    """What the decoder predicts from, [T, D], for one sentence; and, if it copies, its distributions [T, V]."""
    c, p = config, parameters
    embeddings = p["target_embedding" if c.tied == "all" else "source_embedding"]["table"]
    x, final = embeddings[source] * D**0.5, []

    def read(name, x, reverse):
        h, c = loops.layer(config.cell, p[name], x, reverse=reverse)
        return h, (h[0 if reverse else -1], c[0 if reverse else -1])

    forward, last = read("encoder_forward", x, c.reverse_source)
    x, last = [forward], [last]
    if c.bidirectional:
        backward, first = read("encoder_backward", embeddings[source] * D**0.5, True)
        x, last = [forward, backward], [*last, first]
    x = np.concatenate(x, axis=-1)
    final.append(tuple(np.concatenate(parts) for parts in zip(*last, strict=True)))
    for i in range(c.encoder_layers - 1):
        y, last = read(f"encoder_above_{i}", x, c.reverse_source)
        x = x + y if c.residual else y
        final.append(last)

    states = final
    if c.attention != "none":
        made = [loops.dense(p[f"initial_{i}"], x.mean(axis=0)) for i in range(c.decoder_layers)]
        states = [(np.tanh(m), m) for m in made]

    feed, outputs, mixed, coverage = np.zeros(D), [], [], np.zeros(len(source))
    for token in decoder_inputs:
        embedded = p["target_embedding"]["table"][token] * D**0.5
        word = loops.dense(p["input"], embedded)
        above = None
        for i in range(c.decoder_layers):
            kernel = p[f"recurrent_{i}"]["kernel"]
            inputs = word if i == 0 else above @ kernel[:D] + p[f"recurrent_bias_{i}"]
            if i == 0 and c.input_feeding:
                inputs = inputs + feed @ kernel[:D]
            states[i] = loops.advance(c.cell, inputs, states[i][0] @ kernel[-D:], states[i])
            above = states[i][0] + (above if i and c.residual else 0)
        if c.attention != "none":
            top, attention = above, attend(c, p, above, x, coverage)
            coverage = coverage + attention
            context = attention @ x
            above = feed = np.tanh(np.concatenate([top, context]) @ p["combine"]["kernel"])
        if c.copy:
            logits = p["target_embedding"]["table"] @ above + p["output_bias"]
            shares = attention / attention.sum()
            mixed.append(loops.copying(p["copy_gate"], (top, context, embedded), logits, shares, source))
        outputs.append(above)
    return np.stack(outputs), np.array(mixed)


def attend(config: Config, p, top, encoded, coverage):
    if config.attention == "dot":
        return loops.softmax(encoded @ top)
    keys = loops.dense(p["keys"], encoded)
    if config.attention == "additive":
        covered = np.outer(coverage, p["coverage"]) if config.coverage_weight else 0
        return loops.softmax(np.tanh(top @ p["query"]["kernel"] + keys + covered) @ p["v"])
    if config.attention == "general":
        return loops.softmax(keys @ top)
    positions = np.arange(len(encoded))
    centre = len(encoded) * loops.sigmoid(np.tanh(top @ p["place"]["kernel"]) @ p["place_v"])
    near = np.abs(positions - centre) <= config.window
    weights = np.zeros(len(encoded))
    weights[near] = loops.softmax((keys @ top)[near])
    return weights * np.exp(-((positions - centre) ** 2) / (2 * (config.window / 2) ** 2))


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention": "additive", "encoder_layers": 2, "decoder_layers": 2, "residual": True},
        {"attention": "local", "window": 1, "cell": "gru", "decoder_layers": 2, "bidirectional": False},
        {"attention": "general", "cell": "rnn", "input_feeding": False, "decoder_layers": 3, "residual": True},
        {"attention": "dot", "cell": "gru", "reverse_source": True, "bidirectional": False, "encoder_layers": 2},
        {"attention": "none", "input_feeding": False, "encoder_layers": 2, "decoder_layers": 2},
        {"attention": "none", "input_feeding": False, "bidirectional": False, "reverse_source": True, "cell": "gru"},
        {"copy": True, "coverage_weight": 1.0, "cell": "gru"},
        {"copy": True, "attention": "local", "window": 1, "input_feeding": False},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_every_kind_equals_a_loop_over_the_steps_of_each_sentence(options):
    config, batch = Config(width=D, dropout=0.0, **options), packed()
    model = rnn_seq2seq.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)

    @jax.jit
    def run(key, batch):
        params = model.init(key, batch, train=False)["params"]
        # Larger, so that whatever is wrong shows, and biases other than zero.
        params = jax.tree.map(lambda p: p * 1.5 + 0.2 * jax.random.normal(key, p.shape), params)
        output = model.apply({"params": params}, batch, train=False)
        return params, output.features, jnp.exp(logits(output, Precision.FLOAT32))

    params, got, probabilities = run(jax.random.key(0), batch)
    for row, segment in ((0, 1), (0, 2), (1, 3)):
        source, target = (batch[f"{side}_segments"][row] == segment for side in ("input", "target"))
        expected, mixed = decoded(
            config, loops.float64(params), batch["inputs"][row, source], batch["decoder_inputs"][row, target]
        )
        np.testing.assert_allclose(got[row, target], expected, rtol=1e-4, atol=1e-4)
        if config.copy:
            np.testing.assert_allclose(probabilities[row, target], mixed, rtol=1e-3, atol=1e-6)


def test_only_what_attends_sows_attention():
    batch = packed()
    for attention, sown in (("none", False), ("dot", True)):
        config = Config(width=D, attention=attention, input_feeding=False)
        model = rnn_seq2seq.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)
        _, state = jax.eval_shape(lambda b, model=model: model.init_with_output(
            jax.random.key(0), b, train=False, mutable=["params", "attention"]), batch)  # fmt: skip
        assert ("attention" in state) == sown


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cell": "lstn"}, "config.model.cell is 'lstn': did you mean 'lstm'"),
        ({"attention": "multiplicative"}, "config.model.attention is 'multiplicative'.*general"),
        ({"attention": "none"}, "set config.model.input_feeding=False"),
        ({"attention": "none", "input_feeding": False, "decoder_layers": 2}, "make them equal"),
        ({"reverse_source": True}, "set config.model.bidirectional=False"),
        ({"width": 7}, "make it even or set config.model.bidirectional=False"),
        ({"window": 0}, "config.model.window is 0"),
        ({"dropout": 1.0}, "config.model.dropout is 1.0"),
        ({"copy": True, "attention": "none", "input_feeding": False}, "or config.model.copy=False"),
        ({"coverage_weight": 1.0, "attention": "general"}, "set config.model.attention=additive"),
        ({"coverage_weight": 1.0, "input_feeding": False}, "config.model.input_feeding=True"),
        ({"coverage_weight": -1.0}, "config.model.coverage_weight is -1.0"),
    ],
)
def test_options_that_do_not_go_together_name_the_way_out(options, message):
    with pytest.raises(UserError, match=message):
        Config(**options)
