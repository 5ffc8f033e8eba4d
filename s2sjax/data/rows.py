"""How texts stand in rows of tokens: in which order, and what a row ends with."""

from dataclasses import dataclass

import numpy as np

from s2sjax.data.labels import LABEL_KINDS
from s2sjax.data.tokenizer import Tokenizer
from s2sjax.errors import UserError


@dataclass(frozen=True)
class RowFormat:
    """How the rows of a task stand.

    Attributes:
      right_to_left: a target stands from its last token to its first. Sources stand as they are read.
      line_ends: a row ends with a line end, which is a token of the vocabulary; else with end-of-sentence.
    """

    right_to_left: bool = False
    line_ends: bool = False

    def end(self, tokenizer: Tokenizer) -> int | None:
        """The token that rows of this tokenizer end with; None for labels, which are rows without an end.

        Raises:
          UserError: the vocabulary has no line end.
        """
        if tokenizer.kind in LABEL_KINDS:
            return None
        if not self.line_ends:
            return tokenizer.vocabulary.end
        (ids,) = tokenizer.encode(["\n"])
        if len(ids) != 1 or ids[0] == tokenizer.vocabulary.unk:
            raise UserError(
                "config.task.keep_line_ends needs a vocabulary in which a line end is one token: learn one of kind "
                "char, byte, unigram or bpe; or train a model with spm_train --user_defined_symbols=$'\\n' "
                "--add_dummy_prefix=false"
            )
        return int(ids[0])

    def turned(self, row: np.ndarray) -> np.ndarray:
        """A target in reading order as it stands, `[T, ...]`, and the other way round."""
        return turn_round(row) if self.right_to_left else row


PLAIN_ROWS = RowFormat()
"""In reading order, each with its end-of-sentence."""


def turn_round(row: np.ndarray) -> np.ndarray:
    """A target from its last token to its first and back, `[T, ...]`: its end-of-sentence, the last, stays the last."""
    return np.concatenate([row[:-1][::-1], row[-1:]])
