"""What tasks that write tokens have in common: cross-entropy, search, metrics of text."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from s2sjax.api import Batch, Traits
from s2sjax.data.columns import Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch
from s2sjax.data.records import Record
from s2sjax.data.rows import PLAIN_ROWS, RowFormat
from s2sjax.data.segmentation import Segmentation
from s2sjax.data.splits import blank_of
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.inference.decoding import DecodeConfig, PassConfig
from s2sjax.inference.likelihood import cross_entropy_sums
from s2sjax.inference.requests import RequestFormat
from s2sjax.inference.scorers import Scorer
from s2sjax.inference.search_size import SearchSize
from s2sjax.inference.translator import Translator
from s2sjax.metrics.measure import measure
from s2sjax.metrics.text import TextMetrics
from s2sjax.ops.losses import LossOptions
from s2sjax.ports import Ports, Tokens
from s2sjax.task import Apply, Limits, Sums, Trained
from s2sjax.vocabulary import Vocabulary


def check_writes_text(family: str, traits: Traits, others: Sequence[str]) -> None:
    """Raise a `UserError` if a family labels what it reads. Args: others: families that can do the task."""
    if traits.writes_in_place:
        raise UserError(
            f"config.model.name={family} labels what it reads and writes no text; choose config.task.name="
            f"classification or tagging, or a family that does: {', '.join(others)}"
        )


class TokenTask:
    """A task whose targets are tokens."""

    decode: ClassVar[type[PassConfig]] = DecodeConfig
    defaults: ClassVar[Mapping[str, Any]] = {}

    @property
    def rows(self) -> RowFormat:
        return PLAIN_ROWS

    def ports(self, source: Vocabulary, target: Vocabulary) -> Ports:
        return Ports(Tokens(source.size, source.start), Tokens(target.size, target.start))

    def tokenizer(self, config: TokenizerConfig) -> TokenizerConfig:
        return config

    def costly(self) -> Mapping[str, str]:
        return {}

    def arrange(self, examples: Examples, *, evaluation: bool = False) -> Examples:
        return examples

    def pictures(self, records: Iterable[Record], predictions: Sequence[str]) -> Mapping[str, Callable[[Path], None]]:
        return {}

    def lengths(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        return examples["source"].lengths, examples["target"].lengths

    def batch(
        self,
        planned: PlannedBatch,
        examples: Examples,
        *,
        only: np.ndarray | None = None,
        segmentation: Segmentation | None = None,
    ) -> dict[str, np.ndarray]:
        return assemble(planned, examples, only=only, segmentation=segmentation)

    def search_size(self, decode: DecodeConfig) -> SearchSize | None:
        return SearchSize.of(decode)

    def loss(self, apply: Apply, batch: Batch, options: LossOptions, *, train: bool) -> Sums:
        """Cross-entropy; `nll` without smoothing and what else is added to it, nats, and `correct`, the tokens that
        rank first."""
        return cross_entropy_sums(apply(batch), batch, options, train=train)._asdict()

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Nats a token, perplexity, share of tokens that rank first."""
        return {
            "loss": sums["loss"] / sums["weight"],
            "perplexity": math.exp(min(sums["nll"] / sums["weight"], 700)),
            "accuracy": sums["correct"] / sums["weight"],
        }

    def evaluation(self, scorer: Scorer, params: Any, batch: Batch, options: LossOptions) -> Sums:
        """`nll`, nats, each token exactly once."""
        nll = scorer.nll(params, batch, chunk=options.chunk, shards=options.shards)
        return {"nll": nll, "weight": batch["weights"].sum()}

    def measure(
        self,
        how: TextMetrics,
        records: Iterable[Record],
        predictions: Sequence[str] | None,
        sums: Mapping[str, float],
    ) -> dict[str, float | str]:
        return measure(how, records, predictions, nll=sums["nll"], tokens=sums["weight"])


def request_format(
    data: DataConfig, limits: Sequence[Limits], rows: RowFormat, *, continues: bool = False, joined: int = 0
) -> RequestFormat:
    """How sources are read. Args: as `RequestFormat` has them."""
    return RequestFormat(
        max_source_length=min(each.max_source_length for each in limits),
        continues=continues,
        joined=joined,
        line_ends=rows.line_ends,
        right_to_left=rows.right_to_left,
        positions=tuple(each.positions for each in limits if each.positions is not None),
        blank=blank_of(data),
    )


def search(trained: Trained, decode: DecodeConfig, format: RequestFormat, mesh: Mesh) -> Translator:
    """The search that `decode` asks for."""
    return Translator(trained.scorer, trained.params, trained.tokenizers, decode, format, mesh=mesh)
