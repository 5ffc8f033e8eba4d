"""What of a text its vocabulary lacks: characters, or words, that a model only sees as unknown."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from s2sjax.data.tokenizer import Tokenizer
from s2sjax.data.units import SPECIALS
from s2sjax.plural import counted
from s2sjax.vocabulary import UNK

_UNITS = {"word": "words", "tag": "tags", "label": "labels"}
_CHUNK = 1 << 14  # texts looked at in one go


@dataclass(frozen=True)
class Unknown:
    """What the vocabulary lacks of some texts. Adding two gives that of all of their texts.

    Attributes:
      counts: how often each unknown character or word stands there.
      texts: how many of the texts hold any, of how many (`of`).
      units: "characters", "words", "tags" or "labels".
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    texts: int = 0
    of: int = 0
    units: str = "characters"

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __add__(self, other: "Unknown") -> "Unknown":
        counts = Counter(self.counts) + Counter(other.counts)
        return Unknown(dict(counts), self.texts + other.texts, self.of + other.of, (self if self else other).units)

    def sentence(self, thing: str, where: str = "") -> str:
        """For the user. Args: thing: one of the texts, such as "source". where: which they are, after that."""
        counts = Counter(self.counts)
        shown = ", ".join(f"{unit!r} ({count:,})" for unit, count in counts.most_common(5))
        return (
            f"{self.texts:,} of {counted(self.of, thing)}{where} hold{'s' * (self.of == 1)} {self.units} that the "
            f"vocabulary lacks, {counts.total():,} in all, and they are read as unknown: {shown}"
            + (", ..." if len(counts) > 5 else "")
        )


def unknown_in(tokenizer: Tokenizer, texts: Sequence[str], rows: Sequence[np.ndarray] | None = None) -> Unknown:
    """Counts what of the texts becomes an unknown token. Where none does, it costs little beside tokenising.

    Args:
      rows: `tokenizer.encode(texts)`, if it is there already; more tokens after them change nothing.
    """
    rows = tokenizer.encode(list(texts)) if rows is None else rows
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    words, unk = tokenizer.kind in ("word", "tag"), tokenizer.vocabulary.unk
    # Which text each unknown token is of, by one look at all tokens.
    places = np.flatnonzero(np.concatenate([np.zeros(0, np.int32), *rows]) == unk)
    holders = np.unique(np.searchsorted(np.cumsum(lengths), places, side="right"))
    counts: Counter[str] = Counter()
    held = 0
    for number in holders.tolist():
        text = texts[number]
        if tokenizer.kind == "label":
            found = [text.strip()]
        elif words:
            # A corpus with a closed vocabulary spells unknown words "<unk>": that is what they are.
            pairs = zip(text.split(), rows[number].tolist(), strict=False)
            found = [word for word, token in pairs if token == unk and word != SPECIALS[UNK]]
        else:
            spans = tokenizer.encode_spans(text)
            found = list("".join(text[b:e] for b, e in spans[np.asarray(rows[number])[: len(spans)] == unk]))
        counts.update(found)
        held += bool(found)
    return Unknown(dict(counts), held, len(texts), _UNITS.get(tokenizer.kind, "characters"))


def unknown_of(tokenizer: Tokenizer, unknown: np.ndarray, of: int, text: Callable[[int], str]) -> Unknown:
    """The same for `of` texts that are tokenised already: only those that hold an unknown token are read again.

    Args:
      unknown: the numbers of those.
      text: gives the text of a number.
    """
    total = Unknown(of=of)
    for begin in range(0, len(unknown), _CHUNK):
        texts = [text(number) for number in unknown[begin : begin + _CHUNK].tolist()]
        total += replace(unknown_in(tokenizer, texts), of=0)
    return total
