"""What a search found, as texts."""

from collections.abc import Sequence
from dataclasses import dataclass

from s2sjax.data.rows import turn_round
from s2sjax.data.tokenizer import Tokenizer
from s2sjax.inference.sentences import Found
from s2sjax.plural import counted


@dataclass(frozen=True, repr=False)
class Hypothesis:
    text: str
    tokens: tuple[str, ...]
    """Pieces as the tokenizer writes them, end-of-sentence included; in reading order, also where the model writes
    the last first."""
    score: float
    """Log-probability of the tokens in nats: what `score` says of the same pair."""
    ranking_score: float
    """What hypotheses are ordered by: the score over the length penalty. Of a draw, the log-probability with which it
    was drawn, or, without replacement, the same with its noise."""
    ids: tuple[int, ...]
    """The tokens' numbers. The text may be cut into other tokens when it is read again; these are what was scored."""

    def __repr__(self) -> str:
        scores = f"score={self.score:.4f}, ranking_score={self.ranking_score:.4f}"
        return f"Hypothesis({self.text!r}, {scores}, {counted(len(self.ids), 'token')})"


EMPTY = Hypothesis("", (), 0.0, 0.0, ())
"""The translation of a blank source."""


def read_found(found: Found, tokenizer: Tokenizer, *, right_to_left: bool = False) -> list[list[Hypothesis]]:
    """The hypotheses of each sentence of a batch, in the order in which they were found; none of length 0.

    Args:
        tokenizer: the target's.
        right_to_left: the last token was written first; hypotheses are in reading order all the same.
    """
    return [_read(*of_one, tokenizer, right_to_left) for of_one in zip(*found, strict=True)]


def _read(tokens, lengths, log_probs, ranking, tokenizer: Tokenizer, right_to_left: bool) -> list[Hypothesis]:
    hypotheses = []
    for row, n, log_prob, rank in zip(tokens, lengths, log_probs, ranking, strict=True):
        if n:
            ids = (turn_round(row[:n]) if right_to_left else row[:n]).tolist()
            pieces = tuple(tokenizer.pieces(ids))
            hypotheses.append(Hypothesis(tokenizer.decode(ids), pieces, float(log_prob), float(rank), tuple(ids)))
    return hypotheses


def best_text(hypotheses: Sequence[Hypothesis]) -> str:
    """The first one's text; nothing where nothing was found."""
    return hypotheses[0].text if hypotheses else ""
