"""The metrics of a whole split: the loss, and those of what is decoded for it; also of each set of a mixture."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from s2sjax.data.columns import Examples
from s2sjax.data.prepare import tokenize
from s2sjax.data.records import Source
from s2sjax.data.splits import open_split
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.experiment import Experiment
from s2sjax.inference.counts import RequestCounts
from s2sjax.inference.hypotheses import Hypothesis, best_text
from s2sjax.metrics.measure import measure_each
from s2sjax.metrics.names import TEXT_METRICS
from s2sjax.metrics.text import TextMetrics
from s2sjax.reporting.display import progress
from s2sjax.runs.evaluate import Evaluator, suited_to
from s2sjax.task import Predictor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """Attributes:
    parts: the metrics of each set of a mixture or pair of languages that has examples.
    found: the hypotheses of each row; None if no metric needs them.
    counts: of what was decoded.
    """

    metrics: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]
    source: Source
    tokenized: Examples
    found: Sequence[Sequence[Hypothesis]] | None
    counts: RequestCounts


@dataclass(frozen=True)
class Measurement:
    """Attributes:
    experiments: of the model or, of an ensemble, of all members. The first says what is measured.
    """

    predictor: Predictor
    tokenizers: TokenizerPair
    experiments: tuple[Experiment, ...]
    mesh: Mesh

    def measure(self, split: str, how: TextMetrics) -> Measured:
        """Raises: UserError for a split that is missing."""
        config = self.experiments[0].data
        source = open_split(config, split)
        with progress(f"tokenising {split}") as advance:
            tokenized = tokenize(config, self.tokenizers, split, rows=self.experiments[0].task.rows, progress=advance)
        if unknown := tokenized.unknown_targets:
            _log.warning("%s", unknown.sentence("target"))
        first, *others = self.experiments
        evaluator = Evaluator(self.predictor.scorer, first, tokenized, self.mesh, others=others)
        params = self.predictor.params
        whole, by_part = evaluator(params), evaluator.by_part(params)
        found, counts = None, RequestCounts()
        if how.any_of(TEXT_METRICS):
            how, remarks = suited_to(source, how, first)
            for remark in remarks:
                _log.warning("%s", remark)
            with progress(f"decoding {split}", len(source)) as advance:
                decoded = self.predictor([row["source"] for row in source], progress=advance)
            found, counts = decoded.result, decoded.counts
        texts = best_texts(found)
        measure = functools.partial(first.task.measure, how)
        parts = measure_each(measure, source, texts, source.parts, by_part)
        return Measured(measure(source, texts, whole), parts, source, tokenized, found, counts)


def best_texts(found: Sequence[Sequence[Hypothesis]] | None) -> list[str] | None:
    """The best hypothesis of each row; None if nothing was decoded."""
    return None if found is None else [best_text(hypotheses) for hypotheses in found]
