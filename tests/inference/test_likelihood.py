"""The loss of a batch, whichever kind of output a model gives, against the plain formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.api import Copying, Mixture, Output
from s2sjax.inference.likelihood import logits, loss_sums
from s2sjax.inference.scorers import Single
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions

B, T, D, V = 3, 4, 5, 7
KEYS = jax.random.split(jax.random.key(0), 4)
FEATURES, KERNEL = jax.random.normal(KEYS[0], (B, T, D)), jax.random.normal(KEYS[1], (D, V))
BIAS = jax.random.normal(KEYS[2], (V,))
TOKENS = jnp.array([[4, 5, 6], [6, 3, 0], [0, 1, 2]])
MASSES = jax.nn.softmax(FEATURES[..., :3])
BATCH = {
    "targets": jax.random.randint(KEYS[3], (B, T), 0, V),
    "weights": jnp.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]]),
}
OUTPUTS = {
    "output": Output(FEATURES, KERNEL),
    "output with bias": Output(FEATURES, KERNEL, BIAS),
    "mixture": Mixture(jax.nn.softmax(FEATURES), jax.nn.softmax(KERNEL)),
    "copying": Output(FEATURES, KERNEL, BIAS, copying=Copying(FEATURES[..., 0], MASSES, TOKENS)),
}


class Answers(nn.Module):
    """A model that gives the same output whatever it reads."""

    output: str
    aux: float | None = None

    def __call__(self, batch, *, train):
        return OUTPUTS[self.output]._replace(aux=None if self.aux is None else jnp.float32(self.aux))


def log_probs(name):
    """Log-probability of every target, from the definitions, float64."""
    output = jax.tree.map(lambda x: np.asarray(x, np.float64), OUTPUTS[name])
    scores = output.features @ output.kernel
    if name == "mixture":
        probabilities = scores
    else:
        scores = np.exp(scores + (0 if output.bias is None else output.bias))
        probabilities = scores / scores.sum(axis=-1, keepdims=True)
    if name == "copying":
        gate, masses, tokens = output.copying
        generation = 1 / (1 + np.exp(-gate[..., None]))
        copied = np.einsum("bts,bsv->btv", masses, np.eye(V)[tokens.astype(int)])
        probabilities = generation * probabilities + (1 - generation) * copied
    return np.log(np.take_along_axis(probabilities, np.asarray(BATCH["targets"])[..., None], axis=-1)[..., 0])


def sums_of(model, *, train=False):
    return loss_sums(model, {}, BATCH, LossOptions(chunk=5), dropout_key=jax.random.key(0) if train else None)


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_kind_of_output_has_a_loss_and_sentence_probabilities(name):
    expected = np.asarray(BATCH["weights"]) * log_probs(name)
    sums = sums_of(Answers(name))
    assert float(sums.loss) == pytest.approx(-expected.sum(), rel=1e-5)
    assert float(sums.nll) == pytest.approx(-expected.sum(), rel=1e-5)
    assert float(sums.weight) == 7
    got = Single(Answers(name), Precision.FLOAT32).token_log_probs({}, BATCH)
    np.testing.assert_allclose(got * BATCH["weights"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_softmax_of_the_logits_is_the_models_distribution(name):
    probabilities = jax.nn.softmax(logits(OUTPUTS[name], Precision.FLOAT32))
    targets = jnp.take_along_axis(probabilities, BATCH["targets"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(jnp.log(targets), log_probs(name), rtol=1e-5)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_auxiliary_loss_is_added_in_training_only_and_never_counts_as_likelihood(name):
    plain, penalised = sums_of(Answers(name)), Answers(name, aux=2.5)
    training, evaluation = sums_of(penalised, train=True), sums_of(penalised)
    assert float(training.loss) == pytest.approx(float(plain.loss) + 2.5, rel=1e-6)
    assert float(evaluation.loss) == float(plain.loss)
    assert float(training.nll) == float(evaluation.nll) == float(plain.nll)
