"""What is asked of outputs, as tokens: what they begin with, what they contain, what there is to choose from."""

import functools
from collections.abc import Sequence

import numpy as np

from s2sjax.data.tokenizer import Tokenizer
from s2sjax.decode.constraints import Trie, build_tries
from s2sjax.errors import UserError
from s2sjax.plural import counted


class AskedTokens:
    """Texts as the tokens that outputs are made of, in the order in which a model writes them.

    Args:
        room: tokens of the longest output, end-of-sentence counted. What has no room there is refused.
        right_to_left: the last token is written first.
    """

    def __init__(self, tokenizer: Tokenizer, room: int, *, right_to_left: bool) -> None:
        self._tokenizer, self._room, self._right_to_left = tokenizer, room, right_to_left

    def prefixes(self, texts: Sequence[str]) -> list[np.ndarray]:
        """What the output of each source begins with."""
        if self._right_to_left:
            raise UserError(
                "an output cannot be given its beginning: with config.task.target_order='right_to_left' this run "
                "writes the last token first, and a prefix would be a suffix; decode without prefixes, or with a run "
                "that writes left to right"
            )
        rows = self._tokens(texts)
        self._check_room("a prefix", rows)
        return rows

    def phrases(self, groups: Sequence[Sequence[str]]) -> list[list[np.ndarray]]:
        """What the output of each source contains; blank phrases are none."""
        listed = [self._tokens([text for text in texts if text.strip()]) for texts in groups]
        self._check_room("phrases of one source", [np.concatenate(rows) for rows in listed if rows])
        return listed

    @functools.lru_cache(maxsize=1)  # noqa: B019 - it lives as long as the translator, and reads no other
    def choices(self, texts: tuple[str, ...]) -> tuple[Trie, int]:
        """A trie of texts, blank ones left out, and the tokens of the longest."""
        rows = self._tokens([text for text in texts if text.strip()])
        if not rows:
            raise UserError("there is nothing to choose from: all choices are blank")
        self._check_room("a choice", rows)
        vocabulary = self._tokenizer.vocabulary
        trie = build_tries([[row.tolist() for row in rows]], vocabulary.size, vocabulary.ends)
        return trie, max(map(len, rows))

    def _tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self._tokenizer.encode(list(texts))
        for text, row in zip(texts, encoded, strict=True):
            if self._tokenizer.vocabulary.unk in row:
                raise UserError(
                    f"'{text[:80]}' cannot be asked for: this run's vocabulary has not all of its characters"
                )
        return [row[::-1] for row in encoded] if self._right_to_left else encoded

    def _check_room(self, what: str, rows: Sequence[np.ndarray]) -> None:
        longest = max(rows, key=len, default=())
        if len(longest) >= self._room:  # end-of-sentence comes after it
            begin = self._tokenizer.decode(longest[:20])
            raise UserError(
                f"{what} cannot have {counted(len(longest), 'token')} ('{begin}...'): the longest output has "
                f"{self._room}, with "
                "end-of-sentence; leave it out, or raise config.decode.max_length_factor or max_length_offset (where "
                "positions are learned, config.model.max_positions bounds it)"
            )
