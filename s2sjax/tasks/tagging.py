"""Tagging: a label for each token of a text (parts of speech, names, slots).

Families that label what they read can do it: tag p stands where token p is read. Sources and tags are cut at white
space, so a text of n words has n tags with spaces between them; with `tokenizer.kind=char` each character has one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from s2sjax import models
from s2sjax.api import Traits
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.records import Record
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.metrics.labels import span_f1
from s2sjax.metrics.measure import references_of
from s2sjax.metrics.names import TAG_METRICS
from s2sjax.metrics.text import TextMetrics
from s2sjax.plural import counted
from s2sjax.task import Pairs, Rows
from s2sjax.tasks._labels import LabelTask


@dataclass(frozen=True)
class Tagging(LabelTask):
    """Each record is a source and its tags between white space, one for each of its tokens."""

    name: ClassVar[str] = "tagging"
    default_metrics: ClassVar[tuple[str, ...]] = TAG_METRICS
    defaults: ClassVar[Mapping[str, Any]] = {"tokenizer.kind": "word"}
    offers: ClassVar[tuple[str, ...]] = ("score", "rerank")
    labels: ClassVar[str] = "tag"

    def check(
        self, data: DataConfig, batching: BatchingConfig, tokenizer: TokenizerConfig, family: str, traits: Traits
    ) -> None:
        self.check_data(data)
        if not traits.writes_in_place:
            raise UserError(
                f"config.task.name is 'tagging', but config.model.name={family} writes a sequence of its own: choose "
                f"{' or '.join(name for name in models.families() if models.family(name).TRAITS.writes_in_place)}"
            )
        if tokenizer.kind not in ("word", "char") or tokenizer.source_model:
            raise UserError(
                f"config.tokenizer.kind is '{tokenizer.kind}', but tags are of words or characters: set it to 'word' "
                "or 'char', without a source_model"
            )
        if data.prompt != "{source}":
            raise UserError(f"config.data.prompt is {data.prompt!r}, but its words have no tags: leave it out")

    def longest(self, batching: BatchingConfig) -> tuple[int, int]:
        return batching.max_source_length, batching.max_source_length

    def arrange(self, examples: Examples, *, evaluation: bool = False) -> Examples:
        """The same.

        Raises:
            UserError: an example has another number of tags than of tokens.
        """
        tokens, tags = examples["source"].lengths - 1, examples["target"].lengths  # without end-of-sentence
        wrong = np.flatnonzero(tokens != tags)
        if len(wrong):
            first = int(wrong[0])
            raise UserError(
                f"{len(wrong):,} of {counted(len(tags), 'example')} have another number of tags than of tokens, the "
                f"first of them number {first + 1} with {counted(int(tags[first]), 'tag')} for "
                f"{counted(int(tokens[first]), 'token')}: give each token one tag, with a space between two"
            )
        return examples

    def pairs(self, sources: Rows, targets: Rows) -> Pairs:
        """Raises: UserError: a target has more tags than its source has tokens."""
        for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
            if len(target) > len(source) - 1:
                raise UserError(
                    f"target {number + 1} has {counted(len(target), 'tag')}, but of its source "
                    f"{counted(len(source) - 1, 'token')} can be read: give one tag for each"
                )
        return Pairs(sources, targets, None)

    def measure(
        self,
        how: TextMetrics,
        records: Iterable[Record],
        predictions: Sequence[str] | None,
        sums: Mapping[str, float],
    ) -> dict[str, float | str]:
        """As of all labels; and `span_f1` of what the tags mark."""
        found = super().measure(how, records, predictions, sums)
        if predictions is not None:
            found["span_f1"] = span_f1(*_rows(records, predictions))
        return {name: found[name] for name in how.names if name in found}

    def compared(self, records: Iterable[Record], predictions: Sequence[str]) -> tuple[list[str], list[str]]:
        """Words that were not read, because their source was cut, have no tag, which counts as wrong."""
        ours, theirs = _rows(records, predictions)
        return [tag for row in ours for tag in row], [tag for row in theirs for tag in row]


def _rows(records: Iterable[Record], predictions: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """The tags of each record as predicted, "" where there is none, and as they are right."""
    right = [references_of(record)[0].split() for record in records]
    ours = [text.split() for text in predictions]
    return [row + [""] * (len(tags) - len(row)) for row, tags in zip(ours, right, strict=True)], right


TASK = Tagging
