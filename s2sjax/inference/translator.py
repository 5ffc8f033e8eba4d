"""Text in, text out: requests are read, searched for in batches, and what was found is written, in the order asked."""

import functools
import logging
from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.inference.counts import RequestCounts, WithCounts
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.details import length_scores
from s2sjax.inference.hypotheses import EMPTY, Hypothesis, read_found
from s2sjax.inference.requests import RequestFormat, RequestReader
from s2sjax.inference.running_text import decode_lines, run_on
from s2sjax.inference.scorers import Scorer, attention_layers
from s2sjax.inference.search import Search

_log = logging.getLogger(__name__)

Translations = WithCounts[list[list[Hypothesis]]]
"""The hypotheses of each source, best first."""


class Translator:
    """Translates, with one model or several.

    What a sentence is translated to does not depend on the sentences it is batched with. A language model of plain text
    goes on from its sources instead (`RequestFormat.continues`).
    """

    def __init__(
        self,
        scorer: Scorer,
        params,
        tokenizers: TokenizerPair,
        config: DecodeConfig,
        format: RequestFormat,
        *,
        mesh: Mesh,
    ):
        """Args:
        params: the scorer's.

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
        self.requests = RequestReader(tokenizers, config, format)
        """How sources are read."""
        self._config, self._format, self._target = config, format, tokenizers.target
        longest, runs_on = self.requests.max_source_length, self.requests.runs_on
        for sentence in config.without_effect(self._target.vocab_size, longest, runs_on=runs_on):
            _log.warning("config.decode.%s", sentence)
        self._search = Search(scorer, config, format, self._target, mesh)

    @property
    def outputs(self) -> int:
        """Hypotheses that a source is given."""
        return self._config.nbest if self._config.method == "beam" else self._config.samples

    def length_scores(self, log_probs: Sequence[float], lengths: Sequence[int]) -> list[dict[str, float]]:
        """Each hypothesis's log-probability over each length penalty; see `inference.details`."""
        return length_scores(log_probs, lengths, self._config)

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
    ) -> Translations:
        """The n best translations of each source, best first, or its draws in their order.

        A blank source has one translation, which is empty, but a text that is gone on with may begin from nothing.
        Where nothing was found that meets the constraints there is none, and the counts say for how many (`unmet`).

        Args:
            prefixes: what each translation has to begin with, as text; its tokens are part of the translation.
            phrases: what each translation has to contain, as texts.
            choices: what there is to choose from, as texts; all translations are among them.
            progress: is told how many sentences each finished batch held.

        Raises:
            UserError: there are prefixes, and outputs are written from the right to the left; there are phrases, and
                outputs are drawn, or choices too; or the vocabulary has not what is asked for.
        """
        self.requests.check(prefixes, phrases, choices)
        if self.requests.runs_on:
            return self._run_on(sources, progress)
        read = self.requests.read(sources, prefixes=prefixes, phrases=phrases, choices=choices)
        requests, unmet = read.result, 0
        progress(len(sources) - len(requests.rows))  # blank ones
        results = [[EMPTY] for _ in sources]
        for numbers, found in self._search(self.params, requests):
            written = read_found(found, self._target, right_to_left=self._format.right_to_left)
            for number, hypotheses in zip(numbers, written, strict=True):
                results[requests.places[number]] = hypotheses
                unmet += not hypotheses
            progress(len(numbers))
        return WithCounts(results, read.counts + RequestCounts(unmet=unmet))

    def _run_on(self, sources: Sequence[str], progress: Callable[[int], None]) -> Translations:
        """Draws that go on over line ends; see `inference.running_text`."""
        config, results, counts = self._config, [], RequestCounts()
        draw = functools.partial(self._search.draw, self.params)
        together = max(1, config.batch_size // config.samples)
        for begin in range(0, len(sources), together):
            read = self.requests.source_rows(sources[begin : begin + together])
            counts += read.counts
            found = run_on(
                draw, read.result, samples=config.samples, tokens=config.max_new_tokens,
                context=self._format.joined, most_read=self.requests.max_source_length,
            )  # fmt: skip
            results += [[self._running_text(*drawn) for drawn in of_one] for of_one in found]
            progress(len(read.result))
        return WithCounts(results, counts)

    def _running_text(self, ids, score: float, drawn: float) -> Hypothesis:
        pieces = tuple(self._target.pieces(ids))
        return Hypothesis(decode_lines(self._target, ids), pieces, score, drawn, tuple(ids.tolist()))
