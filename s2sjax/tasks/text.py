"""Text to text: translation, summarization, answers to questions, inflection, spelling to sounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jax.sharding import Mesh

from s2sjax import models
from s2sjax.api import Traits
from s2sjax.config import check_choices, one_of
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.config import DataConfig
from s2sjax.data.records import Record
from s2sjax.data.rows import RowFormat
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.rerank import Kind
from s2sjax.inference.translator import Translator
from s2sjax.metrics.names import PAIRS_DEFAULT
from s2sjax.task import Limits, Pairs, Rows, Trained
from s2sjax.tasks._tokens import TokenTask, check_writes_text, request_format, search

TARGET_ORDERS = ("left_to_right", "right_to_left")


@dataclass(frozen=True)
class Text(TokenTask):
    """Each record is a source and its target, both tokens.

    Attributes:
      target_order: "left_to_right", or "right_to_left": a model writes the last token of a target first. Texts stay as
        they are read: they are turned round after they are tokenised.
    """

    name: ClassVar[str] = "text"
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    offers: ClassVar[tuple[str, ...]] = ("score", "align", "rerank", "tag")
    judges: ClassVar[tuple[Kind, ...]] = (Kind.FORWARD, Kind.CHANNEL)
    default_metrics: ClassVar[tuple[str, ...]] = PAIRS_DEFAULT

    target_order: str = one_of(TARGET_ORDERS, "left_to_right")

    def __post_init__(self) -> None:
        check_choices(self, "config.task")

    @property
    def rows(self) -> RowFormat:
        return RowFormat(right_to_left=self.target_order == "right_to_left")

    def check(
        self, data: DataConfig, batching: BatchingConfig, tokenizer: TokenizerConfig, family: str, traits: Traits
    ) -> None:
        check_writes_text(family, traits, models.text_writers())

    def check_evaluation(self, decode: bool, metrics: Sequence[str]) -> None:
        """It has all metrics."""

    def longest(self, batching: BatchingConfig) -> tuple[int, int]:
        return batching.max_source_length, batching.max_target_length

    def positions(self, batching: BatchingConfig, tokenizer: TokenizerConfig, *, one_sequence: bool) -> int:
        source, target = self.longest(batching)
        return source + target if one_sequence else max(source, target)

    def predictor(
        self, trained: Trained, data: DataConfig, decode: DecodeConfig, limits: Sequence[Limits], mesh: Mesh
    ) -> Translator:
        return search(trained, decode, request_format(data, limits, self.rows), mesh)

    def question(self, record: Record) -> Record:
        return record

    def pairs(self, sources: Rows, targets: Rows) -> Pairs:
        return Pairs(sources, targets, None)


TASK = Text
