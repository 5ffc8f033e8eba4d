"""What of a text its vocabulary lacks: characters, or words, that a model only sees as unknown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from s2sjax.data.tokenizer import Tokenizer
from s2sjax.data.units import SPECIALS
from s2sjax.vocabulary import UNK


@dataclass(frozen=True)
class Unknown:
    """What the vocabulary lacks of some texts. Adding two gives that of all of their texts.

    Attributes:
      counts: how often each unknown character or word stands there.
      texts: how many of the texts hold any, of how many (`of`).
      units: "characters" or "words".
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    texts: int = 0
    of: int = 0
    units: str = "characters"

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __add__(self, other: "Unknown") -> "Unknown":
        counts = Counter(self.counts) + Counter(other.counts)
        return Unknown(counts, self.texts + other.texts, self.of + other.of, (self if self else other).units)

    def sentence(self, what: str) -> str:
        """For the user. Args: what: of what there are so many, such as "sources"."""
        counts = Counter(self.counts)
        shown = ", ".join(f"{unit!r} ({count:,})" for unit, count in counts.most_common(5))
        return (
            f"{self.texts:,} of {self.of:,} {what} hold {self.units} that the vocabulary lacks, {counts.total():,} in "
            f"all, and they are read as unknown: {shown}" + (", ..." if len(counts) > 5 else "")
        )


def unknown_in(tokenizer: Tokenizer, texts: Sequence[str], rows: Sequence[np.ndarray] | None = None) -> Unknown:
    """Counts what of the texts becomes an unknown token. Where none does, it costs little beside tokenising.

    Args:
      rows: `tokenizer.encode(texts)`, if it is there already; more tokens after them change nothing.
    """
    rows = tokenizer.encode(list(texts)) if rows is None else rows
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    # Which text each unknown token is of, by one look at all tokens.
    places = np.flatnonzero(np.concatenate([np.zeros(0, np.int32), *rows]) == UNK)
    holders = np.unique(np.searchsorted(np.cumsum(lengths), places, side="right"))
    words = tokenizer.kind == "word"
    counts: Counter[str] = Counter()
    held = 0
    for number in holders.tolist():
        text = texts[number]
        spans = tokenizer.encode_spans(text)
        found = [text[begin:end] for begin, end in spans[np.asarray(rows[number])[: len(spans)] == UNK]]
        # A corpus with a closed vocabulary spells unknown words "<unk>": that is what they are.
        found = [word for word in found if word != SPECIALS[UNK]] if words else list("".join(found))
        counts.update(found)
        held += bool(found)
    return Unknown(counts, held, len(texts), "words" if words else "characters")
