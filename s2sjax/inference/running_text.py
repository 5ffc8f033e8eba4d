"""A running text gone on with over its line ends: drawn a part at a time, each part after the tokens before it.

A language model of joined text (`task.join`) has learned windows of `task.context` tokens that begin anywhere, after a
begin-of-sentence, with an end-of-sentence where a line ends. So a long text is drawn as such windows: half of a window
is drawn, then the half before it is forgotten. Each token is drawn given at least half a window, or all of the text
there is.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from s2sjax.data.tokenizer import Tokenizer

Draw = Callable[[list[np.ndarray], np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""From rows of tokens [n], their random keys' numbers [n], how many tokens each is gone on with [n], and the greatest
of these numbers that there may be, to the tokens [n, greatest], the log-probabilities of each row's [n], and those with
which they were drawn [n]."""


def encode_lines(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Texts as a model of joined text reads them: the tokens of their lines, end-of-sentence between two lines."""
    split = [text.split("\n") for text in texts]
    encoded = iter(tokenizer.encode([line for lines in split for line in lines]))
    rows = []
    for lines in split:
        parts = [np.append(next(encoded), tokenizer.vocabulary.end) for _ in lines]
        rows.append(np.concatenate(parts)[:-1].astype(np.int32))
    return rows


def decode_lines(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> str:
    """The text of tokens in which end-of-sentence is a line end."""
    ids = np.asarray(ids)
    lines = np.split(ids, np.flatnonzero(np.isin(ids, tokenizer.vocabulary.ends)) + 1)
    return "\n".join(tokenizer.decode(line) for line in lines)


def run_on(
    draw: Draw, rows: Sequence[np.ndarray], *, samples: int, tokens: int, context: int, most_read: int
) -> list[list[tuple[np.ndarray, float, float]]]:
    """So many tokens after each row, drawn `samples` times: the tokens, their log-probability, and that of drawing.

    What is drawn depends on the row and on which of its draws it is, not on the other rows nor on how many are drawn.

    Args:
        rows: what is gone on with, after begin-of-sentence.
        context: tokens of a window.
        most_read: tokens that may be read before those that are drawn, begin-of-sentence counted.
    """
    part = max(context // 2, 1)
    kept = max(min(context - part, most_read - 1), 1)
    starts, rows = [row[:1] for row in rows], [row[1:] for row in rows]
    texts = [row for row in rows for _ in range(samples)]
    drawn: list[list[np.ndarray]] = [[] for _ in texts]
    log_probs, of_drawing = np.zeros(len(texts)), np.zeros(len(texts))
    for begin in range(0, tokens, part):
        count = min(part, tokens - begin)
        read = [np.concatenate([starts[n // samples], text[-kept:]]).astype(np.int32) for n, text in enumerate(texts)]
        numbers = [_key_number(rows[n // samples], n % samples, begin) for n in range(len(texts))]
        found, more, more_drawn = draw(read, np.array(numbers, np.int32), np.full(len(texts), count, np.int32), part)
        log_probs, of_drawing = log_probs + more, of_drawing + more_drawn
        for n, row in enumerate(found):
            drawn[n].append(row[:count])
            texts[n] = np.concatenate([texts[n], row[:count]])
    found_of = [(np.concatenate(drawn[n]), float(log_probs[n]), float(of_drawing[n])) for n in range(len(texts))]
    return [found_of[i * samples : (i + 1) * samples] for i in range(len(rows))]


def _key_number(row: np.ndarray, draw: int, begin: int) -> int:
    """What the random key is made from of the part of a draw that begins after so many tokens."""
    return zlib.crc32(np.array([draw, begin], np.int64).tobytes(), zlib.crc32(row.tobytes())) >> 1
