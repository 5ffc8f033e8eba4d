"""Text in, text out: batches of sentences through a stepwise model and a search, in the order they came."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.constraints import Constraints
from s2sjax.decode.sampling import SampleConfig, sample, sentence_keys
from s2sjax.decode.stochastic import stochastic_beam_search
from s2sjax.errors import UserError
from s2sjax.sharding import batch_sharding, batch_shards, replicated
from s2sjax.tasks.decoding import DecodeConfig
from s2sjax.vocabulary import BOS, EOS, PAD

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Source lengths that batches are padded to, so that few shapes are compiled; beyond the last, multiples of it."""


@dataclass(frozen=True)
class Hypothesis:
    text: str
    tokens: tuple[str, ...]
    """Pieces as the tokenizer writes them, end-of-sentence included."""
    score: float
    """Log-probability of the tokens in nats: what `score` says of the same pair."""
    ranking_score: float
    """What hypotheses are ordered by: the score over the length penalty. Of a draw, the log-probability with which it
    was drawn, or, without replacement, the same with its noise."""
    ids: tuple[int, ...]
    """The tokens' numbers. The text may be cut into other tokens when it is read again; these are what was scored."""


class Found(NamedTuple):
    """What a search found for a batch: N hypotheses of each sentence, of length 0 where there are fewer."""

    tokens: jax.Array
    """[B, N, T]"""
    lengths: jax.Array
    """[B, N]"""
    log_probs: jax.Array
    """[B, N]"""
    ranking: jax.Array
    """[B, N]"""


class Sentences(NamedTuple):
    """A batch of sources and what is asked of each one's output: arrays of numpy, or of jax inside a search."""

    inputs: Any
    """[B, S] int32, each source padded at the end."""
    first: Any
    """[B] int32, the token that a search begins from."""
    limits: Any
    """[B] int32, the most tokens."""
    least: Any
    """[B] int32, the fewest tokens, or None."""
    expected: Any
    """[B] float32, how many tokens the brevity penalty expects, or None."""
    prefixes: Any
    """[B, P] int32, what outputs begin with, padded at the end, or None."""
    ids: Any
    """[B] int32, numbers of the sentences: what each one's random key is made from."""


