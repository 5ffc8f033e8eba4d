"""Text in, text out: batches of sentences through a stepwise model and a search, in the order they came."""

import dataclasses
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from s2sjax.data.prepare import turn_round
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.unknown import Unknown, unknown_in
from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.constraints import Constraints, Trie
from s2sjax.decode.coverage import uncovered, with_coverage
from s2sjax.decode.penalty import coverage_penalty
from s2sjax.decode.phrases import BLANK, build_phrases
from s2sjax.decode.sampling import SampleConfig, sample, sentence_keys
from s2sjax.decode.stepping import narrow
from s2sjax.decode.stochastic import stochastic_beam_search
from s2sjax.errors import UserError
from s2sjax.inference.asked import AskedTokens
from s2sjax.inference.batching import ServingBatch, padded_length, serving_batches
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.running_text import decode_lines, encode_lines, run_on
from s2sjax.inference.scorers import Scorer, attention_layers
from s2sjax.inference.sentences import Found, Sentences, padded, source_batch
from s2sjax.processes.memory import needing_memory
from s2sjax.sharding import batch_sharding, batch_shards, everywhere, replicated, to_host
from s2sjax.vocabulary import BOS, EOS, PAD

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Hypothesis:
    text: str
    tokens: tuple[str, ...]
    """Pieces as the tokenizer writes them, end-of-sentence included; in reading order, also where the model writes
    the last first."""
    score: float
    """Log-probability of the tokens in nats: what `score` says of the same pair."""
    ranking_score: float
    """What hypotheses are ordered by: the score over the length penalty. Of a draw, the log-probability with which it
    was drawn, or, without replacement, the same with its noise."""
    ids: tuple[int, ...]
    """The tokens' numbers. The text may be cut into other tokens when it is read again; these are what was scored."""

    def __repr__(self) -> str:
        scores = f"score={self.score:.4f}, ranking_score={self.ranking_score:.4f}"
        return f"Hypothesis({self.text!r}, {scores}, {len(self.ids)} tokens)"


class PositionLimit(NamedTuple):
    """How far the positions go that a model has learned."""

    limit: int
    """The most tokens a sequence may have."""
    one_sequence: bool = False
    """A language model's, to which source and output are one sequence."""


