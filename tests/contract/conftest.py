"""Every model family, found by walking `s2sjax/models/`, in every variant of its enums, tiny."""

import dataclasses
from functools import cached_property, lru_cache

import jax
import numpy as np
import pytest

from s2sjax import models
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.prepare import Ragged, TokenizedSplit
from s2sjax.ops.linear import Precision

VOCAB = 19
SMALL = {"width": 16, "hidden": 24, "heads": 2, "encoder_layers": 2, "decoder_layers": 2}
"""Sizes for whichever of these fields a family's Config has."""

VARIANTS = {
    "transformer": [{"norm": "pre"}, {"norm": "post", "tied": "decoder"}, {"tied": "none"}],
    "rnn_seq2seq": [
        {"attention": "additive"},
        {"attention": "multiplicative", "input_feeding": False, "tied": "all"},
        {"encoder_layers": 1, "decoder_layers": 1, "tied": "none"},
    ],
}
"""A family that is not listed runs with its defaults."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One variant of one family, with parameters."""

    name: str
    family: str
    options: tuple

    def build(self, precision=Precision.FLOAT32, **more):
        module = models.family(self.family)
        fields = {f.name for f in dataclasses.fields(module.Config)}
        sizes = {k: v for k, v in SMALL.items() if k in fields}
        dropout = {"dropout": 0.0} if "dropout" in fields else {}
        config = module.Config(**{**sizes, **dropout, **dict(self.options), **more})
        return module.build(config, VOCAB, VOCAB, precision=precision)

    @cached_property
    def model(self):
        return self.build()

    @cached_property
    def params(self):
        # Scaled up, so that a wrong mask or a missed reset moves the outputs by much more than rounding.
        params = jax.jit(lambda key, batch: self.model.init(key, batch, train=False))(jax.random.key(0), bucketed())[
            "params"
        ]
        return jax.tree.map(lambda p: p * 1.5 + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)

    def logits(self, batch, model=None, params=None):
        """All logits [B, T, V], as numpy."""
        return np.asarray(_logits(model or self.model, params if params is not None else self.params, batch))


@lru_cache
def _jitted(model):
    def logits(params, batch):
        output = model.apply({"params": params}, batch, train=False)
        logits = output.features.astype("float32") @ output.kernel
        return logits if output.bias is None else logits + output.bias

    return jax.jit(logits)


def _logits(model, params, batch):
    return _jitted(model)(params, batch)


SUBJECTS = [
    Subject(f"{family}-{'-'.join(map(str, options.values())) or 'default'}", family, tuple(options.items()))
    for family in models.families()
    for options in VARIANTS.get(family, [{}])
]


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request):
    return request.param


def sentences() -> TokenizedSplit:
    """Eight sentence pairs of 2 to 6 tokens."""
    rng = np.random.default_rng(0)

    def side():
        return Ragged.from_rows([np.append(rng.integers(4, VOCAB, rng.integers(1, 6)), 3) for _ in range(8)])

    return TokenizedSplit(side(), side(), fingerprint="")


SPLIT = sentences()


def bucketed(source: int = 6, target: int = 6, rows: int = 8):
    """One sentence a row."""
    return assemble(PlannedBatch(Shape(rows, source, target), np.arange(8), np.arange(8)), SPLIT)


def packed():
    """The same sentences, in three rows of up to three."""
    return assemble(PlannedBatch(Shape(4, 20, 20), np.arange(8), np.array([0, 0, 0, 1, 1, 1, 2, 2])), SPLIT)
