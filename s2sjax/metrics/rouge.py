"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin 2004, "ROUGE: A package for automatic evaluation of summaries").

Scores are those of the package rouge-score 0.1.2 without its stemmer, for which `tokenize` is "ascii". That cuts a text
into runs of a-z and 0-9 and drops all else: of "schön" remain "sch" and "n", of Chinese nothing. "unicode" keeps
letters, marks and digits of every script; where a script puts no spaces between words, each letter is a token.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from s2sjax.metrics.names import ROUGE
from s2sjax.metrics.scripts import spaceless_script

_ASCII = re.compile("[a-z0-9]+")


class Overlap(NamedTuple):
    """What a hypothesis shares with a reference, each in 0..1."""

    precision: float
    recall: float
    f1: float


def rouge(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    names: Sequence[str] = ROUGE,
    *,
    tokenize: str = "ascii",
) -> dict[str, float]:
    """The mean F1 over all texts, in percent, for each of `names`.

    Of several references of a text, the one with the greatest F1 counts, for each kind of ROUGE by itself, as in
    rouge-score's `score_multi`; there is no jackknifing.
    """
    scores: dict[str, list[float]] = {name: [] for name in names}
    for hypothesis, several in zip(hypotheses, references, strict=True):
        found = [rouge_overlaps(hypothesis, reference, names, tokenize=tokenize) for reference in several]
        for name in names:
            scores[name].append(max(overlaps[name].f1 for overlaps in found))
    # fsum: the order of the texts must not show.
    return {name: 100 * math.fsum(values) / len(values) for name, values in scores.items()}


def rouge_overlaps(
    hypothesis: str, reference: str, names: Sequence[str] = ROUGE, *, tokenize: str = "ascii"
) -> dict[str, Overlap]:
    """Precision, recall and F1 of one text. ROUGE-Lsum takes each line for a sentence."""
    ours, theirs = rouge_tokens(hypothesis, tokenize), rouge_tokens(reference, tokenize)
    found: dict[str, Overlap] = {}
    for name in names:
        match name:
            case "rouge1" | "rouge2":
                shared = _ngrams(ours, int(name[-1])) & _ngrams(theirs, int(name[-1]))
                less = int(name[-1]) - 1
                found[name] = _overlap(shared.total(), len(ours) - less, len(theirs) - less)
            case "rougeL":
                found[name] = _overlap(_lcs_rows(theirs, ours)[-1].bit_count(), len(ours), len(theirs))
            case "rougeLsum":
                lines = ([rouge_tokens(line, tokenize) for line in t.split("\n")] for t in (reference, hypothesis))
                found[name] = _overlap(_union_hits(*lines), len(ours), len(theirs))
            case _:
                raise ValueError(f"no kind of ROUGE is called {name!r}")
    return found


def _overlap(shared: int, ours: int, theirs: int) -> Overlap:
    """Args: ours, theirs: units of the hypothesis and of the reference."""
    precision, recall = shared / max(ours, 1), shared / max(theirs, 1)
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall) if shared else 0.0)


def _ascii_tokens(text: str) -> list[str]:
    return _ASCII.findall(text.lower())


def _unicode_tokens(text: str) -> list[str]:
    parts, alone = [], False
    for character in text.lower():
        kind = unicodedata.category(character)[0]
        if kind in "LN":
            before, alone = alone, spaceless_script(character) is not None
            parts.append(f" {character}" if alone or before else character)
        elif kind == "M":  # belongs to what it stands on
            parts.append(character)
        else:
            parts.append(" ")
            alone = False
    return "".join(parts).split()


def rouge_tokens(text: str, tokenize: str) -> list[str]:
    """The units that n-grams and subsequences are made of. Args: tokenize: one of `ROUGE_TOKENIZERS`."""
    return {"ascii": _ascii_tokens, "unicode": _unicode_tokens}[tokenize](text)


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _union_hits(reference: Sequence[Sequence[str]], hypothesis: Sequence[Sequence[str]]) -> int:
    """Tokens of the reference's sentences that are in a longest common subsequence with any of the hypothesis's, each
    token of either text counted once (Lin 2004, section 3.2, and the program ROUGE-1.5.5)."""
    left = [Counter(token for sentence in text for token in sentence) for text in (reference, hypothesis)]
    hits = 0
    for sentence in reference:
        union = set().union(*(_lcs_places(sentence, other) for other in hypothesis))
        for place in sorted(union):
            token = sentence[place]
            if left[0][token] > 0 and left[1][token] > 0:
                hits += 1
                left[0][token] -= 1
                left[1][token] -= 1
    return hits


def _lcs_places(reference: Sequence[str], other: Sequence[str]) -> list[int]:
    """Which of the reference's tokens are in the longest common subsequence that rouge-score takes, of several."""
    rows = _lcs_rows(reference, other)

    def length(i: int, j: int) -> int:
        return (rows[i] & ((1 << j) - 1)).bit_count()

    i, j, places = len(reference), len(other), []
    while i and j:
        if reference[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif length(i, j - 1) > length(i - 1, j):
            j -= 1
        else:
            i -= 1
    return places


def _lcs_rows(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """The table of lengths of longest common subsequences, a row for each beginning of `a`: the beginning of `b` with
    `j` tokens has as many tokens in common with it as its row has bits set below bit `j`.

    A row is computed in the bits of one integer (Hyyro 2004, "Bit-parallel LCS-length computation revisited").
    """
    places: dict[str, int] = {}
    for j, token in enumerate(b):
        places[token] = places.get(token, 0) | 1 << j
    whole = (1 << len(b)) - 1
    free, rows = whole, [0]  # free: the bits that are not set in a row
    for token in a:
        match = free & places.get(token, 0)
        free = ((free + match) | (free - match)) & whole
        rows.append(whole & ~free)
    return rows
