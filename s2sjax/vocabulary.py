"""A vocabulary as a value that travels with its tokenizer; and whether source and target share one."""

from dataclasses import dataclass

from s2sjax.errors import UserError
from s2sjax.plural import counted

PAD, UNK, BOS, EOS = 0, 1, 2, 3
"""The special ids of every vocabulary that is learned here; one that is given may have others."""

FILL = 0
"""Stands in arrays where there is no token. It is a token of every vocabulary, and may mean something else, too: what
is padding is said by lengths, segments and masks, and never by a number."""


@dataclass(frozen=True)
class Vocabulary:
    """How many tokens there are, and which of them are special.

    Attributes:
      size: V: ids are 0 to V - 1.
      pad: A token that is in no text and that search never writes; None if there is none. What of an array is padding
        is said by lengths, segments and masks, and never by this id.
      unk: Stands for what the vocabulary lacks; None if it lacks nothing.
      start: What a decoder reads before the first token of a target. It may be another special token, too.
      ends: End-of-sentence. A row of data ends with the first; search ends at any of them.

    Raises:
      UserError: an id is outside the vocabulary, there is no end, or padding is an end.
    """

    size: int
    pad: int | None
    unk: int | None
    start: int
    ends: tuple[int, ...]

    def __post_init__(self):
        if not self.ends:
            raise UserError("a vocabulary has no end-of-sentence, by which a text would end; give it at least one")
        check_ends(self.ends, self.pad)
        outside = [i for i in sorted(self.specials) if not 0 <= i < self.size]
        if outside:
            raise UserError(f"special id {outside[0]} is outside a vocabulary of {counted(self.size, 'token')}")

    @property
    def end(self) -> int:
        """The end-of-sentence that data is written with."""
        return self.ends[0]

    @property
    def specials(self) -> frozenset[int]:
        """All special ids."""
        return frozenset(i for i in (self.pad, self.unk, self.start, *self.ends) if i is not None)


def own_vocabulary(size: int) -> Vocabulary:
    """One that is learned here."""
    return Vocabulary(size, PAD, UNK, BOS, (EOS,))


def check_ends(ends: tuple[int, ...], pad: int | None) -> None:
    """Raise a `UserError` unless these are different token ids, from 0."""
    ids = (*ends, *(() if pad is None else (pad,)))
    if min(ids, default=0) < 0 or len(set(ids)) < len(ids):
        raise UserError(
            f"ends {ends} and pad {pad} must be different token ids, from 0; padding that is an end is None"
        )


def check_one_vocabulary(source: int, target: int) -> None:
    """Raise a `UserError` unless a language model's prompts and answers are of one vocabulary (sizes are compared)."""
    if source != target:
        raise UserError(
            f"a language model reads prompt and answer with one vocabulary, but there are two, of {source} and "
            f"{counted(target, 'entry')}; set config.tokenizer.joint=True"
        )
