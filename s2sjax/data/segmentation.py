"""Sampled segmentation: what is trained on is cut into other pieces of the vocabulary in every epoch.

The plan of batches knows nothing of the draws. It is made on the usual lengths times `tokenizer.sampling_slack`, and
when a batch is filled, an example's sample takes the place of its usual pieces if its row has room. Draws depend on the
seed, the epoch, the example and the side only, so batch `i` stays a function of `i`, in any process and after a resume.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Column, Examples
from s2sjax.data.plan import PlannedBatch
from s2sjax.data.rows import PLAIN_ROWS, RowFormat
from s2sjax.data.subwords import BpeDropout, Draw, Pieces, UnigramSampling
from s2sjax.data.tokenizer import Tokenizer, TokenizerPair
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError


def planned_lengths(
    source: np.ndarray, target: np.ndarray, batching: BatchingConfig, tokenizer: TokenizerConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths to plan training batches with: of sides that are sampled with room for longer samples, within limits.

    Args:
        source, target: tokens of each example as it is usually cut, end-of-sentence counted.
    """

    def planned(lengths: np.ndarray, most: int) -> np.ndarray:
        return np.maximum(lengths, np.minimum(np.ceil(lengths * tokenizer.sampling_slack), most).astype(lengths.dtype))

    if "source" in tokenizer.sampled_sides:
        source = planned(source, batching.max_source_length)
    if "target" in tokenizer.sampled_sides:
        target = planned(target, batching.max_target_length)
    return source, target


def sampled_segmentation(
    rows: RowFormat, batching: BatchingConfig, config: TokenizerConfig, tokenizers: TokenizerPair, seed: int
) -> "Segmentation | None":
    """What draws the training data's segmentations; None if they are not sampled.

    Raises:
        UserError: a tokenizer has only one segmentation.
    """
    sides: dict[str, _Side] = {}
    longest = {"source": batching.max_source_length, "target": batching.max_target_length}
    for side in config.sampled_sides:
        if side == "target" and "source" in sides and tokenizers.joint:
            pieces, draw = sides["source"].pieces, sides["source"].draw
        else:
            pieces, draw = _draw_of(getattr(tokenizers, side), config, side)
        stand = rows if side == "target" else PLAIN_ROWS
        sides[side] = _Side(f"{seed} {side}", pieces, draw, longest[side], stand)
    return Segmentation(sides) if sides else None


def _draw_of(tokenizer: Tokenizer, config: TokenizerConfig, side: str) -> tuple[Pieces, Draw]:
    kind = tokenizer.kind
    if kind == "sentencepiece":
        pieces = Pieces(tokenizer.to_bytes())
        if not np.isfinite(pieces.scores).all():
            raise UserError(
                f"the {side}'s SentencePiece model has a score that is no number; restore it, or take another"
            )
        kind = pieces.kind
        if kind == "bpe":
            return pieces, BpeDropout(pieces, config.bpe_dropout)
        if kind == "unigram":
            return pieces, UnigramSampling(pieces, config.sampling_alpha)
    raise UserError(
        f"config.tokenizer.sampling is '{config.sampling}', but the {side}'s tokenizer is of kind {kind}, and only bpe "
        "and unigram cut a text in several ways; sample the other side alone, or set config.tokenizer.sampling=none"
    )


class Segmentation:
    """Draws of the examples of a batch. It keeps what it has worked out of words, and otherwise has no state."""

    def __init__(self, sides: Mapping[str, "_Side"]) -> None:
        self._sides = sides

    def __call__(self, split: Examples, planned: PlannedBatch, examples: np.ndarray, rows: np.ndarray) -> Examples:
        """Some examples of a planned batch, cut anew.

        A sample is used if its row has room for it and for the other examples of the row, those before it as they are
        by now, those after it as they are usually cut.

        Args:
            examples, rows: which examples, and in which rows of the batch they stand: whole rows, in order.

        Returns:
            These examples alone, in this order.
        """
        given = None if split.given is None else split.given[examples]
        keys = [f"{planned.epoch} {example}" for example in examples.tolist()]

        def cut(name: str, whole: Column, width: int) -> Column:
            usual = [whole[i] for i in examples.tolist()]
            if side := self._sides.get(name):
                usual = _fitting(usual, side.samples(usual, keys, given), rows, width)
            return Column.from_rows(usual)

        source = cut("source", split["source"], planned.shape.source)
        target = cut("target", split["target"], planned.shape.target)
        return Examples.of_pairs(source, target, given=given, start=split.start)


@dataclass(frozen=True)
class _Side:
    key: str
    """What the draws depend on, beside epoch and example."""
    pieces: Pieces
    draw: Draw
    longest: int
    stand: RowFormat
    """How the rows of this side stand."""

    def samples(
        self, usual: Sequence[np.ndarray], keys: Sequence[str], given: np.ndarray | None
    ) -> list[np.ndarray | None]:
        """Each row cut anew, None where that is over the length limit. The first `given` tokens of a row stay."""
        rows = Column.from_rows([self.stand.turned(row) for row in usual])
        starts, fixed = self.pieces.word_starts(rows.values), self.pieces.fixed[rows.values]
        if given is not None:
            position = np.arange(len(rows.values)) - np.repeat(rows.offsets[:-1], rows.lengths)
            kept = np.repeat(given, rows.lengths)
            fixed |= position < kept
            starts |= position == kept
        starts[rows.offsets[:-1][rows.lengths > 0]] = True
        bounds = np.flatnonzero(starts)
        first = np.searchsorted(bounds, rows.offsets).tolist()
        ends, stay, data = [*bounds.tolist(), len(rows.values)], fixed[bounds].tolist(), rows.values.tobytes()
        made: list[np.ndarray | None] = []
        for row, key in enumerate(keys):
            uniform = random.Random(f"{self.key} {key}").random
            words = []
            for word in range(first[row], first[row + 1]):
                ids = data[4 * ends[word] : 4 * ends[word + 1]]
                words.append(ids if stay[word] else self.draw(ids, uniform))
            sample = np.frombuffer(b"".join(words), np.int32)
            made.append(None if len(sample) > self.longest else self.stand.turned(sample))
        return made


def _fitting(
    usual: Sequence[np.ndarray], samples: Sequence[np.ndarray | None], rows: np.ndarray, width: int
) -> list[np.ndarray]:
    """Each sample that fits in its row of `width` tokens, and of the other examples what is usual."""
    lengths = np.fromiter(map(len, usual), np.int64, len(usual))
    room = (width - np.bincount(rows, lengths)).astype(int).tolist() if len(rows) else []
    made = []
    for row, before, sample in zip(rows.tolist(), usual, samples, strict=True):
        fits = sample is not None and len(sample) - len(before) <= room[row]
        chosen = sample if fits and sample is not None else before
        room[row] -= len(chosen) - len(before)
        made.append(chosen)
    return made
