"""What a task is: what records mean, from the columns of examples to loss, predictions and metrics.

A task is a frozen value without state. It knows no training loop, no mesh and no model family, and they know tasks by
this protocol alone. Each module of `s2sjax.tasks` is one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from jax import Array
from jax.sharding import Mesh

from s2sjax.api import Batch, Mixture, Output, Traits
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.plan import PlannedBatch
from s2sjax.data.records import Record
from s2sjax.data.rows import RowFormat
from s2sjax.data.segmentation import Segmentation
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.inference.counts import WithCounts
from s2sjax.inference.decoding import PassConfig
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.inference.requests import PositionLimit, RequestReader
from s2sjax.inference.rerank import Kind
from s2sjax.inference.scorers import Scorer
from s2sjax.inference.search_size import SearchSize
from s2sjax.metrics.text import TextMetrics
from s2sjax.ops.losses import LossOptions
from s2sjax.ports import Ports
from s2sjax.vocabulary import Vocabulary

Apply = Callable[[Batch], Output | Mixture]
"""A model bound to its parameters and, in training, to its dropout."""
Sums = Mapping[str, Array]
"""Sums over a batch, float32 scalars. `weight` is what the others are divided by to be means."""
Rows = Sequence[np.ndarray]
"""Rows of tokens, int32 [T] each."""


@dataclass(frozen=True)
class Trained:
    """What predicts: a model or an ensemble, its parameters, its vocabularies."""

    scorer: Scorer
    params: Any
    tokenizers: TokenizerPair


class Limits(NamedTuple):
    """What a model can read."""

    max_source_length: int
    """The most tokens of a source."""
    positions: PositionLimit | None
    """How far its positions go; None if any number will do."""


class Predictor(Protocol):
    """Makes predictions of sources: a search (`Translator`), or one pass of a model (`Labeller`)."""

    scorer: Scorer
    params: Any
    """The scorer's; None while it keeps none."""
    requests: RequestReader
    """How sources are read."""

    @property
    def outputs(self) -> int:
        """Predictions that each source is given; there may be fewer."""
        ...

    def length_scores(self, log_probs: Sequence[float], lengths: Sequence[int]) -> list[dict[str, float]]:
        """Log-probabilities of predictions of so many tokens, each over each length penalty."""
        ...

    def set_params(self, params: Any) -> None:
        """Go on with other parameters, the scorer's again; with None, keep none until there are others."""
        ...

    def __call__(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        phrases: Sequence[Sequence[str]] | None = None,
        choices: Sequence[str] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> WithCounts[list[list[Hypothesis]]]:
        """The predictions of each source, best first. What a source gets does not depend on the others.

        Raises:
            UserError: something is asked for that it cannot give.
        """
        ...


class Pairs(NamedTuple):
    """Sources and targets, to be scored as a model reads them."""

    sources: Rows
    targets: Rows
    given: np.ndarray | None
    """[n] int32, how many first tokens of each target are only read; None: 0."""


class Task(Protocol):
    """What the training loop, evaluation and the commands ask."""

    def __hash__(self) -> int: ...

    name: ClassVar[str]
    """Of its module, and what `config.task.name` is."""
    columns: ClassVar[tuple[str, ...]]
    """What a record has, and `score` is given: a target and, where that is predicted from one, a source. Then
    predictions can be compared with targets. Otherwise a text is modelled as it is."""
    offers: ClassVar[tuple[str, ...]]
    """Commands that a run of it has an answer to, beside `decode` and `evaluate`, if its model has: of score, align,
    rerank, tag."""
    judges: ClassVar[tuple[Kind, ...]]
    """What a run of it gives the log-probability of, when it judges what another has decoded."""
    default_metrics: ClassVar[tuple[str, ...]]
    """What evaluation reports where `evaluate.metrics` is empty."""

    decode: ClassVar[type[PassConfig]]
    """What the config section `decode` is: how its predictor makes predictions."""
    defaults: ClassVar[Mapping[str, Any]]
    """Config keys for which `base_config` has other values than those that their sections have; of the model's, those
    that the family has."""

    # ---- Config ----

    def check(
        self, data: DataConfig, batching: BatchingConfig, tokenizer: TokenizerConfig, family: str, traits: Traits
    ) -> None:
        """Raise a `UserError` if it cannot be done with these settings, or not by this family of models."""
        ...

    def check_evaluation(self, decode: bool, metrics: Sequence[str]) -> None:
        """Raise a `UserError` if it has no predictions to decode, or none of these metrics."""
        ...

    def ports(self, source: Vocabulary, target: Vocabulary) -> Ports:
        """What a model of it reads and writes, of these vocabularies."""
        ...

    def tokenizer(self, config: TokenizerConfig) -> TokenizerConfig:
        """How its vocabularies are learned, given what the config says."""
        ...

    def costly(self) -> Mapping[str, str]:
        """Its own fields whose values cost too much to be obeyed unasked, each with what is too much of it."""
        ...

    def longest(self, batching: BatchingConfig) -> tuple[int, int]:
        """The most tokens of an example in training: those it reads, and those it writes."""
        ...

    def positions(self, batching: BatchingConfig, tokenizer: TokenizerConfig, *, one_sequence: bool) -> int:
        """The last position that training may reach. Args: one_sequence: what is read and written follow each other."""
        ...

    # ---- Data ----

    @property
    def rows(self) -> RowFormat:
        """How its rows of tokens stand."""
        ...

    def arrange(self, examples: Examples, *, evaluation: bool = False) -> Examples:
        """The examples that batches are made of: windows of long texts, say."""
        ...

    def lengths(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """How long each example is on the two axes of a plan: what it reads, and what it writes. [n] each."""
        ...

    def batch(
        self,
        planned: PlannedBatch,
        examples: Examples,
        *,
        only: np.ndarray | None = None,
        segmentation: Segmentation | None = None,
    ) -> dict[str, np.ndarray]:
        """The arrays of a planned batch. Args: as `data.examples.assemble`."""
        ...

    # ---- Loss ----

    def loss(self, apply: Apply, batch: Batch, options: LossOptions, *, train: bool) -> Sums:
        """Sums over a batch: `loss` is what training minimises, over `weight`. Only it has a gradient."""
        ...

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What a line of the training log says of sums over some steps."""
        ...

    def evaluation(self, scorer: Scorer, params: Any, batch: Batch, options: LossOptions) -> Sums:
        """Sums over a batch that is evaluated; the scorer may be an ensemble."""
        ...

    # ---- Predictions ----

    def search_size(self, decode: Any) -> SearchSize | None:
        """What decides how much memory its search takes; None if it searches for nothing. Args: decode: its section."""
        ...

    def predictor(
        self, trained: Trained, data: DataConfig, decode: Any, limits: Sequence[Limits], mesh: Mesh
    ) -> Predictor:
        """What makes predictions of sources.

        Args:
            decode: of its class.
            limits: of each member of an ensemble, the first's first.
        """
        ...

    def question(self, record: Record) -> Record:
        """What of a record is asked, and what would be right: a sample of a split."""
        ...

    def pairs(self, sources: Rows, targets: Rows) -> Pairs:
        """Sources as the predictor reads them, and targets, to be scored: what `run.score` does."""
        ...

    def measure(
        self,
        how: TextMetrics,
        records: Iterable[Record],
        predictions: Sequence[str] | None,
        sums: Mapping[str, float],
    ) -> dict[str, float | str]:
        """The metrics of some examples. Args: predictions: None if there are none; sums: what `evaluation` gave."""
        ...

    def pictures(self, records: Iterable[Record], predictions: Sequence[str]) -> Mapping[str, Callable[[Path], None]]:
        """What there is to draw of predictions, by name, each a function that draws it into a file of a run directory's
        folder: which labels were taken for which, say."""
        ...
