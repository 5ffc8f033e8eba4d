"""The vocabulary everything else is written in: dimension letters, a batch, an output, and what a model can do.

Dimension letters, used in every shape of this package:

    B  batch (rows)           S  source length        T  target length       L  length of a key-value cache
    K  hypotheses (beam)      N  hypotheses returned  D  model width         F  hidden width of an MLP
    H  attention heads        C  width of one head    V  vocabulary          M  any number of tokens
    W  width of vectors that are read

A batch is a mapping of arrays. Bucketed and packed batches are the same thing: segments and positions are
always there, and a bucketed row simply holds one segment.

    inputs            [B, S] int32   source tokens, each sentence ended by end-of-sentence; [B, 0] if there are none;
                                     or [B, S, W] float32, vectors: what stands in padding is whatever it is, NaN too
    targets           [B, T] int32   target tokens, each sentence ended by end-of-sentence
    decoder_inputs    [B, T] int32   targets shifted right within each segment, begun by begin-of-sentence
    input_segments    [B, S] int32   0 is padding, 1.. names the example within a packed row
    target_segments   [B, T] int32   the same, with the same names
    input_positions   [B, S] int32   position within the segment, from 0
    target_positions  [B, T] int32   position within the segment, from 0
    weights           [B, T] float32 0 where the loss does not look
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.ports import Port, Ports, Tokens, Vectors

Batch = Mapping[str, Array]
Cache = Any
"""What changes between decoding steps: a pytree of arrays. The one law: every leaf leads with [B, K]. When hypotheses
change places, leaves follow them along K, unless they are `Anchored`."""
Memory = Any
"""What stays constant while decoding: a pytree of arrays, every leaf leads with [B], never copied per hypothesis."""

ROW_AXES = ("data", "fsdp", "expert")
"""Mesh axes that share the rows of a batch. The others: `sequence` shares their positions, where a model can, and rows
where it cannot; `tensor` shares what stands in parameters."""


Axis = str | None
"""The mesh axis that one dimension is split over, or nothing."""
Rules = Sequence[tuple[str, tuple[Axis, ...]]]
"""How parameters are sharded where they are used: ordered (path pattern, the axis of each dimension) pairs. The axis
`fsdp` splits them where they are stored, and is no matter of a model: see `sharding.shard_parameters`."""


@dataclass(frozen=True)
class Traits:
    """What a family's models read and write, and what they can do beyond what every model does."""

    reads: tuple[type[Port], ...] = (Tokens,)
    """Kinds of ports that they can read; language models can also do without a source."""
    writes: tuple[type[Port], ...] = (Tokens,)
    """Kinds of ports that they can write."""
    language_model: bool = False
    """Source and target are one sequence to them, and they can read plain text without a source."""
    splits_time: bool = False
    """Their layers mix positions by attention alone, so that devices can share the positions of a row."""
    gathers_layers: bool = False
    """All their stacks gather the parameters of a layer by themselves, where it runs (`nn.gathering`)."""
    writes_in_place: bool = False
    """They label what they read, and generate nothing: target p stands at input p (`ops.in_place`). They are `Model`s,
    and not `Stepwise`."""


class Copying(NamedTuple):
    """What a model that copies words of its source adds to the words that it generates: see `ops.copying`."""

    gate: Array
    """[B, T] float32: log-odds of generating a word in place of copying one."""
    masses: Array
    """[B, T, S] float32: at a word's first position in the source the probability that copying gives it, at its other
    positions 0 (`ops.copying.copied_masses`)."""
    tokens: Array
    """[B, S] int32: the source's words, ids of the target's vocabulary."""


class Output(NamedTuple):
    """What teacher forcing returns: features and the projection that turns them into logits.

    Losses get features, not logits, so that the projection and the cross-entropy can run in chunks and a float32
    `[B, T, V]` array need never exist.
    """

    features: Array
    """[B, T, D]"""
    kernel: Array
    """[D, V], float32 parameters of the output projection."""
    bias: Array | None = None
    """[V] or None."""
    aux: Array | None = None
    """Auxiliary losses (load balancing, activation penalties) as a float32 scalar in nats, summed over the batch's
    target tokens as the loss is, and added to it in training; None if there are none."""
    copying: Copying | None = None
    """What is mixed with the softmax of the logits; None if every word is generated."""


class Anchored(NamedTuple):
    """Part of a cache that stays where it was written when hypotheses change places, because it is too big to follow.

    The model keeps beside it, in a leaf that does follow, in which places the past of each hypothesis lies.
    """

    tree: Any


class Mixture(NamedTuple):
    """What a model returns that mixes distributions instead of logits: p(word) is `features @ kernel`, no softmax."""

    features: Array
    """[B, T, N] float32, each row a distribution over N states: what is believed before the target is seen."""
    kernel: Array
    """[N, V] float32, each row a distribution over words."""
    aux: Array | None = None
    """As in `Output`."""


class Model(Protocol):
    """A Linen module used through `model.apply`: scores a whole batch at once (teacher forcing)."""

    def __call__(self, batch: Batch, *, train: bool) -> Output | Mixture: ...


class Stepwise(Model, Protocol):
    """A model that can also score the next token given what was decoded so far (stepping).

    A language model is one too. What an encoder-decoder encodes, it reads as a prompt: each segment's inputs stand
    before the same segment's targets in one sequence, and the memory holds what reading them left behind (the keys and
    values of the prompt, a state, a belief), which hypotheses share. With inputs `[B, 0]` it begins from nothing.
    """

    def encode(self, batch: Batch) -> Memory:
        """Read the source once. Needs `inputs`, `input_segments`, `input_positions`."""
        ...

    def init_cache(self, memory: Memory, *, width: int, max_len: int) -> Cache:
        """Return the cache before the first step, for `width` hypotheses of up to `max_len` tokens."""
        ...

    def decode_step(self, tokens: Array, cache: Cache, memory: Memory) -> tuple[Array, Cache]:
        """Score what follows `tokens` [B, K], the previous target ids: float32 logits [B, K, V], and the new cache.

        What a model mixes, it gives as log-probabilities.

        A model with attention over the source sows it, [B, K, S], where "attention" is mutable; so does `__call__`.
        """
        ...


def batch_shapes(ports: Ports, rows: int, source: int, target: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the arrays of a batch: so many rows, positions of the source, and positions of the target."""
    read, written = (jax.ShapeDtypeStruct((rows, length), jnp.int32) for length in (source, target))
    return {
        "inputs": source_shape(ports.reads, rows, source),
        "input_segments": read,
        "input_positions": read,
        "targets": written,
        "decoder_inputs": written,
        "target_segments": written,
        "target_positions": written,
        "weights": jax.ShapeDtypeStruct(written.shape, jnp.float32),
    }


def source_shape(reads: Port | None, rows: int, length: int) -> jax.ShapeDtypeStruct:
    """Shape and type of a batch's inputs."""
    if isinstance(reads, Vectors):
        return jax.ShapeDtypeStruct((rows, length, reads.width), jnp.float32)
    return jax.ShapeDtypeStruct((rows, length), jnp.int32)