class Translator:
    """Translates with one model. Compiles one search for each shape of batch it meets, from a small fixed set.

    What a sentence is translated to does not depend on the sentences it is batched with. A language model of plain text
    (`continues`) goes on from its sources instead: begin-of-sentence and a source's tokens are read, without an
    end-of-sentence after them, and search begins from the last.
    """

    def __init__(
        self,
        model: nn.Module,
        params,
        tokenizers: TokenizerPair,
        config: DecodeConfig,
        *,
        max_source_length: int,
        mesh: Mesh,
        continues: bool = False,
        position_limit: int | None = None,
        one_sequence: bool = False,
    ):
        """Args:
        continues: a language model of plain text.
        position_limit: the most tokens a sequence may have, or None.
        one_sequence: a language model, to which source and output are one sequence.
        """
        self.params = params
        self.truncated = 0
        """Sources so far that were cut to `max_source_length` tokens."""
        self.unmet = 0
        """Sources so far without an output that meets the constraints."""
        self._tokenizers, self._config, self._mesh = tokenizers, config, mesh
        self._continues, self._position_limit, self._one_sequence = continues, position_limit, one_sequence
        # At least one position is the output's.
        longest = None if position_limit is None else position_limit - one_sequence
        self._max_source_length = max_source_length if longest is None else min(max_source_length, longest)

        mask = config.allowed(tokenizers.target)
        allowed = None if mask is None else jnp.asarray(mask)

        def search(params, sentences: Sentences, how: BeamConfig | SampleConfig) -> Found:
            def method(name):
                return lambda *args, **kwargs: model.apply({"params": params}, *args, method=name, **kwargs)

            memory = method("encode")(source_batch(sentences.inputs))
            cache = method("init_cache")(memory, width=config.width, max_len=how.max_len)
            step = lambda tokens, cache: method("decode_step")(tokens, cache, memory)  # noqa: E731
            asked: dict[str, Any] = {
                "max_lengths": sentences.limits,
                "min_lengths": sentences.least,
                "constraints": Constraints(allowed, sentences.prefixes),
            }
            if isinstance(how, BeamConfig):
                best = beam_search(step, cache, sentences.first, how, reference_lengths=sentences.expected, **asked)
                return Found(best.tokens, best.lengths, best.log_probs, best.scores)
            keys = sentence_keys(config.seed, sentences.ids)
            if config.method == "sample":
                drawn = sample(step, cache, sentences.first, how, keys, **asked)
                return Found(drawn.tokens, drawn.lengths, drawn.log_probs, drawn.drawn)
            found = stochastic_beam_search(step, cache, sentences.first, how, keys, **asked)
            return Found(found.tokens, found.lengths, found.log_probs, found.perturbed)

        self._search = jax.jit(search, static_argnums=2)

    def __call__(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[list[Hypothesis]]:
        """The n best translations of each source, best first, or its draws in their order.

        An empty source has one translation, which is empty. Where nothing was found that meets the constraints there is
        none, and `unmet` counts it.

        Args:
            prefixes: what each translation has to begin with, as text; its tokens are part of the translation.
            progress: is told how many sentences each finished batch held.
        """
        results: list[list[Hypothesis]] = [[Hypothesis("", (), 0.0, 0.0, ())] for _ in sources]
        filled = [i for i, source in enumerate(sources) if source.strip()]
        progress(len(sources) - len(filled))
        rows = self.source_rows([sources[i] for i in filled])
        begun = None if prefixes is None else self._tokenizers.target.encode([prefixes[i] for i in filled])
        order = sorted(range(len(filled)), key=lambda j: (len(rows[j]), filled[j]))
        while order:
            # The longest first: what is going to need the most memory fails at once, not after an hour.
            length = padded_length(len(rows[order[-1]]))
            batch = order[-self._batch_size(length) :]
            del order[-len(batch) :]
            sentences = self._sentences([rows[j] for j in batch], [begun[j] for j in batch] if begun else None, length)
            for j, hypotheses in zip(batch, self._translate(sentences, len(batch), length), strict=True):
                results[filled[j]] = hypotheses
                self.unmet += not hypotheses
            progress(len(batch))
        return results

    def source_rows(self, sources: list[str]) -> list[np.ndarray]:
        """Sources as they are read: tokens, cut to the limit, between begin- or end-of-sentence."""
        limit = self._max_source_length - 1
        rows = self._tokenizers.source.encode(sources)
        self.truncated += sum(len(row) > limit for row in rows)
        if self._continues:  # what stands nearest counts the most
            return [np.concatenate([[BOS], row[max(len(row) - limit, 0) :]]).astype(np.int32) for row in rows]
        return [np.append(row[:limit], EOS).astype(np.int32) for row in rows]

    def _batch_size(self, length: int) -> int:
        return max(1, min(self._config.batch_size, self._config.batch_size * 64 // length))

    def _sentences(self, rows: list[np.ndarray], prefixes: list[np.ndarray] | None, length: int) -> Sentences:
        # Few sizes here too: a single sentence need not pay for a batch, and a remainder not for a compilation.
        most, config = self._batch_size(length), self._config
        size = next(n for n in (1, min(8, most), most) if n >= len(rows))
        inputs = _padded(rows, size, length)
        lengths = np.count_nonzero(inputs != PAD, axis=1)
        first, ids = np.full(size, BOS, np.int32), np.zeros(size, np.int32)
        for i, tokens in enumerate(rows):
            ids[i] = zlib.crc32(tokens.tobytes()) >> 1
            if self._continues:
                first[i], inputs[i, len(tokens) - 1] = tokens[-1], PAD
        limits, least = config.max_length(lengths).astype(np.int32), config.min_length(lengths)
        begun = None
        if prefixes is not None:
            begun = _padded(prefixes, size, padded_length(max(map(len, prefixes))))
            # A long prefix leaves as much room as the shortest source does.
            limits = np.maximum(limits, np.count_nonzero(begun != PAD, axis=1) + config.max_length_offset)
        if self._position_limit is not None:
            limits = np.minimum(limits, self._position_limit - self._one_sequence * (lengths - self._continues))
        if least is not None:
            least = np.minimum(least, limits)
        return Sentences(
            inputs, first, limits.astype(np.int32), None if least is None else least.astype(np.int32),
            (config.reference_ratio * lengths).astype(np.float32) if config.brevity else None, begun, ids,
        )  # fmt: skip

    def _translate(self, sentences: Sentences, count: int, length: int) -> list[list[Hypothesis]]:
        most = int(self._config.max_length(length))
        if sentences.prefixes is not None:
            most = max(most, sentences.prefixes.shape[1] + self._config.max_length_offset)
        how = self._config.beam(most) if self._config.method == "beam" else self._config.sampling(most)
        divides = len(sentences.inputs) % batch_shards(self._mesh) == 0
        place = batch_sharding(self._mesh) if divides else replicated(self._mesh)
        found = jax.tree.map(np.asarray, self._search(self.params, jax.device_put(sentences, place), how))
        if np.isnan(found.ranking[:count]).any():
            raise UserError(
                "the model gives NaN: these parameters are broken; decode with --config.decode.checkpoint=STEP"
            )
        return [self._hypotheses(*(x[i] for x in found)) for i in range(count)]

    def _hypotheses(self, tokens, lengths, log_probs, ranking) -> list[Hypothesis]:
        target, hypotheses = self._tokenizers.target, []
        for row, n, log_prob, rank in zip(tokens, lengths, log_probs, ranking, strict=True):
            if n:
                ids = row[:n].tolist()
                pieces = tuple(target.pieces(ids))
                hypotheses.append(Hypothesis(target.decode(ids), pieces, float(log_prob), float(rank), tuple(ids)))
        return hypotheses


def best_text(hypotheses: Sequence[Hypothesis]) -> str:
    """The first one's text; nothing where nothing was found."""
    return hypotheses[0].text if hypotheses else ""


def _padded(rows: Sequence[np.ndarray], size: int, length: int) -> np.ndarray:
    """Rows of tokens as `[size, length]` int32, padded at their ends and below."""
    padded = np.full((size, length), PAD, np.int32)
    for row, tokens in zip(padded, rows, strict=False):
        row[: len(tokens)] = tokens
    return padded


def padded_length(length: int) -> int:
    """The length that a source of `length` tokens is padded to."""
    return next((limit for limit in LENGTHS if length <= limit), -(-length // LENGTHS[-1]) * LENGTHS[-1])


def source_batch(inputs):
    """The source's part of a batch from padded tokens [B, S], one sentence a row, padded at the end."""
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape)
    return {"inputs": inputs, "input_segments": (inputs != PAD).astype(jnp.int32), "input_positions": positions}


def cross_attention(model: nn.Module, params, batch):
    """Attention of each target position over the source, [B, T, S], averaged over layers and heads; models sow it.

    None for a model without attention over a source.
    """
    _, sown = model.apply({"params": params}, batch, train=False, mutable=["attention"])
    weights = jax.tree.leaves(sown)
    return sum(weights) / len(weights) if weights else None
