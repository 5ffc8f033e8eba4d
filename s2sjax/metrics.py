"""Corpus metrics on text: BLEU, chrF and error rates, with the signatures that make the numbers comparable; and what a
likelihood says of a text: perplexities and bits per byte.

BLEU and chrF are sacreBLEU's (Post 2018, arXiv:1804.08771), of detokenised, cased text against one reference. A
thousand sentences of a dozen words take about 0.1 s for BLEU and 0.2 s for chrF on one core, the import another 0.15 s.
"""

import math
from collections.abc import Iterable, Sequence

from s2sjax.errors import UserError

# What needs nothing beside sacrebleu itself; 'char' for scripts that put no spaces between words.
TOKENIZERS = ("13a", "intl", "char", "zh", "none")


def text_metrics(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a"
) -> dict[str, float | str]:
    """Score hypotheses against their references.

    Args:
        tokenize: how BLEU splits words, one of `TOKENIZERS`; 13a is what papers report.

    Returns:
        `bleu`, `chrf` (chrF2) and `exact_match`, each in percent of the corpus, and `bleu_signature`, `chrf_signature`.
        Exact match ignores white space at the ends only.

    Raises:
        UserError: no sentences, more of one than of the other, or an unknown tokenizer.
    """
    from sacrebleu.metrics import BLEU, CHRF

    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} hypotheses but {len(references)} references: one of each per line is needed"
        )
    if not references:
        raise UserError("no sentences to score: the split is empty")
    if tokenize not in TOKENIZERS:
        raise UserError(f"tokenize '{tokenize}' is not one of {', '.join(TOKENIZERS)}")
    # force: do not warn of text that looks tokenised; a language may well put a space before its full stops.
    bleu, chrf = BLEU(tokenize=tokenize, force=True), CHRF()
    equal = sum(ours.strip() == theirs.strip() for ours, theirs in zip(hypotheses, references, strict=True))
    return {
        "bleu": bleu.corpus_score(hypotheses, [references]).score,
        "chrf": chrf.corpus_score(hypotheses, [references]).score,
        "exact_match": 100.0 * equal / len(references),
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


def error_rates(sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Error rates where a source may stand on several lines, each with another right answer, as in a pronouncing
    dictionary: the lines of one source count as one example.

    Returns:
        `sequence_error_rate`, the percentage of sources whose hypothesis equals none of their references (the word
        error rate of grapheme-to-phoneme conversion), and `token_error_rate`, the summed edit distances to the nearest
        reference over the summed lengths of those references, in percent of tokens between white space (the phone
        error rate there).
    """
    answers: dict[str, tuple[str, list[str]]] = {}
    for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True):
        answers.setdefault(source, (hypothesis, []))[1].append(reference)
    wrong = edits = tokens = 0
    for hypothesis, right in answers.values():
        ours = hypothesis.split()
        distances = [(edit_distance(ours, r.split()), len(r.split())) for r in right]
        nearest, length = min(distances)
        wrong += nearest > 0
        edits, tokens = edits + nearest, tokens + length
    return {"sequence_error_rate": 100.0 * wrong / len(answers), "token_error_rate": 100.0 * edits / max(tokens, 1)}


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that turn `a` into `b` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def likelihood_metrics(nll: float, tokens: float, texts: Iterable[str]) -> dict[str, float]:
    """What the likelihood of texts says, in units that do not depend on the tokenizer but for the first.

    Args:
        nll: negative log-likelihood of all texts, nats, each one's end-of-sentence counted.
        tokens: how many tokens that was.
        texts: a line each; their ends count as one word and as one byte.

    Returns:
        `perplexity` a token, `word_perplexity` (words are what stands between white space, and line ends: the count
        that WikiText's perplexities are over), `bits_per_byte`, and the counts `tokens`, `words` and `bytes`.
    """
    words = size = 0
    for text in texts:
        words, size = words + len(text.split()) + 1, size + len(text.encode()) + 1
    return {
        "perplexity": _exp(nll / tokens),
        "word_perplexity": _exp(nll / words),
        "bits_per_byte": nll / math.log(2) / size,
        "tokens": tokens,
        "words": float(words),
        "bytes": float(size),
    }


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # beyond it a float overflows
