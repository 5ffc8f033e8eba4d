"""Classification: one label of a text.

Any family that reads a source can do it. An encoder-decoder writes the label where it would write its first token; an
encoder reads it off the first token of the source. Nothing is searched for: one pass gives the probability of every
label.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from jax.sharding import Mesh

from s2sjax.api import Traits
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.records import Record
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.labelling import Labeller
from s2sjax.metrics.labels import confusion, label_metrics
from s2sjax.metrics.measure import references_of
from s2sjax.metrics.names import LABEL_METRICS
from s2sjax.metrics.text import TextMetrics
from s2sjax.reporting.plots import confusion_matrix
from s2sjax.task import Limits, Pairs, Rows, Trained
from s2sjax.tasks._tokens import TokenTask, request_format


@dataclass(frozen=True)
class Classification(TokenTask):
    """Each record is a source and its label, a text that is one token of a vocabulary of labels."""

    name: ClassVar[str] = "classification"
    conditional: ClassVar[bool] = True
    default_metrics: ClassVar[tuple[str, ...]] = LABEL_METRICS

    def check(self, data: DataConfig, tokenizer: TokenizerConfig, family: str, traits: Traits) -> None:
        if not data.source:
            raise UserError("config.task.name is 'classification', but config.data.source is empty: say what is read")
        if traits.language_model:
            raise UserError(
                f"config.task.name is 'classification', but config.model.name={family} reads and writes one sequence "
                "of one vocabulary: choose a family with an encoder, or have it write labels as text "
                "(config.task.name=text, config.evaluate.metrics=('exact_match', 'macro_f1'))"
            )
        if data.right_to_left:
            raise UserError("config.data.target_order is 'right_to_left', but a label is one token: leave it out")

    def check_evaluation(self, decode: bool, metrics: Sequence[str]) -> None:
        other = [name for name in metrics if name not in LABEL_METRICS]
        if other:
            raise UserError(
                f"{other[0]} is no metric of labels: config.evaluate.metrics and config.checkpoint.metric may name "
                f"{', '.join(LABEL_METRICS)}"
            )

    def tokenizer(self, config: TokenizerConfig) -> TokenizerConfig:
        return replace(config, joint=False, target_kind="label")

    def longest(self, data: DataConfig, batching: BatchingConfig) -> tuple[int, int]:
        return batching.max_source_length, 1

    def positions(
        self, data: DataConfig, batching: BatchingConfig, tokenizer: TokenizerConfig, *, one_sequence: bool
    ) -> int:
        return batching.max_source_length

    def arrange(self, examples: Examples, data: DataConfig, *, evaluation: bool = False) -> Examples:
        return examples

    def predictor(
        self, trained: Trained, data: DataConfig, decode: DecodeConfig, limits: Sequence[Limits], mesh: Mesh
    ) -> Labeller:
        format = request_format(data, limits, continues=False)
        return Labeller(trained.scorer, trained.params, trained.tokenizers, decode, format, each=False)

    def question(self, record: Record) -> Record:
        return record

    def pairs(self, sources: Rows, targets: Rows) -> Pairs:
        return Pairs(sources, targets, None)

    def measure(
        self,
        how: TextMetrics,
        records: Iterable[Record],
        predictions: Sequence[str] | None,
        sums: Mapping[str, float],
    ) -> dict[str, float | str]:
        """`loss`, nats a label; of predictions, what `metrics.labels` computes. Of several right labels any counts."""
        found: dict[str, float | str] = {"loss": sums["nll"] / sums["weight"]}
        if predictions is not None:
            found |= label_metrics(predictions, _right(records, predictions))
        return {name: found[name] for name in how.names if name in found}

    def pictures(self, records: Iterable[Record], predictions: Sequence[str]) -> Mapping[str, Callable[[Path], None]]:
        """Which labels were taken for which."""
        labels, counts = confusion(predictions, _right(records, predictions))
        return {"confusion": lambda out: confusion_matrix(labels, counts, out, inside=out.parents[1])}


def _right(records: Iterable[Record], predictions: Sequence[str]) -> list[str]:
    """The right label of each record: of several, the one that was predicted, or the first."""
    listed = [[label.strip() for label in references_of(record)] for record in records]
    return [ours if ours in several else several[0] for ours, several in zip(predictions, listed, strict=True)]


TASK = Classification
