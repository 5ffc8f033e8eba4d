"""The metrics of a whole split: the loss, and those of what is decoded for it; also of each pair of languages."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from s2sjax.data.prepare import TokenizedSplit, tokenize
from s2sjax.data.records import Source
from s2sjax.data.splits import open_split
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.experiment import Experiment
from s2sjax.inference.search import Hypothesis, Translator, best_text
from s2sjax.metrics.measure import measure
from s2sjax.metrics.names import TEXT_METRICS
from s2sjax.metrics.text import TextMetrics
from s2sjax.reporting.display import progress
from s2sjax.runs.evaluate import LikelihoodEvaluator, remarks_on

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """Attributes:
    found: the hypotheses of each row; None if no metric needs them.
    """

    metrics: Mapping[str, Any]
    source: Source
    tokenized: TokenizedSplit
    found: Sequence[Sequence[Hypothesis]] | None


@dataclass(frozen=True)
class Measurement:
    """Attributes:
    experiments: of the model or, of an ensemble, of all members. The first says what is measured.
    """

    translator: Translator
    tokenizers: TokenizerPair
    experiments: tuple[Experiment, ...]
    mesh: Mesh

    def measure(self, split: str, how: TextMetrics) -> Measured:
        """Raises: UserError for a split that is missing."""
        config = self.experiments[0].data
        source = open_split(config, split)
        with progress(f"tokenising {split}") as advance:
            tokenized = tokenize(config, self.tokenizers, split, progress=advance)
        if unknown := tokenized.unknown_targets:
            _log.warning("%s", unknown.sentence("targets"))
        likelihood = self._likelihood(tokenized)
        found = None
        if how.any_of(TEXT_METRICS):
            for remark in remarks_on(source, how):
                _log.warning("%s", remark)
            with progress(f"decoding {split}", len(source)) as advance:
                found = self.translator([row["source"] for row in source], progress=advance)
        return Measured(measure(how, source, best_texts(found), **likelihood), source, tokenized, found)

    def by_pair(self, measured: Measured, pairs: Mapping[str, int], how: TextMetrics) -> dict[str, dict[str, Any]]:
        """The metrics of each pair of languages that has examples. Args: pairs: how many each has, in their order."""
        rows, texts = list(measured.source), best_texts(measured.found)
        by_pair: dict[str, dict[str, Any]] = {}
        stop = 0
        for pair, length in pairs.items():
            start, stop = stop, stop + length
            if length:
                likelihood = self._likelihood(measured.tokenized.part(start, stop))
                its_texts = None if texts is None else texts[start:stop]
                by_pair[pair] = {"examples": length, **measure(how, rows[start:stop], its_texts, **likelihood)}
        return by_pair

    def _likelihood(self, split: TokenizedSplit) -> dict[str, Any]:
        first, *others = self.experiments
        evaluator = LikelihoodEvaluator(self.translator.scorer, first, split, self.mesh, others=others)
        return evaluator(self.translator.params)._asdict()


def best_texts(found: Sequence[Sequence[Hypothesis]] | None) -> list[str] | None:
    """The best hypothesis of each row; None if nothing was decoded."""
    return None if found is None else [best_text(hypotheses) for hypotheses in found]
