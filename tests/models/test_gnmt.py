"""GNMT's wiring against a loop, sentence by sentence, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.errors import UserError
from s2sjax.inference.likelihood import logits
from s2sjax.models import gnmt
from s2sjax.models.gnmt import Config
from s2sjax.nn.remat import REMAT
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from tests import loops
from tests.contract.conftest import VOCAB, packed

D = 6


def upper(p, i):
    """Parameters of the i-th layer from the bottom, 1 being the second."""
    return p["second"]["lstm"] if i == 1 else jax.tree.map(lambda stack: stack[i - 2], p["layers"]["lstm"])


def decoded(config: Config, p, source, decoder_inputs):
    """The decoder's top outputs [T, D] for one sentence; and, if it copies, its distributions [T, V]."""
    x = p["source_embedding"]["table"][source] * D**0.5
    x = np.concatenate(
        [
            loops.layer("lstm", p[f"encoder_{name}"], x, reverse=name == "backward")[0]
            for name in ("forward", "backward")
        ],
        axis=-1,
    )
    for i in range(1, config.encoder_layers):
        y = loops.layer("lstm", upper(p["encoder_upper"], i), x)[0]
        x = x + y if i >= 2 else y

    bottom, context, outputs, mixed, coverage = p["decoder_bottom"], np.zeros(D), [], [], np.zeros(len(source))
    states = [(np.zeros(D), np.zeros(D))] * config.decoder_layers
    for token in decoder_inputs:
        word = p["target_embedding"]["table"][token] * D**0.5
        inputs = loops.dense(bottom["input"], word) + context @ bottom["feed"]["kernel"]
        states[0] = loops.advance("lstm", inputs, states[0][0] @ bottom["recurrent"]["kernel"], states[0])
        y = states[0][0]
        covered = np.outer(coverage, bottom["coverage"]) if config.coverage_weight else 0
        energies = np.tanh(y @ bottom["query"]["kernel"] + loops.dense(bottom["keys"], x) + covered) @ bottom["v"]
        attention = loops.softmax(energies)
        coverage = coverage + attention
        context = attention @ x
        for i in range(1, config.decoder_layers):
            layer = upper(p["decoder_upper"], i)
            inputs = loops.dense(layer["input"], np.concatenate([y, context]))
            states[i] = loops.advance("lstm", inputs, states[i][0] @ layer["recurrent"]["kernel"], states[i])
            y = y + states[i][0] if i >= 2 else states[i][0]
        outputs.append(y)
        if config.copy:
            logits = p["target_embedding"]["table"] @ y + p["output_bias"]
            mixed.append(loops.copying(p["copy_gate"], (y, context, word), logits, attention, source))
    return np.stack(outputs), np.array(mixed)


def made(**options):
    config = Config(width=D, dropout=0.0, **options)
    model, batch = gnmt.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32), packed()

    @jax.jit
    def parameters(key, batch):
        params = model.init(key, batch, train=False)["params"]
        return jax.tree.map(lambda p: p * 1.5 + 0.2 * jax.random.normal(key, p.shape), params)

    return config, model, batch, parameters(jax.random.key(0), batch)


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    "encoder_layers, decoder_layers, more",
    [(2, 2, {}), (3, 3, {}), (2, 4, {}), (4, 2, {}), (2, 3, {"copy": True, "coverage_weight": 1.0})],
)
def test_gnmt_equals_a_loop_over_the_steps_of_each_sentence(encoder_layers, decoder_layers, more):
    config, model, batch, params = made(encoder_layers=encoder_layers, decoder_layers=decoder_layers, **more)

    @jax.jit
    def run(params, batch):
        output = model.apply({"params": params}, batch, train=False)
        return output.features, jnp.exp(logits(output, Precision.FLOAT32))

    got, probabilities = run(params, batch)
    for row, segment in ((0, 1), (1, 3)):
        source, target = (batch[f"{side}_segments"][row] == segment for side in ("input", "target"))
        expected, mixed = decoded(
            config, loops.float64(params), batch["inputs"][row, source], batch["decoder_inputs"][row, target]
        )
        np.testing.assert_allclose(got[row, target], expected, rtol=1e-4, atol=1e-4)
        if config.copy:
            np.testing.assert_allclose(probabilities[row, target], mixed, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_what_is_computed_again_gives_the_same_gradients_with_the_same_dropout():
    gradients = {}
    for remat in REMAT:
        _, _, batch, params = made(encoder_layers=3, decoder_layers=3, remat=remat)
        config = Config(width=D, dropout=0.3, encoder_layers=3, decoder_layers=3, remat=remat)
        model = gnmt.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)

        def loss(params, batch, model=model):
            rngs = {"dropout": jax.random.key(1)}
            return jnp.sum(model.apply({"params": params}, batch, train=True, rngs=rngs).features ** 2)

        program = jax.jit(jax.grad(loss))
        assert ("remat" in str(jax.make_jaxpr(jax.grad(loss))(params, batch))) == (remat != "none")
        gradients[remat] = program(params, batch)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients["none"]))
    for kept, *others in zip(*map(jax.tree.leaves, gradients.values()), strict=True):
        for other in others:
            np.testing.assert_allclose(kept, other, atol=1e-5 * scale)


def test_the_layers_of_a_stack_begin_different():
    config = Config(width=D, encoder_layers=4, decoder_layers=2)
    model = gnmt.build(config, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)
    params = jax.jit(lambda batch: model.init(jax.random.key(0), batch, train=False))(packed())["params"]
    kernel = params["encoder_upper"]["layers"]["lstm"]["input"]["kernel"]
    assert kernel.shape == (2, D, 4 * D) and (kernel[0] != kernel[1]).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder_layers": 1}, "config.model.encoder_layers is 1, but GNMT has 2 or more"),
        ({"remat": "some"}, "config.model.remat is 'some'"),
        ({"width": 0}, "config.model.width is 0"),
        ({"dropout": 1.0}, "config.model.dropout is 1.0"),
    ],
)
def test_options_out_of_range_name_the_way_out(options, message):
    with pytest.raises(UserError, match=message):
        Config(**options)
