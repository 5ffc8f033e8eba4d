"""Every model family, found by walking `s2sjax/models/`, in every variant of its enums, tiny."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from s2sjax import models
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.inference.likelihood import logits
from s2sjax.ops.linear import Precision
from s2sjax.ports import Port, Tokens, Vectors

VOCAB = 19
TOKENS = Tokens(VOCAB)
WIDTH = 5
VECTORS = np.random.default_rng(1).standard_normal((VOCAB, WIDTH)).astype(np.float32)
"""What stands for each token where vectors are read."""
SMALL = {"width": 16, "hidden": 24, "heads": 2, "encoder_layers": 2, "decoder_layers": 2}
"""Sizes for whichever of these fields a family's Config has."""

VARIANTS = {
    "transformer": [
        {"norm": "pre"},
        {"norm": "post", "tied": "decoder", "positions": "learned", "mlp": "gelu", "scale_embeddings": False},
        {
            "norm_kind": "rms",
            "positions": "relative",
            "mlp": "gated_gelu",
            "biases": False,
            "scale_attention": False,
            "tied": "none",
            "scan": True,
        },
        {
            "norm_kind": "rms",
            "positions": "rotary",
            "mlp": "swiglu",
            "biases": False,
            "kv_heads": 1,
            "qk_norm": True,
            "window": 3,
            "experts": 3,
            "routing": "capacity",
            "scan": True,
            "remat": "dots",
        },
        {"positions": "relative", "kv_heads": 1, "encoder_window": 1, "encoder_global_tokens": 1},
        {"copy": True, "coverage_weight": 0.5, "scan": True, "experts": 3, "norm": "post"},
    ],
    "causal_lm": [
        {
            "layers": 2,
            "norm_kind": "rms",
            "positions": "rotary",
            "rotary_scaling": "llama3",
            "rotary_length": 8,
            "mlp": "swiglu",
            "biases": False,
            "kv_heads": 1,
            "window": 5,
            "tied": False,
            "scan": True,
        },
        {"layers": 2, "positions": "alibi", "prefix": True, "experts": 3, "scan": True},
        {
            "layers": 2,
            "positions": "learned",
            "mlp": "gelu_tanh",
            "scale_embeddings": False,
            "prefix": True,
            "window": 3,
        },
        {"layers": 2, "positions": "relative", "remat": "full"},
    ],
    "rnn_seq2seq": [
        {"attention": "additive"},
        {"attention": "general", "cell": "gru", "input_feeding": False, "residual": True, "tied": "all"},
        {"attention": "local", "cell": "gru", "window": 2, "residual": True, "bidirectional": False},
        {"attention": "dot", "cell": "rnn", "encoder_layers": 1, "decoder_layers": 1, "tied": "none"},
        {"attention": "none", "input_feeding": False, "bidirectional": False, "reverse_source": True},
        {"attention": "none", "input_feeding": False, "cell": "gru"},
        {"copy": True, "coverage_weight": 0.5},
    ],
    "griffin": [{"pattern": ("recurrent", "attention"), "repeats": 1, "window": 3, "recurrent_width": 20}],
    "hmm": [{"states": 20}],
    "gnmt": [
        {"tied": "all"},
        {"encoder_layers": 4, "decoder_layers": 3, "remat": "full", "tied": "none"},
        {"copy": True, "coverage_weight": 0.5},
    ],
    "lstm_lm": [
        {"embedding_width": 12},
        {
            "tied": False,
            "word_dropout": 0.1,
            "input_dropout": 0.1,
            "output_dropout": 0.1,
            "weight_dropout": 0.2,
            "activation_penalty": 2.0,
            "change_penalty": 1.0,
        },
    ],
    "encoder": [
        {"layers": 2, "norm": "post", "positions": "learned", "mlp": "gelu", "scale_embeddings": False},
        {
            "layers": 2,
            "norm_kind": "rms",
            "positions": "rotary",
            "mlp": "swiglu",
            "biases": False,
            "experts": 3,
            "scan": True,
            "remat": "dots",
        },
        {"layers": 2, "positions": "relative", "encoder_window": 1, "encoder_global_tokens": 1},
    ],
    "rnn_encoder": [{"layers": 2}, {"layers": 2, "cell": "gru", "residual": True}],
}
"""A family that is not listed runs with its defaults."""

