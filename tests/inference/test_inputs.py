"""What callers pass, of whatever kind: a list of texts is taken as it is, all else is refused in one sentence."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.errors import UserError
from s2sjax.inference import inputs
from s2sjax.inference.hypotheses import Hypothesis

TEXTS = st.text(max_size=4)
ITEMS = st.one_of(
    st.none(), st.integers(), st.floats(), st.binary(max_size=3), TEXTS, st.lists(TEXTS, max_size=2), st.just("\ud800")
)
ANYTHING = st.one_of(
    ITEMS, st.lists(ITEMS, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=2), st.sets(TEXTS, max_size=2)
)


def is_text(value) -> bool:
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


@given(ANYTHING)
def test_a_list_of_texts_comes_back_and_nothing_else_does(value):
    if isinstance(value, list) and all(map(is_text, value)):
        assert inputs.texts(value, "sources") == inputs.texts(iter(value), "sources") == value
        return
    with pytest.raises(UserError) as refused:
        inputs.texts(value, "sources")
    message = str(refused.value)
    assert message.startswith("sources") and len(message) < 200 and message.isprintable()


@given(st.lists(ANYTHING, max_size=3), st.lists(TEXTS.filter(is_text), max_size=3))
def test_targets_are_one_text_or_hypothesis_for_each_source(values, sources):
    if all(map(is_text, values)) and len(values) == len(sources):
        assert inputs.targets(values, sources) == values
        return
    with pytest.raises(UserError) as refused:
        inputs.targets(values, sources)
    assert "targets" in str(refused.value) and len(str(refused.value)) < 200


def hypothesis(*ids):
    return Hypothesis("ab", ("a", "b"), -1.23456789, -0.5, ids)


def test_any_ordered_collection_is_a_list():
    table = {"x": "y", "z": ""}
    for value in (("x", "z"), table.keys(), np.array(["x", "z"]), (key for key in table)):
        made = inputs.texts(value, "sources")
        assert made == ["x", "z"] and {type(text) for text in made} == {str}


@pytest.mark.parametrize(
    "check, message",
    [
        (lambda: inputs.texts("hello", "sources"), r"sources is one text, 'hello'.* put it into a list"),
        (lambda: inputs.texts("a" * 500, "sources"), r"sources is one text, 'a{49}\.\.\."),
        (
            lambda: inputs.texts(["a", None], "sources"),
            r"sources\[1\] is None, but a text was expected: write '' for none",
        ),
        (lambda: inputs.texts([b"a"], "sources"), r"sources\[0\] is b'a', .* decode it"),
        (lambda: inputs.texts(np.array([["a"]]), "sources"), "sources is of type ndarray of 2 dimensions"),
        (lambda: inputs.texts(np.array("a"), "sources"), "sources is of type ndarray of 0 dimensions"),
        (lambda: inputs.texts(io.StringIO("a"), "sources"), "sources is an open file, whose lines keep their ends"),
        (lambda: inputs.targets([[hypothesis(4, 3)]], ["a"]), r"targets\[0\] is of type list, .*\[hypotheses\[0\] for"),
        (lambda: inputs.targets(["a"], ["a", "b"]), "targets: 1 item for 2 sources; give one for each"),
        (lambda: inputs.targets([hypothesis(4.5)], ["a"]), r"targets\[0\] has ids .* no numbers of tokens"),
        (lambda: inputs.targets([hypothesis(-1)], ["a"]), r"targets\[0\] has ids .* no numbers of tokens"),
        (lambda: inputs.hypotheses([hypothesis(4)], ["a"]), r"found\[0\] is one hypothesis, but a list of them"),
        (lambda: inputs.hypotheses([["a"]], ["a"]), r"found\[0\]\[0\] is 'a', but a hypothesis that decode found"),
        (lambda: inputs.phrases(["a"], ["a"]), r"phrases\[0\] is one text, 'a', where a list of texts was expected"),
        (lambda: inputs.path(3, "workdir"), "workdir is 3, but the path of a run directory was expected"),
    ],
)
def test_the_sentence_names_the_value_and_the_way_out(check, message):
    with pytest.raises(UserError, match=message):
        check()


def test_what_a_generator_raises_is_its_caller_s():
    def broken():
        yield "a"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        inputs.texts(broken(), "sources")
