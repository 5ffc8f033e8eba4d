"""Text in, text out: batches of sentences through a stepwise model and beam search, in the order they came."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from s2sjax.config import choose
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.decode.beam import BeamConfig, BeamResult, beam_search
from s2sjax.errors import UserError
from s2sjax.ops.linear import Precision
from s2sjax.sharding import batch_sharding, batch_shards, replicated
from s2sjax.vocabulary import BOS, EOS, PAD

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Source lengths that batches are padded to, so that few shapes are compiled; beyond the last, multiples of it."""


@dataclass(frozen=True)
class DecodeConfig:
    beam_size: int = 5
    """Hypotheses that live at a time; 1 is greedy."""
    nbest: int = 1
    length_penalty: str = "gnmt"
    """"none", "power" or "gnmt": see `decode.penalty`."""
    alpha: float = 0.6
    max_length_factor: float = 2.0
    max_length_offset: int = 10
    """A translation has at most factor * source + offset tokens, end-of-sentence counted in both."""
    batch_size: int = 64
    """Sentences a batch; fewer where sentences are long."""
    precision: str = "float32"
    """float32, so that scores are exact; see `ops.linear`."""
    checkpoint: str = "best"
    """"best" by config.checkpoint.metric, "last", or a step."""

    def __post_init__(self):
        self.beam(max_len=1)
        choose(self.precision, tuple(Precision), "config.decode.precision")
        if self.batch_size < 1 or self.max_length_factor < 0 or self.max_length_offset < 1:
            raise UserError(
                f"config.decode.batch_size {self.batch_size} must be at least 1, max_length_factor "
                f"{self.max_length_factor} at least 0 and max_length_offset {self.max_length_offset} at least 1"
            )
        if self.checkpoint not in ("best", "last") and not self.checkpoint.isdecimal():
            raise UserError(f"config.decode.checkpoint is '{self.checkpoint}': expected best, last or a step")

    def beam(self, max_len: int) -> BeamConfig:
        return BeamConfig(self.beam_size, self.nbest, max_len, self.length_penalty, self.alpha, EOS, PAD)

    def max_length(self, source_length):
        """Limit for a source of this many tokens, end-of-sentence counted."""
        return np.floor(self.max_length_factor * source_length).astype(int) + self.max_length_offset


@dataclass(frozen=True)
class Hypothesis:
    text: str
    tokens: tuple[str, ...]
    """Pieces as the tokenizer writes them, end-of-sentence included."""
    score: float
    """Log-probability of the tokens in nats: what `score` says of the same pair."""
    ranking_score: float
    """The score over the length penalty: what hypotheses are ordered by."""


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
    ):
        self.params = params
        self.truncated = 0
        """Sources so far that were cut to `max_source_length` tokens."""
        self._tokenizers, self._config, self._mesh = tokenizers, config, mesh
        self._max_source_length, self._continues = max_source_length, continues

        def search(params, inputs, first, max_lengths, beam: BeamConfig) -> BeamResult:
            def method(name):
                return lambda *args, **kwargs: model.apply({"params": params}, *args, method=name, **kwargs)

            memory = method("encode")(source_batch(inputs))
            cache = method("init_cache")(memory, width=beam.beam_size, max_len=beam.max_len)
            step = lambda tokens, cache: method("decode_step")(tokens, cache, memory)  # noqa: E731
            return beam_search(step, cache, first, beam, max_lengths=max_lengths)

        self._search = jax.jit(search, static_argnums=4)

    def __call__(
        self, sources: Sequence[str], *, progress: Callable[[int], None] = lambda done: None
    ) -> list[list[Hypothesis]]:
        """The n best translations of each source, best first. An empty source has one, which is empty.

        Args:
            progress: is told how many sentences each finished batch held.
        """
        results: list[list[Hypothesis]] = [[Hypothesis("", (), 0.0, 0.0)] for _ in sources]
        filled = [i for i, source in enumerate(sources) if source.strip()]
        progress(len(sources) - len(filled))
        rows = self._encode([sources[i] for i in filled])
        order = sorted(range(len(filled)), key=lambda j: (len(rows[j]), filled[j]))
        while order:
            # The longest first: what is going to need the most memory fails at once, not after an hour.
            length = padded_length(len(rows[order[-1]]))
            batch = order[-self._batch_size(length) :]
            del order[-len(batch) :]
            for j, hypotheses in zip(batch, self._translate([rows[j] for j in batch], length), strict=True):
                results[filled[j]] = hypotheses
            progress(len(batch))
        return results

    def _encode(self, sources: list[str]) -> list[np.ndarray]:
        limit = self._max_source_length - 1
        rows = self._tokenizers.source.encode(sources)
        self.truncated += sum(len(row) > limit for row in rows)
        if self._continues:  # what stands nearest counts the most
            return [np.concatenate([[BOS], row[-limit:]]).astype(np.int32) for row in rows]
        return [np.append(row[:limit], EOS).astype(np.int32) for row in rows]

    def _batch_size(self, length: int) -> int:
        return max(1, min(self._config.batch_size, self._config.batch_size * 64 // length))

    def _translate(self, rows: list[np.ndarray], length: int) -> list[list[Hypothesis]]:
        # Few sizes here too: a single sentence need not pay for a batch, and a remainder not for a compilation.
        most = self._batch_size(length)
        size = next(n for n in (1, min(8, most), most) if n >= len(rows))
        inputs = np.full((size, length), PAD, np.int32)
        for row, tokens in zip(inputs, rows, strict=False):
            row[: len(tokens)] = tokens
        lengths = np.count_nonzero(inputs != PAD, axis=1)
        first = np.full(size, BOS, np.int32)
        if self._continues:
            for i, tokens in enumerate(rows):
                first[i], inputs[i, len(tokens) - 1] = tokens[-1], PAD
        limits = self._config.max_length(lengths).astype(np.int32)
        divides = size % batch_shards(self._mesh) == 0
        place = batch_sharding(self._mesh) if divides else replicated(self._mesh)
        beam = self._config.beam(max_len=int(self._config.max_length(length)))
        result = self._search(self.params, *jax.device_put((inputs, first, limits), place), beam)
        result = jax.tree.map(np.asarray, result)
        if np.isnan(result.scores[: len(rows)]).any():
            raise UserError(
                "the model gives NaN: these parameters are broken; decode with --config.decode.checkpoint=STEP"
            )
        return [self._hypotheses(result, i) for i in range(len(rows))]

    def _hypotheses(self, result: BeamResult, i: int) -> list[Hypothesis]:
        found = []
        for tokens, n, score, log_prob in zip(
            result.tokens[i], result.lengths[i], result.scores[i], result.log_probs[i], strict=True
        ):
            if n:
                ids = tokens[:n].tolist()
                target = self._tokenizers.target
                found.append(Hypothesis(target.decode(ids), tuple(target.pieces(ids)), float(log_prob), float(score)))
        return found


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