SLOW_VARIANTS = {
    "transformer": [
        {"norm": "post", "positions": "alibi", "mlp": "swish", "encoder_layers": 3, "decoder_layers": 1},
        {"norm": "post", "mlp": "swish"},  # Marian
        {"positions": "rotary", "encoder_window": 2, "encoder_global_tokens": 2, "scan": True, "remat": "full"},
        {"copy": True, "tied": "none", "remat": "full"},
    ],
    "rnn_seq2seq": [{"attention": "local", "window": 2, "copy": True, "input_feeding": False}],
    "griffin": [
        {"pattern": ("recurrent", "attention"), "repeats": 2, "window": 3, "recurrent_width": 20, "remat": "full"}
    ],
    "hmm": [{"states": 20, "learning": "em"}],
}
"""More of them, of which all tests are slow ones."""

VECTOR_VARIANTS = {
    "transformer": [
        {"tied": "decoder", "norm": "post", "positions": "learned", "scale_embeddings": False},
        {
            "tied": "none",
            "positions": "relative",
            "biases": False,
            "encoder_window": 1,
            "encoder_global_tokens": 1,
            "scan": True,
            "remat": "full",
        },
    ],
    "encoder": [{"layers": 2, "positions": "rotary", "experts": 3, "scan": True}],
    "rnn_encoder": [{"layers": 2}],
    "rnn_seq2seq": [
        {"attention": "additive", "coverage_weight": 0.5},
        {"attention": "none", "input_feeding": False, "cell": "gru"},
    ],
    "gnmt": [{"tied": "none"}],
}
"""Those whose source is vectors; of these, too, all tests are slow ones."""

WITHOUT_PRECISION = {"hmm": "its probabilities are float32 under every policy"}
WITHOUT_EMBEDDINGS = {"hmm": "a token enters by distributions over words, whose gradient reaches all other words"}
"""Families of which something cannot be asked, and why."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One variant of one family, with parameters."""

    name: str
    family: str
    options: tuple
    reads: Port = TOKENS

    def build(self, precision=Precision.FLOAT32, **more):
        module = models.family(self.family)
        fields = {f.name for f in dataclasses.fields(module.Config)}
        sizes = {k: v for k, v in SMALL.items() if k in fields}
        dropout = {"dropout": 0.0} if "dropout" in fields else {}
        config = module.Config(**{**sizes, **dropout, **dict(self.options), **more})
        return module.build(config, self.reads, TOKENS, precision=precision)

    @cached_property
    def model(self):
        return self.build()

    @cached_property
    def params(self):
        # Scaled up, so that a wrong mask or a missed reset moves the outputs by much more than rounding.
        @jax.jit  # as one program, not one for each shape
        def drawn(batch):
            params = self.model.init(jax.random.key(0), batch, train=False)["params"]
            return jax.tree.map(lambda p: p * 1.5 + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)

        return drawn(self.given(bucketed()))

    def logits(self, batch, model=None, params=None):
        """All logits [B, T, V] of a batch of tokens, as numpy."""
        given = self.given(batch)
        return np.asarray(_logits(model or self.model, params if params is not None else self.params, given))

    def given(self, batch):
        """A batch of tokens as the subject reads it: in place of tokens their vectors, and NaN in padding."""
        return batch if isinstance(self.reads, Tokens) else {**batch, "inputs": vectors_of(batch)}


def vectors_of(batch, vectors=VECTORS, padding=np.nan):
    """Float32 [B, S, W]: the vector of each token of the inputs, and what stands in padding."""
    filled = np.asarray(batch["input_segments"])[..., None] > 0
    return np.where(filled, vectors[np.asarray(batch["inputs"])], np.float32(padding))


