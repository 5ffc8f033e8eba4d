"""What a likelihood says of a text: perplexities and bits per byte."""

import math
from collections.abc import Iterable


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
