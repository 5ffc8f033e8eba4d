"""Language modelling: plain text, read in windows where it is long, and gone on with."""

import dataclasses
import math
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
from s2sjax.data.rows import RowFormat
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.windows import Windows, windowed
from s2sjax.errors import UserError
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.rerank import Kind
from s2sjax.inference.search_size import SearchSize
from s2sjax.inference.translator import Translator
from s2sjax.metrics.names import LIKELIHOOD_METRICS, PLAIN_TEXT_DEFAULT, TEXT_METRICS
from s2sjax.plural import counted
from s2sjax.ports import Ports, Tokens
from s2sjax.task import Limits, Pairs, Rows, Trained
from s2sjax.tasks._tokens import TokenTask, check_writes_text, request_format, search
from s2sjax.vocabulary import Vocabulary, check_one_vocabulary

_NO_SOURCE = "config.task.name is 'language' (config.data.source is empty)"
MOST_OVERLAP = 64
"""Windows of a text that the same token is read in."""


@dataclass(frozen=True)
class Language(TokenTask):
    """Each record is a text, all of whose tokens are predicted.

    Attributes:
      join: the examples of a split are one running text, in order.
      keep_line_ends: in a joined text, a line end is a character of the vocabulary, so that a model that goes on with a
        text writes lines. Otherwise each line ends with end-of-sentence.
      context: most tokens of an example; longer ones are cut into windows whose first token is only read, so that each
        token is predicted once (0: not cut).
      stride: tokens predicted in a window of evaluation; those before them in the window are only read (0: as many as
        possible, context - 1). The smaller, the more context every token has and the longer evaluation takes.
    """

    name: ClassVar[str] = "language"
    columns: ClassVar[tuple[str, ...]] = ("target",)
    offers: ClassVar[tuple[str, ...]] = ("score", "rerank", "tag")
    judges: ClassVar[tuple[Kind, ...]] = (Kind.LANGUAGE_MODEL,)
    default_metrics: ClassVar[tuple[str, ...]] = PLAIN_TEXT_DEFAULT
    defaults: ClassVar[Mapping[str, Any]] = {"data.source": "", "evaluate.decode": False}

    join: bool = False
    keep_line_ends: bool = False
    context: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.context < 0 or self.context == 1 or not 0 <= self.stride < max(self.context, 1):
            raise UserError(
                f"config.task.context is {self.context} and config.task.stride {self.stride}; expected a context of 0 "
                "or at least 2, and a stride below it"
            )
        if self.join and not self.context:
            raise UserError(
                "config.task.join makes one text of a split: set config.task.context, the tokens of a window"
            )
        if self.keep_line_ends and not self.join:
            raise UserError(
                "config.task.keep_line_ends is for a joined text, whose lines follow each other: set config.task.join, "
                "or leave it out"
            )

    @property
    def windows(self) -> Windows:
        return Windows(self.context, self.join, self.stride)

    @property
    def rows(self) -> RowFormat:
        return RowFormat(line_ends=self.keep_line_ends)

    def check(
        self, data: DataConfig, batching: BatchingConfig, tokenizer: TokenizerConfig, family: str, traits: Traits
    ) -> None:
        if data.source:
            raise UserError(
                f"config.task.name is 'language', but config.data.source is {data.source!r}, and plain text has none: "
                "set config.data.source='', or config.task.name=text"
            )
        if self.context > batching.max_target_length:
            raise UserError(
                f"config.task.context is {self.context}, but examples of over "
                f"{counted(batching.max_target_length, 'token')} are left out; raise config.batching.max_target_length "
                "to it"
            )
        needed = math.ceil(self.context * tokenizer.sampling_slack)
        if "target" in tokenizer.sampled_sides and self.context and batching.max_target_length < needed:
            raise UserError(
                f"config.tokenizer.sampling is '{tokenizer.sampling}', and windows of "
                f"{counted(self.context, 'token')} (config.task.context) need room for samples that are longer: set "
                f"config.batching.max_target_length={needed}"
            )
        check_writes_text(family, traits, models.language_models())
        if not traits.language_model:
            raise UserError(
                f"{_NO_SOURCE}, and config.model.name={family} needs sources; name one, with "
                f"config.task.name=text, or choose a language model: {', '.join(models.language_models())}"
            )
        if not tokenizer.joint:
            raise UserError(f"{_NO_SOURCE}, so there is one vocabulary: set config.tokenizer.joint=True")

    def check_evaluation(self, decode: bool, metrics: Sequence[str]) -> None:
        if decode:
            raise UserError(
                f"{_NO_SOURCE}: a language model's text has no sources whose translations could be "
                "compared; set config.evaluate.decode=False"
            )
        compared = [name for name in metrics if name in TEXT_METRICS]
        if compared:
            raise UserError(
                f"{_NO_SOURCE}: a language model's text has nothing to compare with, so there is no "
                f"{compared[0]} of it; config.evaluate.metrics and config.checkpoint.metric may name "
                f"{', '.join(LIKELIHOOD_METRICS)}"
            )

    def costly(self) -> Mapping[str, str]:
        if self.context > MOST_OVERLAP * (self.stride or self.context):
            return {"stride": f"windows that have more than {MOST_OVERLAP} in common"}
        return {}

    def ports(self, source: Vocabulary, target: Vocabulary) -> Ports:
        """Raises: UserError: texts and what they go on from are of two vocabularies."""
        check_one_vocabulary(source.size, target.size)
        return Ports(None, Tokens(target.size, target.start))

    def longest(self, batching: BatchingConfig) -> tuple[int, int]:
        return 0, self.context or batching.max_target_length

    def positions(self, batching: BatchingConfig, tokenizer: TokenizerConfig, *, one_sequence: bool) -> int:
        # Sampled segmentations may be longer than a window, up to the limit.
        return batching.max_target_length if tokenizer.sampled_sides else self.longest(batching)[1]

    def arrange(self, examples: Examples, *, evaluation: bool = False) -> Examples:
        return windowed(examples, self.windows, evaluation=evaluation)

    def search_size(self, decode: DecodeConfig) -> SearchSize | None:
        size = SearchSize.of(decode)
        if self.join and size.max_new_tokens:  # drawn window by window
            size = dataclasses.replace(size, max_new_tokens=min(size.max_new_tokens, self.context))
        return size

    def predictor(
        self, trained: Trained, data: DataConfig, decode: DecodeConfig, limits: Sequence[Limits], mesh: Mesh
    ) -> Translator:
        joined = self.context if self.join else 0
        return search(trained, decode, request_format(data, limits, self.rows, continues=True, joined=joined), mesh)

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
