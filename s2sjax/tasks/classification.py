"""Classification: one label of a text.

Any family that reads a source can do it. An encoder-decoder writes the label where it would write its first token; an
encoder reads it off the first token of the source. Nothing is searched for: one pass gives the probability of every
label.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from s2sjax.api import Traits
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.config import DataConfig
from s2sjax.data.records import Record
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.inference.decoding import LabelConfig, PassConfig
from s2sjax.metrics.measure import references_of
from s2sjax.metrics.names import LABEL_METRICS
from s2sjax.tasks._labels import LabelTask


@dataclass(frozen=True)
class Classification(LabelTask):
    """Each record is a source and its label, a text that is one token of a vocabulary of labels."""

    name: ClassVar[str] = "classification"
    default_metrics: ClassVar[tuple[str, ...]] = LABEL_METRICS
    defaults: ClassVar[Mapping[str, Any]] = {"model.tied": "decoder"}  # labels are no words of a source
    decode: ClassVar[type[PassConfig]] = LabelConfig
    labels: ClassVar[str] = "label"

    def nbest(self, decode: Any) -> int | None:
        return decode.nbest

    def check(
        self, data: DataConfig, batching: BatchingConfig, tokenizer: TokenizerConfig, family: str, traits: Traits
    ) -> None:
        self.check_data(data)
        if traits.language_model:
            raise UserError(
                f"config.task.name is 'classification', but config.model.name={family} reads and writes one sequence "
                "of one vocabulary: choose a family with an encoder, or have it write labels as text "
                "(config.task.name=text, config.evaluate.metrics=('exact_match', 'macro_f1'))"
            )
        if tokenizer.source_model:
            raise UserError(
                "config.tokenizer.source_model is a model that was trained, but beside labels the vocabulary of "
                "sources is learned: leave it out"
            )

    def longest(self, batching: BatchingConfig) -> tuple[int, int]:
        return batching.max_source_length, 1

    def compared(self, records: Iterable[Record], predictions: Sequence[str]) -> tuple[list[str], list[str]]:
        """Of several right labels, the one that was predicted, or the first."""
        listed = [[label.strip() for label in references_of(record)] for record in records]
        right = [ours if ours in several else several[0] for ours, several in zip(predictions, listed, strict=True)]
        return list(predictions), right


TASK = Classification