class Translator:
    """Translates, with one model or several. Compiles one search for each shape of batch, from a small fixed set.

    What a sentence is translated to does not depend on the sentences it is batched with. A language model of plain text
    (`continues`) goes on from its sources instead: begin-of-sentence and a source's tokens are read, without an
    end-of-sentence after them, and search begins from the last, which for an empty source is begin-of-sentence.
    """

    def __init__(
        self,
        scorer: Scorer,
        params,
        tokenizers: TokenizerPair,
        config: DecodeConfig,
        *,
        max_source_length: int,
        mesh: Mesh,
        continues: bool = False,
        joined: int = 0,
        line_ends: bool = False,
        right_to_left: bool = False,
        positions: Sequence[PositionLimit] = (),
        blank: Callable[[str], bool] = lambda source: not source.strip(),
    ):
        """Args:
        params: the scorer's.
        continues: a language model of plain text.
        joined: tokens of a window, if that text runs over its line ends; else 0.
        line_ends: they are tokens of the vocabulary; else end-of-sentence stands for them.
        right_to_left: the models write an output's last token first; hypotheses are in reading order all the same.
        positions: what sources and outputs have to fit into, of each model that has learned positions.
        blank: whether there is nothing to translate in a source, prompt and all.

        Raises:
            UserError: config asks for a coverage penalty, and no model has attention over a source; or it forbids a
                token that there is not; or it asks for a running text, and not for draws.
        """
        if config.coverage and not any(attention_layers(scorer, params)):
            raise UserError(
                f"config.decode.coverage is {config.coverage}, but the model has no attention over a source to measure "
                "it by; set config.decode.coverage=0"
            )
        self.scorer = scorer
        self.set_params(params)
        self.sources = 0
        """Sources so far."""
        self.truncated = 0
        """Those of them that were cut to `max_source_length` tokens."""
        self.unknown = Unknown()
        """What the vocabulary lacks of the sources so far."""
        self.unknown_targets = Unknown()
        """What the vocabulary lacks of the texts that were given as targets so far."""
        self.unmet = 0
        """Sources so far without an output that meets the constraints."""
        self._tokenizers, self._config, self._mesh = tokenizers, config, mesh
        self._continues, self._right_to_left, self._positions = continues, right_to_left, tuple(positions)
        self._blank, self._joined, self._by_line = blank, joined, bool(joined) and not line_ends
        self.runs_on = bool(joined and config.max_new_tokens)
        """Whether outputs go on over line ends."""
        if self.runs_on:
            config.check_running_text()
        # At least one position is the output's.
        self.max_source_length = min([max_source_length, *(p.limit - p.one_sequence for p in positions)])
        """The most tokens of a source that are read."""
        room = min([int(config.max_length(self.max_source_length)), *(p.limit - p.one_sequence for p in positions)])
        self._asked = AskedTokens(tokenizers.target, room, right_to_left=right_to_left)
        for sentence in config.without_effect(tokenizers.target.vocab_size, self.max_source_length):
            _log.warning("config.decode.%s", sentence)

        mask = config.allowed(tokenizers.target)
        allowed = None if mask is None else jnp.asarray(mask)

        def search(params, sentences: Sentences, trie: Trie | None, how: BeamConfig | SampleConfig) -> Found:
            memory = scorer.encode(params, source_batch(sentences.inputs))
            width = how.beam_size if isinstance(how, BeamConfig) else how.samples
            cache = scorer.init_cache(params, memory, width=width, max_len=how.max_len)
            step, bonus = scorer.step(params, memory), None
            if config.coverage:
                mask = sentences.inputs != PAD
                step, cache = with_coverage(scorer.watched_step(params, memory)), uncovered(cache, mask, width)
                bonus = lambda cache: coverage_penalty(cache.coverage, mask, config.coverage)  # noqa: E731
            cache = narrow(cache) if config.expand_late else cache
            asked: dict[str, Any] = {
                "max_lengths": sentences.limits,
                "min_lengths": sentences.least,
                "constraints": Constraints(allowed, sentences.prefixes, trie, phrases=sentences.phrases),
            }
            if isinstance(how, BeamConfig):
                asked |= {"reference_lengths": sentences.expected, "bonus": bonus}
                best = beam_search(step, cache, sentences.first, how, **asked)
                return Found(best.tokens, best.lengths, best.log_probs, best.scores)
            keys = sentence_keys(config.seed, sentences.ids)
            if config.method == "sample":
                drawn = sample(step, cache, sentences.first, how, keys, **asked)
                return Found(drawn.tokens, drawn.lengths, drawn.log_probs, drawn.drawn)
            found = stochastic_beam_search(step, cache, sentences.first, how, keys, **asked)
            return Found(found.tokens, found.lengths, found.log_probs, found.perturbed)

        self._search = jax.jit(search, static_argnums=3)

    def set_params(self, params) -> None:
        """Go on with other parameters, the scorer's again; with None, keep none until there are others."""
        self.params = None if params is None else self.scorer.rounded(params)

    def __call__(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        phrases: Sequence[Sequence[str]] | None = None,
        choices: Sequence[str] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[list[Hypothesis]]:
        """The n best translations of each source, best first, or its draws in their order.

        A blank source has one translation, which is empty, but a text that is gone on with may begin from nothing.
        Where nothing was found that meets the constraints there is none, and `unmet` counts it.

        Args:
            prefixes: what each translation has to begin with, as text; its tokens are part of the translation.
            phrases: what each translation has to contain, as texts.
            choices: what there is to choose from, as texts; all translations are among them.
            progress: is told how many sentences each finished batch held.

        Raises:
            UserError: there are prefixes, and outputs are written from the right to the left; there are phrases, and
                outputs are drawn, or choices too; or the vocabulary has not what is asked for.
        """
        if phrases is not None and choices is not None:
            raise UserError("phrases and choices do not go together; leave out the choices that lack the phrases")
        if self.runs_on:
            if not (prefixes is phrases is choices is None):
                raise UserError(
                    "an output that goes on over line ends (config.decode.max_new_tokens) takes no prefixes, phrases "
                    "or choices; give what it begins with as its source"
                )
            return self._run_on(sources, progress)
        results: list[list[Hypothesis]] = [[Hypothesis("", (), 0.0, 0.0, ())] for _ in sources]
        filled = [i for i, source in enumerate(sources) if self._continues or not self._blank(source)]
        blank = len(sources) - len(filled)
        progress(blank)
        self.sources += blank
        self.unknown += Unknown(of=blank)
        rows = self.source_rows([sources[i] for i in filled])
        begun = None if prefixes is None else self._asked.prefixes([prefixes[i] for i in filled])
        wanted = None if phrases is None else self._asked.phrases([phrases[i] for i in filled])
        trie, longest = (None, 0) if choices is None else self._asked.choices(tuple(choices))
        lengths = np.array([len(row) for row in rows], int)
        for batch in serving_batches(lengths, batch_size=self._config.batch_size, width=self._config.width):
            numbers = batch.requests[::-1].tolist()  # the shortest is the first row
            sentences = self._sentences(
                [rows[j] for j in numbers],
                [begun[j] for j in numbers] if begun else None,
                [wanted[j] for j in numbers] if wanted else None,
                batch,
                longest,
            )
            for j, hypotheses in zip(numbers, self._translate(sentences, batch, trie, longest), strict=True):
                results[filled[j]] = hypotheses
                self.unmet += not hypotheses
            progress(len(numbers))
        return results

    def source_rows(self, sources: list[str], *, again: bool = False) -> list[np.ndarray]:
        """Sources as they are read: tokens, cut to the limit, after begin- or before end-of-sentence.

        Args:
            again: they have been counted, in `sources`, `truncated` and `unknown`, when they were read before.
        """
        encoder = self._tokenizers.source
        encoded = encode_lines(encoder, sources) if self._by_line else encoder.encode(sources)
        if not again:
            self.sources += len(encoded)
            self.truncated += sum(len(row) >= self.max_source_length for row in encoded)
            self._count_unknown(sources, encoded)
        return [self._cut(row) for row in encoded]

    def _count_unknown(self, sources: list[str], encoded: list[np.ndarray]) -> None:
        if not self._by_line:
            self.unknown += unknown_in(self._tokenizers.source, sources, encoded)
            return
        for source in sources:  # their tokens are those of their lines
            of_lines = unknown_in(self._tokenizers.source, source.split("\n"))
            self.unknown += dataclasses.replace(of_lines, texts=int(bool(of_lines)), of=1)

    def _cut(self, row: np.ndarray) -> np.ndarray:
        limit = self.max_source_length - 1
        if self._continues:  # what stands nearest counts the most
            return np.concatenate([[BOS], row[max(len(row) - limit, 0) :]]).astype(np.int32)
        return np.append(row[:limit], EOS).astype(np.int32)

    def _sentences(
        self,
        rows: list[np.ndarray],
        prefixes: list[np.ndarray] | None,
        phrases: list[list[np.ndarray]] | None,
        batch: ServingBatch,
        longest: int,
    ) -> Sentences:
        config, size = self._config, batch.rows
        inputs, first, lengths = self._read(rows, size, batch.length)
        ids = np.zeros(size, np.int32)
        ids[: len(rows)] = [zlib.crc32(tokens.tobytes()) >> 1 for tokens in rows]
        limits, least = config.max_length(lengths).astype(np.int32), config.min_length(lengths)
        begun = contained = None
        asked = np.full(size, longest)
        if prefixes is not None:
            begun = padded(prefixes, size, padded_length(max(map(len, prefixes))))
            asked += np.count_nonzero(begun != PAD, axis=1)
        if phrases is not None:
            vocab = self._tokenizers.target.vocab_size
            listed = [[row.tolist() for row in group] for group in phrases]
            contained = build_phrases([*listed, *[[]] * (size - len(listed))], vocab, EOS)
            asked += np.count_nonzero(contained.tokens != BLANK, axis=(1, 2))
        # What is asked for leaves as much room as the shortest source does.
        limits = np.where(asked, np.maximum(limits, asked + config.max_length_offset), limits)
        for most, one_sequence in self._positions:
            limits = np.minimum(limits, most - one_sequence * (lengths - self._continues))
        if least is not None:
            least = np.minimum(least, limits)
        return Sentences(
            inputs, first, limits.astype(np.int32), None if least is None else least.astype(np.int32),
            (config.reference_ratio * lengths).astype(np.float32) if config.brevity else None, begun, contained, ids,
        )  # fmt: skip

    def _translate(
        self, sentences: Sentences, batch: ServingBatch, trie: Trie | None, longest: int
    ) -> list[list[Hypothesis]]:
        most, count = int(self._config.max_length(batch.length)), len(batch.requests)
        asked = longest + (0 if sentences.prefixes is None else sentences.prefixes.shape[1])
        asked += 0 if sentences.phrases is None else math.prod(sentences.phrases.tokens.shape[1:])
        if asked:
            most = max(most, asked + self._config.max_length_offset)
        how = self._config.beam(most) if self._config.method == "beam" else self._config.sampling(most)
        found = self._find(sentences, count, trie, how)
        return [self._hypotheses(*(x[i] for x in found)) for i in range(count)]

    def _find(self, sentences: Sentences, count: int, trie: Trie | None, how: BeamConfig | SampleConfig) -> Found:
        """What a search finds for the first `count` sentences of a batch, as arrays of numpy."""
        divides = len(sentences.inputs) % batch_shards(self._mesh) == 0
        place = batch_sharding(self._mesh) if divides else replicated(self._mesh)
        with needing_memory(
            f"for {len(sentences.inputs)} sources of {sentences.inputs.shape[1]} tokens with {self._config.width} "
            f"hypotheses of up to {how.max_len} tokens each: lower decode.batch_size, beam_size or samples, or "
            "max_length_factor and max_length_offset"
        ):
            found = to_host(self._search(self.params, everywhere(sentences, place), trie, how))
        if np.isnan(found.ranking[:count]).any():
            raise UserError(
                "the model gives NaN: these parameters are broken; decode with --config.decode.checkpoint=STEP"
            )
        return Found(*(x[:count] for x in found))

    def _read(self, rows: Sequence[np.ndarray], size: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is read before a search, `[size, length]`, the tokens that it begins from, and each source's length."""
        inputs, first = padded(rows, size, length), np.full(size, BOS, np.int32)
        lengths = np.count_nonzero(inputs != PAD, axis=1)
        if self._continues:
            for i, tokens in enumerate(rows):
                first[i], inputs[i, len(tokens) - 1] = tokens[-1], PAD
        return inputs, first, lengths

    def _run_on(self, sources: Sequence[str], progress: Callable[[int], None]) -> list[list[Hypothesis]]:
        """Draws that go on over line ends; see `tasks.running_text`."""
        config, target, results = self._config, self._tokenizers.target, []
        together = max(1, config.batch_size // config.samples)
        for begin in range(0, len(sources), together):
            rows = [row[1:] for row in self.source_rows(list(sources[begin : begin + together]))]
            found = run_on(
                self._draw, rows, samples=config.samples, tokens=config.max_new_tokens, context=self._joined,
                most_read=self.max_source_length,
            )  # fmt: skip
            results += [
                [
                    Hypothesis(decode_lines(target, ids), tuple(target.pieces(ids)), score, drawn, tuple(ids.tolist()))
                    for ids, score, drawn in of_one
                ]
                for of_one in found
            ]
            progress(len(rows))
        return results

    def _draw(self, rows: list[np.ndarray], ids: np.ndarray, limits: np.ndarray, most: int):
        """A `running_text.Draw`."""
        lengths, found = np.array([len(row) for row in rows], int), []
        how = dataclasses.replace(self._config.sampling(most), samples=1, ends=False)
        # Each row is one draw.
        for batch in serving_batches(lengths, batch_size=self._config.batch_size, by_length=False):
            part, size, count = batch.requests, batch.rows, len(batch.requests)
            inputs, first, _ = self._read([rows[j] for j in part], size, batch.length)
            numbers, limit = np.zeros(size, np.int32), np.ones(size, np.int32)
            numbers[:count], limit[:count] = ids[part], limits[part]
            sentences = Sentences(inputs, first, limit, None, None, None, None, numbers)
            found.append(self._find(sentences, count, None, how))
        tokens, _, log_probs, ranking = (np.concatenate(arrays)[:, 0] for arrays in zip(*found, strict=True))
        return tokens, log_probs, ranking

    def _hypotheses(self, tokens, lengths, log_probs, ranking) -> list[Hypothesis]:
        target, hypotheses = self._tokenizers.target, []
        for row, n, log_prob, rank in zip(tokens, lengths, log_probs, ranking, strict=True):
            if n:
                ids = (turn_round(row[:n]) if self._right_to_left else row[:n]).tolist()
                pieces = tuple(target.pieces(ids))
                hypotheses.append(Hypothesis(target.decode(ids), pieces, float(log_prob), float(rank), tuple(ids)))
        return hypotheses


def best_text(hypotheses: Sequence[Hypothesis]) -> str:
    """The first one's text; nothing where nothing was found."""
    return hypotheses[0].text if hypotheses else ""
