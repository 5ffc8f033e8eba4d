"""What tasks that give labels have in common: one pass of a model in place of a search, F1, a confusion matrix."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from jax.sharding import Mesh

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.config import DataConfig
from s2sjax.data.records import Record
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.inference.decoding import PassConfig
from s2sjax.inference.labelling import Labeller
from s2sjax.inference.rerank import Kind
from s2sjax.inference.search_size import SearchSize
from s2sjax.metrics.labels import confusion, label_metrics
from s2sjax.metrics.text import TextMetrics
from s2sjax.reporting.plots import confusion_matrix
from s2sjax.task import Limits, Pairs, Rows, Trained
from s2sjax.tasks._tokens import TokenTask, request_format


class LabelTask(TokenTask, ABC):
    """Each record is a source and what it is labelled: all of it, or each of its tokens."""

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    offers: ClassVar[tuple[str, ...]] = ("score", "align", "rerank")
    judges: ClassVar[tuple[Kind, ...]] = (Kind.FORWARD, Kind.CHANNEL)
    default_metrics: ClassVar[tuple[str, ...]]
    """All that there are, too."""
    decode: ClassVar[type[PassConfig]] = PassConfig
    labels: ClassVar[str]
    """The kind of tokenizer that reads them: one of `data.labels.LABEL_KINDS`."""

    @abstractmethod
    def compared(self, records: Iterable[Record], predictions: Sequence[str]) -> tuple[list[str], list[str]]:
        """All labels of some records: those that were predicted, and those that are right."""

    def check_data(self, data: DataConfig) -> None:
        """Raise a `UserError` if there is nothing to label."""
        if not data.source:
            raise UserError(f"config.task.name is '{self.name}', but config.data.source is empty: say what is read")

    def check_evaluation(self, decode: bool, metrics: Sequence[str]) -> None:
        if other := [name for name in metrics if name not in self.default_metrics]:
            raise UserError(
                f"{other[0]} is no metric of {self.name}: config.evaluate.metrics and config.checkpoint.metric may "
                f"name {', '.join(self.default_metrics)}"
            )

    def tokenizer(self, config: TokenizerConfig) -> TokenizerConfig:
        return replace(config, joint=False, target_kind=self.labels)

    def positions(self, batching: BatchingConfig, tokenizer: TokenizerConfig, *, one_sequence: bool) -> int:
        return batching.max_source_length

    def nbest(self, decode: Any) -> int | None:
        """Labels that a text is given; None: each of its tokens has one."""
        return None

    def search_size(self, decode: Any) -> SearchSize | None:
        return None

    def predictor(
        self, trained: Trained, data: DataConfig, decode: Any, limits: Sequence[Limits], mesh: Mesh
    ) -> Labeller:
        return Labeller(
            trained.scorer, trained.params, trained.tokenizers, request_format(data, limits, self.rows),
            batch_size=decode.batch_size, nbest=self.nbest(decode),
        )  # fmt: skip

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
        """`loss`, nats a label; of predictions, what `metrics.labels` computes."""
        found: dict[str, float | str] = {"loss": sums["nll"] / sums["weight"]}
        if predictions is not None:
            found |= label_metrics(*self.compared(records, predictions))
        return {name: found[name] for name in how.names if name in found}

    def pictures(self, records: Iterable[Record], predictions: Sequence[str]) -> Mapping[str, Callable[[Path], None]]:
        """Which labels were taken for which."""
        labels, counts = confusion(*self.compared(records, predictions))
        return {"confusion": lambda out: confusion_matrix(labels, counts, out, inside=out.parents[1])}
