"""How a source enters a model, whether tokens or vectors stand at its positions."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Batch, Rules
from s2sjax.nn.layers import Dense, Embedding
from s2sjax.ops.linear import Precision
from s2sjax.ports import Port, Tokens

SOURCE_RULES: Rules = ((r"(table|source_embedding/kernel)$", ("tensor", None)),)
"""Sharding rules of tables and of what projects vectors: both are split by what they read. A model calls what
`source_embedding` makes by that name, and has a rule for its bias."""


def source_embedding(
    reads: Port, width: int, precision: Precision, *, use_bias: bool = True, tied: Embedding | None = None
) -> Embedding | Dense:
    """What embeds a source, in the `setup` of a model.

    Vectors are projected by a dense layer, as frames of sound are in Whisper (Radford et al. 2022, arXiv:2212.04356)
    and patches of series in PatchTST (Nie et al. 2023, arXiv:2211.14730). It is drawn from N(0, 1/W): of numbers with
    mean 0 and variance 1 it makes such numbers, as embeddings are that were multiplied by the root of their width.

    Args:
        width: D, of the model.
        use_bias: of the dense layer.
        tied: the table that a source of tokens is looked up in; None: one of its own.
    """
    if isinstance(reads, Tokens):
        return Embedding(reads.size, width) if tied is None else tied
    return Dense(width, precision, use_bias, nn.initializers.lecun_normal())


def embed_source(embedding: Embedding | Dense, batch: Batch, dtype: jnp.dtype, *, scaled: bool = True) -> Array:
    """The source of a batch, [B, S, D].

    Args:
        dtype: of the result of a lookup; a projection has its own precision.
        scaled: multiply the vectors of tokens by the root of their width.
    """
    inputs = batch["inputs"]
    if isinstance(embedding, Embedding):
        x = embedding(inputs, dtype)
        return x * embedding.features**0.5 if scaled else x
    # Not by a product: in padding may be NaN, and 0 * NaN is NaN, in the gradient of the kernel too.
    return embedding(jnp.where(batch["input_segments"][..., None] > 0, inputs, 0))
