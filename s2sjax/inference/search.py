"""A compiled search: rows of tokens in, and what was found for each out, in batches of few shapes."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from s2sjax.data.tokenizer import Tokenizer
from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.constraints import FREE, Asked, Constraints, Trie
from s2sjax.decode.coverage import uncovered, with_coverage
from s2sjax.decode.penalty import coverage_penalty
from s2sjax.decode.phrases import BLANK, build_phrases
from s2sjax.decode.sampling import SampleConfig, sample, sentence_keys
from s2sjax.decode.stepping import narrow
from s2sjax.decode.stochastic import stochastic_beam_search
from s2sjax.errors import UserError
from s2sjax.inference.batching import ServingBatch, padded_length, serving_batches
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.requests import RequestFormat, Requests
from s2sjax.inference.scorers import Scorer
from s2sjax.inference.sentences import Found, Sentences, padded, source_batch
from s2sjax.plural import counted
from s2sjax.processes.memory import needing_memory
from s2sjax.sharding import batch_sharding, batch_shards, everywhere, replicated, to_host


class Search:
    """A search as `DecodeConfig` says, with one model or several. One program is compiled for each shape of batch.

    What is found for a row does not depend on the rows it is batched with.
    """

    def __init__(
        self, scorer: Scorer, config: DecodeConfig, format: RequestFormat, tokenizer: Tokenizer, mesh: Mesh
    ) -> None:
        """Args:
        tokenizer: the target's.

        Raises:
            UserError: config forbids a token that there is not.
        """
        self._config, self._format, self._mesh = config, format, mesh
        self._vocabulary = tokenizer.vocabulary
        mask = config.allowed(tokenizer)
        self._compiled = _compiled(scorer, config, None if mask is None else mask.tobytes())

    def __call__(self, params, requests: Requests) -> Iterator[tuple[Sequence[int], Found]]:
        """What is found for some requests, and the numbers of their rows, until all have come.

        Args:
            params: the scorer's.
        """
        config = self._config
        lengths = np.array([len(row) for row in requests.rows], int)
        for batch in serving_batches(lengths, batch_size=config.batch_size, width=config.width):
            numbers = batch.requests[::-1].tolist()  # the shortest is the first row
            part = requests.part(numbers)
            sentences = self._sentences(part, batch)
            most = int(config.max_length(batch.length))
            if asked := self._most_asked(sentences, part.longest):
                most = max(most, asked + config.max_length_offset)
            how = (config.beam if config.method == "beam" else config.sampling)(most, self._vocabulary)
            yield numbers, self._find(params, sentences, len(numbers), part.trie, how)

    def draw(
        self, params, rows: Sequence[np.ndarray], ids: np.ndarray, limits: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A `running_text.Draw`, with the scorer's params: each row is one draw, and none ends before its limit."""
        lengths, found = np.array([len(row) for row in rows], int), []
        how = dataclasses.replace(self._config.sampling(most, self._vocabulary), samples=1, ends=())
        for batch in serving_batches(lengths, batch_size=self._config.batch_size, by_length=False):
            part, size, count = batch.requests, batch.rows, len(batch.requests)
            inputs, read, first = self._inputs([rows[j] for j in part], batch)
            numbers, limit = np.zeros(size, np.int32), np.ones(size, np.int32)
            numbers[:count], limit[:count] = ids[part], limits[part]
            sentences = Sentences(inputs, read, first, limit, None, None, None, None, numbers)
            found.append(self._find(params, sentences, count, None, how))
        tokens, _, log_probs, ranking = (np.concatenate(arrays)[:, 0] for arrays in zip(*found, strict=True))
        return tokens, log_probs, ranking

    def _inputs(self, rows: Sequence[np.ndarray], batch: ServingBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is read before a search, `[B, S]`; how many tokens that is, `[B]`; and those that it begins from, `[B]`.

        The rows of a batch beyond those that are given have no token.
        """
        first = np.full(batch.rows, self._vocabulary.start, np.int32)
        if self._format.continues:
            first[: len(rows)] = [tokens[-1] for tokens in rows]
            rows = [tokens[:-1] for tokens in rows]
        return padded(rows, batch.rows, batch.length), _lengths(rows, batch.rows).astype(np.int32), first

    def _sentences(self, requests: Requests, batch: ServingBatch) -> Sentences:
        """The arrays of one batch."""
        config, size, rows = self._config, batch.rows, requests.rows
        inputs, read, first = self._inputs(rows, batch)
        lengths = _lengths(rows, size)
        ids = np.zeros(size, np.int32)
        ids[: len(rows)] = [zlib.crc32(tokens.tobytes()) >> 1 for tokens in rows]
        limits, least = config.max_length(lengths).astype(np.int32), config.min_length(lengths)
        begun = contained = None
        asked = np.full(size, requests.longest)
        if requests.prefixes is not None:
            begun = padded(requests.prefixes, size, padded_length(max(map(len, requests.prefixes))), fill=FREE)
            asked += _lengths(requests.prefixes, size)
        if requests.phrases is not None:
            listed = [[row.tolist() for row in group] for group in requests.phrases]
            listed += [[]] * (size - len(listed))
            contained = build_phrases(listed, self._vocabulary.size, self._vocabulary.ends)
            asked += np.count_nonzero(contained.tokens != BLANK, axis=(1, 2))
        # What is asked for leaves as much room as the shortest source does.
        limits = np.where(asked, np.maximum(limits, asked + config.max_length_offset), limits)
        for most, one_sequence in self._format.positions:
            limits = np.minimum(limits, most - one_sequence * (lengths - self._format.continues))
        if least is not None:
            least = np.minimum(least, limits)
        return Sentences(
            inputs, read, first, limits.astype(np.int32), None if least is None else least.astype(np.int32),
            (config.reference_ratio * lengths).astype(np.float32) if config.brevity else None, begun, contained, ids,
        )  # fmt: skip

    def _most_asked(self, sentences: Sentences, longest: int) -> int:
        """The most tokens that can be asked of an output, by the shapes of a batch and the longest choice."""
        asked = longest + (0 if sentences.prefixes is None else sentences.prefixes.shape[1])
        return asked + (0 if sentences.phrases is None else math.prod(sentences.phrases.tokens.shape[1:]))

    def _find(
        self, params, sentences: Sentences, count: int, trie: Trie | None, how: BeamConfig | SampleConfig
    ) -> Found:
        """What a search finds for the first `count` sentences of a batch, as arrays of numpy."""
        divides = len(sentences.inputs) % batch_shards(self._mesh) == 0
        place = batch_sharding(self._mesh) if divides else replicated(self._mesh)
        with needing_memory(
            f"for {counted(len(sentences.inputs), 'source')} of {counted(sentences.inputs.shape[1], 'token')} with "
            f"{counted(self._config.width, 'hypothesis')} of up to {counted(how.max_len, 'token')} each: lower "
            "decode.batch_size, beam_size or samples, or max_length_factor and max_length_offset"
        ):
            found = to_host(self._compiled(params, everywhere(sentences, place), trie, how))
        if np.isnan(found.ranking[:count]).any():
            raise UserError(
                "the model gives NaN: these parameters are broken; decode with --config.decode.checkpoint=STEP"
            )
        return Found(*(x[:count] for x in found))


@functools.lru_cache(maxsize=8)
def _compiled(scorer: Scorer, config: DecodeConfig, mask: bytes | None) -> Callable[..., Found]:
    """The search under `jax.jit`. Whoever asks for the same again, with a run that was opened anew or other settings in
    between, finds what was compiled. Args: mask: which tokens may occur, a byte each; None: all."""

    def search(params, sentences: Sentences, trie: Trie | None, how: BeamConfig | SampleConfig) -> Found:
        batch = source_batch(sentences.inputs, sentences.lengths)
        memory = scorer.encode(params, batch)
        width = how.beam_size if isinstance(how, BeamConfig) else how.samples
        cache = scorer.init_cache(params, memory, width=width, max_len=how.max_len)
        step, bonus = scorer.step(params, memory), None
        if config.coverage:
            seen = batch["input_segments"] > 0
            step, cache = with_coverage(scorer.watched_step(params, memory)), uncovered(cache, seen, width)
            bonus = lambda cache: coverage_penalty(cache.coverage, seen, config.coverage)  # noqa: E731
        cache = narrow(cache) if config.expand_late else cache
        allowed = None if mask is None else jnp.asarray(np.frombuffer(mask, bool))
        constraints = Constraints(allowed, sentences.prefixes, trie, phrases=sentences.phrases)
        asked = Asked(sentences.limits, sentences.least, sentences.expected, constraints)
        if isinstance(how, BeamConfig):
            best = beam_search(step, cache, sentences.first, how, asked, bonus=bonus)
            return Found(best.tokens, best.lengths, best.log_probs, best.scores)
        keys = sentence_keys(config.seed, sentences.ids)
        if config.method == "sample":
            drawn = sample(step, cache, sentences.first, how, keys, asked)
            return Found(drawn.tokens, drawn.lengths, drawn.log_probs, drawn.drawn)
        found = stochastic_beam_search(step, cache, sentences.first, how, keys, asked)
        return Found(found.tokens, found.lengths, found.log_probs, found.perturbed)

    return jax.jit(search, static_argnums=3)


def _lengths(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
    """How many tokens each of `size` rows has, of which those after the given ones have none."""
    lengths = np.zeros(size, int)
    lengths[: len(rows)] = [len(row) for row in rows]
    return lengths