@lru_cache
def _jitted(model):
    return jax.jit(lambda params, batch: logits(model.apply({"params": params}, batch, train=False), Precision.FLOAT32))


def _logits(model, params, batch):
    return _jitted(model)(params, batch)


def subjects(family: str, variants: list[dict[str, Any]], reads: Port = TOKENS) -> list[Subject]:
    kind = "" if isinstance(reads, Tokens) else "vectors-"
    return [
        Subject(
            f"{family}-{kind}{'-'.join(map(str, options.values())) or 'default'}", family, tuple(options.items()), reads
        )
        for options in variants
    ]


SUBJECTS = [subject for family in models.families() for subject in subjects(family, VARIANTS.get(family, [{}]))]
SLOW_SUBJECTS = [subject for family, variants in SLOW_VARIANTS.items() for subject in subjects(family, variants)]
VECTOR_SUBJECTS = [
    subject for family, variants in VECTOR_VARIANTS.items() for subject in subjects(family, variants, Vectors(WIDTH))
]
FIRST = {family: next(s for s in SUBJECTS if s.family == family) for family in models.families()}


def subject_params(*, writes_in_place: bool | None = None) -> list[Any]:
    """All of them, further ones marked slow; or only those that write in place, or that do not."""
    return [
        pytest.param(subject, id=subject.name, marks=marks)
        for subjects, marks in ((SUBJECTS, ()), ([*SLOW_SUBJECTS, *VECTOR_SUBJECTS], pytest.mark.slow))
        for subject in subjects
        if writes_in_place in (None, models.family(subject.family).TRAITS.writes_in_place)
    ]


@pytest.fixture(params=subject_params())
def subject(request):
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Thorough tests of all but a family's first variant are slow ones: together they take longer than all others.

    With `thorough(families=...)`, so are those of first variants of other families.
    """
    for item in items:
        marker = item.get_closest_marker("thorough")
        if marker:
            subject = item.callspec.params["subject"]
            if subject != FIRST[subject.family] or subject.family not in marker.kwargs.get("families", FIRST):
                item.add_marker(pytest.mark.slow)


def sentences() -> Examples:
    """Eight sentence pairs of 2 to 6 tokens."""
    rng = np.random.default_rng(0)

    def side():
        return Column.from_rows([np.append(rng.integers(4, VOCAB, rng.integers(1, 6)), 3) for _ in range(8)])

    return Examples.of_pairs(side(), side())


SPLIT = sentences()


def bucketed(source: int = 6, target: int = 6, rows: int = 8):
    """One sentence a row."""
    return assemble(PlannedBatch(Shape(rows, source, target), np.arange(8), np.arange(8)), SPLIT)


def packed():
    """The same sentences, in three rows of up to three."""
    return assemble(PlannedBatch(Shape(4, 20, 20), np.arange(8), np.array([0, 0, 0, 1, 1, 1, 2, 2])), SPLIT)


def copies(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A sentence and itself."""
    sentence = np.append(rng.integers(4, VOCAB, rng.integers(2, 6)), 3)
    return sentence, sentence


def counting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A word, and the words that come after it in the vocabulary, up to the last one."""
    word = rng.integers(VOCAB - 6, VOCAB)
    return np.array([word]), np.append(np.arange(word + 1, VOCAB), 3)


def neighbours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A sentence, each word tagged by the word after it, and its end by the first one."""
    sentence, _ = copies(rng)
    return sentence, np.roll(sentence, -1)


class Task(NamedTuple):
    """What a family shows that it learns, in seconds."""

    example: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]] = copies
    learning_rate: float = 4e-3
    options: Mapping[str, Any] = {}
    """Of the model."""


TASKS = {
    "causal_lm": Task(counting),  # it would have to find where, in prompts of several lengths, a copy is to begin
    "encoder": Task(neighbours),
    "rnn_encoder": Task(neighbours),
    "griffin": Task(options={"repeats": 2, "window": 16, "recurrent_width": 48}),
    "hmm": Task(counting, learning_rate=0.1),  # its state is one of a few: it cannot remember a sentence
}
"""A family that is not listed learns to copy."""
