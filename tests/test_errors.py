"""What a message says of values that may be very long, or very many."""

import pytest

from s2sjax.data.lines import BadRecord
from s2sjax.errors import UserError, listed


@pytest.mark.parametrize("kind", [UserError, BadRecord])
def test_a_long_message_keeps_what_is_wrong_and_the_way_out(kind):
    whole = f"config.data.target is {'x' * 500_000}; expected one target"
    said = str(kind(whole))
    assert len(said) < 10_000
    assert said.startswith("config.data.target is xxx") and said.endswith("xxx; expected one target")
    left_out = len(whole) - 8000
    assert f"x ... ({left_out:,} characters more) ... x" in said


def test_messages_up_to_some_thousand_characters_are_whole():
    assert str(UserError("x" * 8000)) == "x" * 8000


@pytest.mark.parametrize("names, said", [
    ([], ""), (["a"], "a"), ([3, "b"], "3, b"), (["aaaa"] * 5, "aaaa, aaaa, aaaa and 2 more"),
    (["b" * 300, "c"], f"{'b' * 200}... and 1 more"),
])  # fmt: skip
def test_of_a_long_list_some_names_are_told_and_how_many_more_there_are(names, said):
    assert listed(names, most=20) == said
