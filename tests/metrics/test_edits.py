"""Edit distances against the table that Levenshtein's definition fills, and error rates against the package jiwer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.metrics.edits import Edits, character_error_rate, count_edits, edit_distance, error_rates, word_error_rate


def by_the_table(a, b) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


@pytest.mark.parametrize("a, b, distance", [("kitten", "sitting", 3), ("", "abc", 3), ("a", "a", 0), ("ab", "ba", 2)])
def test_edit_distance_is_levenshteins(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


@given(st.text("abc", max_size=90), st.text("abc", max_size=90))
def test_the_bits_say_what_the_table_says_and_edits_turn_one_text_into_the_other(a, b):
    edits = count_edits(a, b)
    assert edit_distance(a, b) == edits.distance == by_the_table(a, b)
    assert min(edits) >= 0 and edits.length == len(b)
    assert edits.insertions - edits.deletions == len(a) - len(b)
    assert edits.substitutions + edits.deletions <= len(b)


def test_words_are_units_as_well_as_characters():
    assert count_edits(["the", "cat", "sat"], ["a", "cat", "sat", "down"]) == Edits(1, 1, 0, 4)
    assert count_edits((), ()) == Edits(0, 0, 0, 0)


REFERENCES = ["the cat sat on the mat", "a b c d", "kitten sitting on a bench", "one", "so it goes on and on"]
HYPOTHESES = ["the cat sit on mat today", "b c e d d", "sitting kitten at the bench", "one two three",
              "on and on it goes so"]  # fmt: skip


def test_error_rates_and_their_parts_are_those_of_jiwer():
    """jiwer 4.0.0 with rapidfuzz 3.14.6."""
    words = word_error_rate(HYPOTHESES, [[r] for r in REFERENCES])
    assert words["word_error_rate"] == pytest.approx(100 * 0.8181818181818182)
    parts = [words[f"word_{kind}"] for kind in ("substitutions", "deletions", "insertions")]
    assert parts == pytest.approx([100 * count / 22 for count in (7, 4, 7)])
    characters = character_error_rate(HYPOTHESES, [[r] for r in REFERENCES])
    assert characters["character_error_rate"] == pytest.approx(100 * 0.6493506493506493)
    parts = [characters[f"character_{kind}"] for kind in ("substitutions", "deletions", "insertions")]
    assert parts == pytest.approx([100 * count / 77 for count in (18, 8, 24)])


def test_of_several_references_the_nearest_counts_and_of_equals_the_shortest():
    assert word_error_rate(["a b"], [["x y z", "a b c", "a"]])["word_error_rate"] == pytest.approx(100)
    assert word_error_rate(["a b"], [["x y z", "a b c"]])["word_error_rate"] == pytest.approx(100 / 3)


def test_spaces_count_once_and_nothing_is_divided_by_zero():
    assert character_error_rate([" a  b\n"], [["a b"]])["character_error_rate"] == 0
    assert word_error_rate([""], [[""]])["word_error_rate"] == 0
    assert error_rates([""], [""], [[""]]) == {"accuracy": 100, "sequence_error_rate": 0, "token_error_rate": 0}
    rates = {"accuracy": 0, "sequence_error_rate": 100, "token_error_rate": 100}
    assert error_rates(["a"], [""], [["x y"]]) == rates
