"""Language modelling: plain text, read in windows where it is long, and gone on with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from s2sjax import models
from s2sjax.api import Traits
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.records import Record
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.windows import windowed
from s2sjax.errors import UserError
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.translator import Translator
from s2sjax.metrics.names import LIKELIHOOD_METRICS, PLAIN_TEXT_DEFAULT, TEXT_METRICS
from s2sjax.task import Limits, Pairs, Rows, Trained
from s2sjax.tasks._tokens import TokenTask, check_writes_text, request_format, search


@dataclass(frozen=True)
class Language(TokenTask):
    """Each record is a text, all of whose tokens are predicted."""

    name: ClassVar[str] = "language"
    conditional: ClassVar[bool] = False
    default_metrics: ClassVar[tuple[str, ...]] = PLAIN_TEXT_DEFAULT
    defaults: ClassVar[Mapping[str, Any]] = {"data.source": "", "evaluate.decode": False}

    def check(self, data: DataConfig, tokenizer: TokenizerConfig, family: str, traits: Traits) -> None:
        check_writes_text(family, traits, models.language_models())
        if not traits.language_model:
            raise UserError(
                f"config.data.source is empty, and config.model.name={family} needs sources; name one, or "
                f"choose a language model: {', '.join(models.language_models())}"
            )
        if not tokenizer.joint:
            raise UserError("config.data.source is empty, so there is one vocabulary: set config.tokenizer.joint=True")

    def check_evaluation(self, decode: bool, metrics: Sequence[str]) -> None:
        if decode:
            raise UserError(
                "config.data.source is empty: a language model's text has no sources whose translations could be "
                "compared; set config.evaluate.decode=False"
            )
        compared = [name for name in metrics if name in TEXT_METRICS]
        if compared:
            raise UserError(
                f"config.data.source is empty: a language model's text has nothing to compare with, so there is no "
                f"{compared[0]} of it; config.evaluate.metrics and config.checkpoint.metric may name "
                f"{', '.join(LIKELIHOOD_METRICS)}"
            )

    def longest(self, data: DataConfig, batching: BatchingConfig) -> tuple[int, int]:
        return 0, data.context or batching.max_target_length

    def positions(
        self, data: DataConfig, batching: BatchingConfig, tokenizer: TokenizerConfig, *, one_sequence: bool
    ) -> int:
        # Sampled segmentations may be longer than a window, up to the limit.
        return batching.max_target_length if tokenizer.sampled_sides else self.longest(data, batching)[1]

    def arrange(self, examples: Examples, data: DataConfig, *, evaluation: bool = False) -> Examples:
        return windowed(examples, data, evaluation=evaluation)

    def predictor(
        self, trained: Trained, data: DataConfig, decode: DecodeConfig, limits: Sequence[Limits], mesh: Mesh
    ) -> Translator:
        return search(trained, decode, request_format(data, limits, continues=True), mesh)

    def question(self, record: Record) -> Record:
        """The first half of a text's words, and how it goes on."""
        words = record["target"].split(" ")
        middle = (len(words) + 1) // 2
        return {"source": " ".join(words[:middle]), "target": " ".join(words[middle:])}

    def pairs(self, sources: Rows, targets: Rows) -> Pairs:
        """One text of both, whose first part is only read."""
        sources = [row[1:] for row in sources]  # without begin-of-sentence, which targets get anyway
        given = np.array([len(row) for row in sources], np.int32)
        whole = [np.concatenate(rows) for rows in zip(sources, targets, strict=True)]
        return Pairs([np.zeros(0, np.int32)] * len(whole), whole, given)


TASK = Language
