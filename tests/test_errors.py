"""What a message says of values that may be very long, or very many."""

import random
import subprocess

import pytest

from s2sjax.data.lines import BadRecord
from s2sjax.errors import UserError, flag, listed


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
    (["b" * 300, "c"], f"{'b' * 200}... and 1 more"), (["c" * 8] * 2, "cccccccc, cccccccc"),
    (["d" * 5, "d" * 5, "d" * 6], "ddddd, ddddd and 1 more"),
])  # fmt: skip
def test_of_a_long_list_some_names_are_told_and_how_many_more_there_are(names, said):
    assert listed(names, most=20) == said


def test_a_shell_reads_an_option_from_a_message_as_it_is():
    draw = random.Random(0)
    values = ["".join(draw.choices("""ab '"'$`\\!*(),;&|<>~#{}[]=%é""", k=draw.randint(1, 12))) for _ in range(300)]
    command = "printf '%s\\n' " + " ".join(flag("x", value) for value in values)
    read = subprocess.run(["bash", "-c", command], capture_output=True, check=True, encoding="utf-8").stdout
    assert read.splitlines() == [f"--x={value}" for value in values]


def test_an_option_from_a_message_is_written_as_in_the_manual():
    assert flag("config.data.sets", ("ita",)) == "--config.data.sets=\"('ita',)\""
