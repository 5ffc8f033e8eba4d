"""Minimum Bayes risk: how good each of several texts is expected to be if the right one is among them.

The text with the greatest expected utility is chosen, in place of the most probable one: Kumar and Byrne 2004, "Minimum
Bayes-risk decoding for statistical machine translation"; from samples, Eikema and Aziz 2020, arXiv:2005.10283, section
6. Utilities are in percent, of the texts as they are, cased and detokenised:

    chrf         chrF2 of sacreBLEU, characters up to 6-grams, no words: nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no
    bleu         sentence BLEU of sacreBLEU with effective order and exponential smoothing, the settings that it
                 recommends for single sentences: nrefs:1|case:mixed|eff:yes|smooth:exp, and words as one of
                 its tokenizers cuts them, 13a unless another is named
    exact_match  100 for the same text but for white space at the ends, else 0: it chooses the most probable text

A text's n-grams are found once; N x N utilities follow from how many any two share, which is one matrix product for
each order of n-grams.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from s2sjax.metrics.bleu import make_bleu

_CHRF_ORDERS, _CHRF_BETA = 6, 2
_BLEU_ORDERS = 4


def expected_utilities(
    texts: Sequence[str],
    utility: str = "chrf",
    probabilities: Sequence[float] | np.ndarray | None = None,
    *,
    bleu_tokenize: str = "13a",
) -> np.ndarray:
    """The utility of each text, expected over all of them as what may be right, itself included: float64 [N], percent.

    Rounded to nine decimals: a difference beyond them is the order of summation, and no reason to prefer a text.

    Args:
        texts: N of them; one that stands there twice counts twice, as a draw that came twice should.
        utility: one of `UTILITIES`.
        probabilities: of each text, summing to 1; None: all the same.
        bleu_tokenize: how the utility "bleu" cuts texts into words, one of `metrics.names.BLEU_TOKENIZERS`.
    """
    if not texts:
        return np.zeros(0)
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    numbers = np.array([distinct[text] for text in texts])
    weights = np.full(len(texts), 1 / len(texts)) if probabilities is None else probabilities
    mass = np.bincount(numbers, weights=weights, minlength=len(distinct))
    pairwise = functools.partial(pairwise_bleu, tokenize=bleu_tokenize) if utility == "bleu" else UTILITIES[utility]
    return np.round(pairwise(list(distinct)) @ mass, 9)[numbers]


def pairwise_chrf(texts: Sequence[str]) -> np.ndarray:
    """chrF2 of every text against every text as its reference, [N, N], percent (Popovic 2015).

    Orders of n-grams for which one of the two texts is too short are left out of the mean, as sacreBLEU does.
    """
    # White space goes as in sacreBLEU; surrogates that are no text must not end the whole file.
    rows = [np.frombuffer("".join(t.split()).encode("utf-32-le", "surrogatepass"), np.dtype("<u4")) for t in texts]
    precision, recall, orders = (np.zeros((len(texts), len(texts))) for _ in range(3))
    for shared, totals in _shared_ngrams(rows, _CHRF_ORDERS):
        precision += shared / np.maximum(totals, 1)[:, None]
        recall += shared / np.maximum(totals, 1)
        orders += (totals[:, None] > 0) & (totals > 0)
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    factor = _CHRF_BETA**2
    below = factor * precision + recall
    return 100 * (1 + factor) * precision * recall / np.where(below > 0, below, 1)


def pairwise_bleu(texts: Sequence[str], *, tokenize: str = "13a") -> np.ndarray:
    """Sentence BLEU of every text against every text as its reference, [N, N], percent.

    Effective order: n-grams longer than the text are left out of the mean. Smoothing: an order without a match counts
    1/2 of one, the next 1/4, and so on (Chen and Cherry 2014, method 3); without any match at all BLEU is 0.
    """
    cut, words = _bleu_tokenizer(tokenize), {}  # type: ignore[var-annotated]
    rows = [np.array([words.setdefault(w, len(words)) for w in cut(t.rstrip()).split()], np.int64) for t in texts]
    lengths = np.array([len(row) for row in rows])
    logs, misses = np.zeros((len(texts), len(texts))), np.zeros((len(texts), len(texts)))
    matches = np.zeros((len(texts), len(texts)), bool)
    orders = np.clip(lengths, 1, _BLEU_ORDERS)
    for shared, totals in _shared_ngrams(rows, _BLEU_ORDERS):
        long_enough = totals > 0
        misses += long_enough[:, None] & (shared == 0)
        counted = np.where(shared > 0, shared, 0.5**misses) / np.maximum(totals, 1)[:, None]
        logs += np.where(long_enough[:, None], np.log(counted), 0)
        matches |= shared > 0
    brevity = np.minimum(0, 1 - lengths / np.maximum(lengths, 1)[:, None])
    return np.where(matches, 100 * np.exp(brevity + logs / orders[:, None]), 0)


@functools.lru_cache(maxsize=1)
def _bleu_tokenizer(name: str) -> Callable[[str], str]:
    return make_bleu(name).tokenizer


def pairwise_exact_match(texts: Sequence[str]) -> np.ndarray:
    """100 where two texts are the same but for white space at their ends, else 0; [N, N]."""
    _, numbers = np.unique([text.strip() for text in texts], return_inverse=True)
    return 100.0 * (numbers[:, None] == numbers)


UTILITIES: Mapping[str, Callable[[Sequence[str]], np.ndarray]] = MappingProxyType(
    {"chrf": pairwise_chrf, "bleu": pairwise_bleu, "exact_match": pairwise_exact_match}
)


def _shared_ngrams(rows: Sequence[np.ndarray], orders: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For n-grams of 1, 2, ... `orders` units: how many any two rows share, float [N, N], and each row has, [N].

    What two rows share of one n-gram is the smaller of their two counts.
    """
    lengths = np.array([len(row) for row in rows])
    owners = np.repeat(np.arange(len(rows)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(owners))  # units from here to the end of the row
    _, units = np.unique(np.concatenate(rows), return_inverse=True)
    places, numbers = np.arange(len(units)), units  # where n-grams begin, and which ones they are
    for n in range(1, orders + 1):
        if n > 1:
            fits = left[places] >= n
            places = places[fits]
            numbers = numbers[fits] * (len(units) + 1) + units[places + n - 1]
        order = np.argsort(numbers, kind="stable")  # equal n-grams side by side, those of a row too
        ranked = _ranks(numbers[order])
        numbers[order] = ranked
        totals = np.maximum(lengths - n + 1, 0)
        yield _shared(owners[places[order]], ranked, totals), totals


def _shared(owners: np.ndarray, numbers: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """[N, N] from one order's n-grams, sorted: which row each is in, and its number.

    The smaller of two counts is how many of the first, second, ... occurrences both have:

        "a a b", "a a a"    first a, second a, first b; first a, second a, third a    share 2
    """
    here = np.arange(len(numbers))
    begins = np.ones(len(numbers), bool)
    begins[1:] = (owners[1:] != owners[:-1]) | (numbers[1:] != numbers[:-1])
    occurrence = here - np.maximum.accumulate(np.where(begins, here, 0))
    column = numbers * (occurrence.max(initial=0) + 1) + occurrence
    common = np.bincount(column) > 1  # most are one row's only, and need no column
    kept = common[column]
    has = np.zeros((len(totals), int(common.sum())), np.float32)  # float32: sums are far below 2^24
    has[owners[kept], (np.cumsum(common) - 1)[column[kept]]] = 1
    shared = (has @ has.T).astype(np.float64)
    np.fill_diagonal(shared, totals)
    return shared


def _ranks(ordered: np.ndarray) -> np.ndarray:
    """0, 1, ... for the different values of a sorted array."""
    return np.cumsum(np.diff(ordered, prepend=ordered[:1]) != 0)
