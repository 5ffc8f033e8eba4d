"""Requests, from texts to rows of tokens: sources as a model reads them, and what is asked of each output."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.unknown import Unknown, unknown_in
from s2sjax.decode.constraints import Trie
from s2sjax.errors import UserError
from s2sjax.inference.asked import AskedTokens
from s2sjax.inference.counts import RequestCounts, WithCounts
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.running_text import encode_lines


class PositionLimit(NamedTuple):
    """How far the positions go that a model has learned."""

    limit: int
    """The most tokens a sequence may have."""
    one_sequence: bool = False
    """A language model's, to which source and output are one sequence."""

    @property
    def room(self) -> int:
        """The most tokens of a source, and those of an output: at least one position is the output's."""
        return self.limit - self.one_sequence


@dataclass(frozen=True)
class RequestFormat:
    """How models read sources and write outputs, as they were trained.

    Attributes:
      max_source_length: the most tokens of a source, begin- or end-of-sentence counted.
      continues: a language model of plain text, which goes on from its sources: begin-of-sentence and a source's tokens
        are read, without an end-of-sentence after them, and search begins from the last, which for an empty source is
        begin-of-sentence.
      joined: tokens of a window, if that text runs over its line ends; else 0.
      line_ends: they are tokens of the vocabulary; else end-of-sentence stands for them.
      right_to_left: an output's last token is written first; hypotheses are in reading order all the same.
      positions: what sources and outputs have to fit into, of each model that has learned positions.
      blank: whether there is nothing to translate in a source, prompt and all.
    """

    max_source_length: int
    continues: bool = False
    joined: int = 0
    line_ends: bool = False
    right_to_left: bool = False
    positions: tuple[PositionLimit, ...] = ()
    blank: Callable[[str], bool] = lambda source: not source.strip()


@dataclass(frozen=True, eq=False)
class Requests:
    """Rows to search from, and what is asked of the output of each.

    Attributes:
      rows: sources as they are read, tokens int32 [S] or vectors float32 [S, W].
      places: which of the texts each row is of; a blank one has none.
      prefixes: what each output begins with.
      phrases: what each output contains.
      trie: of the choices that all outputs are among.
      longest: tokens of the longest choice.
    """

    rows: Sequence[np.ndarray]
    places: Sequence[int]
    prefixes: Sequence[np.ndarray] | None = None
    phrases: Sequence[Sequence[np.ndarray]] | None = None
    trie: Trie | None = None
    longest: int = 0

    def part(self, numbers: Sequence[int]) -> "Requests":
        """Some of them, in this order."""
        return dataclasses.replace(
            self,
            rows=[self.rows[i] for i in numbers],
            places=[self.places[i] for i in numbers],
            prefixes=None if self.prefixes is None else [self.prefixes[i] for i in numbers],
            phrases=None if self.phrases is None else [self.phrases[i] for i in numbers],
        )


class RequestReader:
    """Reads the texts of requests. It keeps nothing of them: what it counts is returned."""

    def __init__(self, tokenizers: TokenizerPair, config: DecodeConfig, format: RequestFormat):
        """Raises:
        UserError: config asks for a running text, and not for draws.
        """
        self._tokenizers, self._format = tokenizers, format
        self._by_line = bool(format.joined) and not format.line_ends
        self.over_lines = bool(format.joined)
        """Whether sources and outputs are parts of a text that runs over its line ends."""
        self.runs_on = bool(format.joined and config.max_new_tokens)
        """Whether outputs go on over line ends."""
        if self.runs_on:
            config.check_running_text()
        rooms = [positions.room for positions in format.positions]
        self.max_source_length = min([format.max_source_length, *rooms])
        """The most tokens of a source that are read."""
        longest = min([int(config.max_length(self.max_source_length)), *rooms])
        self._asked = AskedTokens(tokenizers.target, longest, right_to_left=format.right_to_left)

    def check(
        self,
        prefixes: Sequence[str] | None,
        phrases: Sequence[Sequence[str]] | None,
        choices: Sequence[str] | None,
    ) -> None:
        """Raise a `UserError` if these do not go together, or not with outputs that go on over line ends."""
        if phrases is not None and choices is not None:
            raise UserError("phrases and choices do not go together; leave out the choices that lack the phrases")
        if self.runs_on and not (prefixes is phrases is choices is None):
            raise UserError(
                "an output that goes on over line ends (config.decode.max_new_tokens) takes no prefixes, phrases "
                "or choices; give what it begins with as its source"
            )

    def read(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None,
        phrases: Sequence[Sequence[str]] | None,
        choices: Sequence[str] | None,
    ) -> WithCounts[Requests]:
        """Requests of sources, but for blank ones, if these are not gone on with.

        Args: see `Translator`.

        Raises:
            UserError: prefixes, and outputs are written from the right to the left; or the vocabulary has not what is
                asked for.
        """
        blank = self._format.blank
        places = [i for i, source in enumerate(sources) if self._format.continues or not blank(source)]
        read = self.source_rows([sources[i] for i in places])
        missing = len(sources) - len(places)
        begun = None if prefixes is None else self._asked.prefixes([prefixes[i] for i in places])
        wanted = None if phrases is None else self._asked.phrases([phrases[i] for i in places])
        trie, longest = (None, 0) if choices is None else self._asked.choices(tuple(choices))
        requests = Requests(read.result, places, begun, wanted, trie, longest)
        return WithCounts(requests, read.counts + RequestCounts(sources=missing, unknown=Unknown(of=missing)))

    def source_rows(self, sources: Sequence[str]) -> WithCounts[list[np.ndarray]]:
        """Sources as they are read: tokens, cut to the limit, after begin- or before end-of-sentence."""
        encoder, texts = self._tokenizers.source, list(sources)
        encoded = encode_lines(encoder, texts) if self._by_line else encoder.encode(texts)
        truncated = sum(len(row) >= self.max_source_length for row in encoded)
        counts = RequestCounts(len(encoded), truncated, self._unknown(texts, encoded))
        return WithCounts([self._cut(row) for row in encoded], counts)

    def _unknown(self, sources: list[str], encoded: list[np.ndarray]) -> Unknown:
        if not self._by_line:
            return unknown_in(self._tokenizers.source, sources, encoded)
        total = Unknown()
        for source in sources:  # their tokens are those of their lines
            of_lines = unknown_in(self._tokenizers.source, source.split("\n"))
            total += dataclasses.replace(of_lines, texts=int(bool(of_lines)), of=1)
        return total

    def _cut(self, row: np.ndarray) -> np.ndarray:
        limit = self.max_source_length - 1
        if self._format.continues:  # what stands nearest counts the most
            start = self._tokenizers.target.vocabulary.start
            return np.concatenate([[start], row[max(len(row) - limit, 0) :]]).astype(np.int32)
        return np.append(row[:limit], self._tokenizers.source.vocabulary.end).astype(np.int32)
