import dataclasses
import json
from dataclasses import dataclass

import pytest

from s2sjax.commands.config_file import read_config_file
from s2sjax.config import build, choose, closest, differences, nearest, to_json
from s2sjax.errors import UserError


@dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclass(frozen=True)
class Outer:
    steps: int = 10
    rate: float = 0.5
    on: bool = True
    name: str = "x"
    symbols: tuple[str, ...] = ()
    limit: int | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_build_makes_what_to_json_wrote():
    for made in (Outer(), Outer(7, 1.0, False, "ü", ("a", "b"), 3, Inner(9))):
        assert build(Outer, json.loads(json.dumps(to_json(made)))) == made


def test_what_is_left_out_has_its_default():
    assert build(Outer, {"steps": 2}) == Outer(steps=2)


def test_an_unknown_key_names_the_nearest_and_all():
    with pytest.raises(UserError, match=r"config.step is not a config key: did you mean 'steps'\? \(known: inner, "):
        build(Outer, {"step": 3})
    with pytest.raises(UserError, match="config.inner.sise is not a config key: did you mean 'size'"):
        build(Outer, {"inner": {"sise": 3}})


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("steps", "10", "whole number"),
        ("steps", 1.5, "whole number"),
        ("steps", True, "whole number"),
        ("steps", None, "whole number"),
        ("rate", "fast", "a number"),
        ("rate", True, "a number"),
        ("on", 1, "True or False"),
        ("name", 3, "a text"),
        ("symbols", "ab", "a tuple of values"),
        ("limit", "none", "whole number"),
        ("inner", 5, "a mapping of keys to values"),
    ],
)
def test_a_wrong_type_names_key_value_and_type(key, value, expected):
    with pytest.raises(UserError, match=f"config.{key} is {value!r}, but .*{expected} was expected"):
        build(Outer, {key: value})


def test_a_wrong_item_of_a_tuple_is_named_by_its_place():
    with pytest.raises(UserError, match=r"config.symbols\[1\] is 2, but a text was expected"):
        build(Outer, {"symbols": ["a", 2]})


def test_lists_become_tuples_integers_floats_and_none_stays():
    made = build(Outer, {"symbols": ["a"], "rate": 2, "limit": None})
    assert made.symbols == ("a",) and made.limit is None
    assert type(made.rate) is float and made.rate == 2.0
    assert build(Outer, {"limit": 4}).limit == 4


def test_differences_are_dotted_and_name_both_values():
    old = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "gone": 4}
    new = {"a": 1, "b": {"c": 5, "d": {"e": 6}}, "new": 7}
    expected = {"b.c": (2, 5), "b.d.e": (3, 6), "gone": (4, None), "new": (None, 7)}
    assert differences(old, new) == expected
    assert differences(old, old) == {}


def test_nearest_lists_everything_where_nothing_is_near():
    assert nearest("zzz", ["beta", "alpha"]) == "known: alpha, beta"
    assert "did you mean 'alpha'" in nearest("alpah", ["beta", "alpha"])
    assert "did you mean 'beam_size'" in nearest("beam", ["beta", "beam_size"]), "which goes on from it"


def test_choose_accepts_the_choices_only():
    choose("a", ("a", "b"), "config.x")
    with pytest.raises(UserError, match="config.x is 'c': known: a, b"):
        choose("c", ("a", "b"), "config.x")


@pytest.mark.parametrize("typed, meant", [
    ("beam", ["beam_size"]), ("size", ["beam_size"]), ("beam_sise", ["beam_size"]), ("bat", ["batch_size"]),
    ("be", ["beta"]), ("at", []), ("", []), ("zzz", []), ("BEAM_SIZE", []),
])  # fmt: skip
def test_a_name_that_begins_with_what_was_typed_is_nearer_than_one_spelled_like_it(typed, meant):
    assert closest(typed, ["alpha", "batch_size", "beam_size", "beta"]) == meant
    assert closest("source", ["max_source", "source_model"]) == ["source_model"], "though the other one is shorter"


def test_of_several_names_that_hold_what_was_typed_the_shortest_is_nearest():
    known = ["max_source_length", "max_target_length", "source_model", "source"]
    assert closest("sourc", known, most=2) == ["source", "source_model"]
    assert closest("length", known) == ["max_source_length"] or closest("length", known) == ["max_target_length"]


def test_of_very_many_names_a_message_has_some():
    said = nearest("nothing", [f"name_{i}" for i in range(100_000)])
    assert said.startswith("known: name_0, ") and len(said) < 2_100 and said.endswith(" more")


def test_a_key_of_another_family_in_a_config_file_is_told(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from s2sjax import base_config\n\ndef get_config():\n    config = base_config('hmm')\n"
        "    config.model.width = 3\n    return config\n"
    )
    with pytest.raises(
        UserError, match=r"line 5: width is not a config key there: config.model.width may be, in a conf"
    ):
        read_config_file(str(file))
