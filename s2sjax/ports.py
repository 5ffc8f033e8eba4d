"""Ports: what stands at one position of what a model reads, and of what it writes.

A task says which it has (`task.Task.ports`), a family which it accepts (`api.Traits`), and a model is built for them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from s2sjax.errors import UserError
from s2sjax.plural import counted
from s2sjax.vocabulary import BOS, check_one_vocabulary


@dataclass(frozen=True)
class Tokens:
    """A token of a vocabulary, int32.

    Attributes:
      size: V: ids are 0 to V - 1.
      start: What a decoder reads before the first token of a target.
    """

    size: int
    start: int = BOS


@dataclass(frozen=True)
class Vectors:
    """A vector of numbers, float32: the features of a frame of sound, the variables of a time series.

    Attributes:
      width: W, how many numbers.

    Raises:
      UserError: there are none.
    """

    width: int

    def __post_init__(self):
        if self.width < 1:
            raise UserError(f"vectors of {counted(self.width, 'number')} say nothing: give them a width of 1 or more")


Port = Tokens | Vectors


class Ports(NamedTuple):
    """What a model reads and writes."""

    reads: Port | None
    """None: there is no source. A language model may still be given a prompt, of what it writes."""
    writes: Port


def check_prompts(reads: Tokens | None, writes: Tokens) -> None:
    """Raise a `UserError` unless a language model's prompts and answers are of one vocabulary (sizes are compared)."""
    if reads is not None:
        check_one_vocabulary(reads.size, writes.size)


TIED = ("all", "decoder", "none")
"""Which embeddings may share one table: source, target and output projection; target and output projection; none."""


def check_tied(tied: str, reads: Port, writes: Tokens) -> None:
    """Raise a `UserError` if all embeddings are to be one table, and the source has none, or one of another size."""
    if tied != "all":
        return
    if not isinstance(reads, Tokens):
        raise UserError(
            "config.model.tied is 'all', but the source is vectors, which no table has: set config.model.tied=decoder"
        )
    if reads.size != writes.size:
        raise UserError(
            f"config.model.tied is 'all', but the vocabularies have {reads.size} and {counted(writes.size, 'entry')}; "
            "set config.model.tied=decoder, or config.tokenizer.joint=True where both are text"
        )


def check_copying(copy: bool, reads: Port, writes: Tokens) -> None:
    """Raise a `UserError` if words of a source are to be copied that are none, or of another vocabulary than the
    target's (sizes are compared)."""
    if not copy:
        return
    if not isinstance(reads, Tokens):
        raise UserError(
            "config.model.copy writes words of the source, but the source is vectors: set config.model.copy=False"
        )
    if reads.size != writes.size:
        raise UserError(
            f"config.model.copy writes words of the source, but the vocabularies have {reads.size} and "
            f"{counted(writes.size, 'entry')}; set config.tokenizer.joint=True or config.model.copy=False"
        )
