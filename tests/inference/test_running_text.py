"""A running text: its lines as tokens and back, and how parts are put together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data.units import ByteTokenizer
from s2sjax.inference.running_text import decode_lines, encode_lines, run_on
from s2sjax.vocabulary import BOS, EOS

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts=st.lists(st.one_of(TEXT, st.lists(TEXT).map("\n".join))))
def test_a_text_is_its_lines_with_end_of_sentence_between_them(texts):
    tokenizer = ByteTokenizer()
    rows = encode_lines(tokenizer, texts)
    assert [decode_lines(tokenizer, row) for row in rows] == texts
    assert [(row == EOS).sum() for row in rows] == [text.count("\n") for text in texts]


@pytest.mark.parametrize("tokens", [1, 4, 5, 11])
@pytest.mark.parametrize("context", [1, 2, 8, 9])
def test_each_part_is_drawn_after_the_tokens_before_it(tokens, context):
    """With a model that counts: the next token is the one before it and one, or 100 where a text begins."""
    seen = []

    def draw(rows, numbers, limits, most):
        seen.extend(numbers.tolist())
        assert all(row[0] == BOS and len(row) <= max(context - most, 1) + 1 for row in rows)
        last = np.array([row[-1] if len(row) > 1 else 99 for row in rows])
        assert (limits <= most).all()
        found = last[:, None] + 1 + np.arange(most)
        found[:, limits[0] :] = 0
        return found, limits.astype(float), 2.0 * limits

    rows = [np.array([BOS, *text], np.int32) for text in ([10, 11], [], range(20, 40))]
    drawn = run_on(draw, rows, samples=2, tokens=tokens, context=context, most_read=8)
    for begin, found in zip((12, 100, 40), drawn, strict=True):
        assert [(ids.tolist(), p, q) for ids, p, q in found] == [
            (list(range(begin, begin + tokens)), tokens, 2 * tokens)
        ] * 2
    assert len(set(seen)) == len(seen), "every part of every draw has a key of its own"
