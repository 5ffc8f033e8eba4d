"""The PyTorch step that the speed benchmark measures against computes what ours computes. Skipped without torch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.data.examples import shift_right
from s2sjax.inference.likelihood import loss_sums
from s2sjax.models import transformer
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions
from s2sjax.ports import Tokens
from s2sjax.vocabulary import BOS

torch = pytest.importorskip("torch")
from tests.benchmarks import torch_transformer as twin  # noqa: E402 - it needs torch

torch.set_num_threads(1)  # tiny models, and other tests beside them

VOCAB = 50
RECIPE = twin.Recipe(
    VOCAB, encoder_layers=1, decoder_layers=2, width=16, hidden=32, heads=4, dropout=0.0, label_smoothing=0.1,
    learning_rate=3e-3, warmup_steps=8, steps=60, b1=0.9, b2=0.98, epsilon=1e-9, clip_norm=1.0, ema_decay=0.998,
)  # fmt: skip
CONFIG = transformer.Config(encoder_layers=1, decoder_layers=2, width=16, hidden=32, heads=4, dropout=0.0)


def sentences(source_lengths, target_lengths, width=9):
    """A bucketed batch of random sentences; length 0 is an empty row."""
    rng = np.random.default_rng(0)
    batch = {}
    for name, segments, lengths in (
        ("inputs", "input_segments", source_lengths),
        ("targets", "target_segments", target_lengths),
    ):
        filled = np.arange(width) < np.array(lengths)[:, None]
        batch[segments] = filled.astype(np.int32)
        batch[name] = np.where(filled, rng.integers(4, VOCAB, filled.shape), 0).astype(np.int32)
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), batch["inputs"].shape)
    return {
        **batch,
        "input_positions": positions,
        "target_positions": positions,
        "decoder_inputs": shift_right(batch["targets"], positions, batch["target_segments"], BOS),
        "weights": batch["target_segments"].astype(np.float32),
    }


@pytest.mark.parametrize(
    "lengths", [([8, 3, 5, 0], [4, 7, 2, 0]), ([9, 9], [9, 9])], ids=["with padding", "without padding"]
)
def test_the_twin_has_the_same_loss_and_the_same_gradients(lengths):
    batch = sentences(*lengths)
    model = transformer.build(CONFIG, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)
    arrays = jax.tree.map(jnp.asarray, batch)
    params = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), arrays)["params"]
    # Biases begin at 0 and scales at 1, which would hide a wrong mapping.
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        sums = loss_sums(model, params, arrays, LossOptions(label_smoothing=0.1, chunk=8), dropout_key=None)
        return sums.loss / sums.weight

    ours, gradients = loss(params)
    other = twin.Transformer(RECIPE)
    twin.load_parameters(other, params)
    theirs = other(twin.to_torch(batch))
    theirs.backward()

    assert theirs.item() == pytest.approx(float(ours), abs=1e-4)
    expected = twin.twin_parameters(gradients)
    found = dict(other.named_parameters())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name].grad, gradient, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_the_twin_learns_a_batch_by_heart(bfloat16):
    trainer = twin.Trainer(dataclasses.replace(RECIPE, label_smoothing=0.0, learning_rate=0.02), bfloat16=bfloat16)
    batch = twin.to_torch(sentences([8, 3, 5, 6], [4, 7, 2, 5]))
    losses = [trainer.step(batch) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
