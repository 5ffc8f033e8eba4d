"""Numbers of things in messages: "1 line", never "1 lines"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import s2sjax
from s2sjax.plural import counted

PACKAGE = Path(s2sjax.__file__).parent
NO_NOUN = {
    "allows", "asks", "begins", "decides", "does", "draws", "exists", "explains", "finishes", "goes", "has", "holds",
    "is", "knows", "labels", "lists", "matches", "names", "needs", "reads", "returns", "s", "says", "takes",
    "tells", "this", "was", "writes",
}  # fmt: skip
"""What ends in s after a value and is no plural; most often the value is a path or a name. "s" is the unit."""
NO_ADJECTIVE = {
    "a", "all", "an", "and", "are", "as", "at", "be", "but", "by", "can", "cannot", "each", "for", "from", "given",
    "have", "if", "in", "into", "it", "may", "must", "no", "not", "of", "on", "or", "over", "so", "than", "that",
    "the", "them", "they", "to", "were", "what", "where", "which", "with", "without",
}  # fmt: skip
"""What ends a number's own phrase: "3 of the texts", "7 and its"."""


def fixed_plurals(source: str) -> Iterator[tuple[int, str]]:
    """Places where an f-string has a value, or a log's format a %d, and after it a plural whatever the value is.

    Values with decimals, factors and shares have a plural in any case ("1.0 epochs", "1% of texts"). What an assert
    says is for those who change the program.
    """
    tree = ast.parse(source)
    asserts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Assert) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for words in re.finditer(r"%d ([a-z-]+)(?: ([a-z-]+))?", node.value):
                if plural := _plural(words[1], words[2] or ""):
                    yield node.lineno, f"%d {plural}"
        if not isinstance(node, ast.JoinedStr) or id(node) in asserts:
            continue
        for value, text, thing in zip(node.values, node.values[1:], [*node.values[2:], None], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            if text.value == " " and isinstance(thing, ast.FormattedValue) and _counts(value):
                yield node.lineno, f"{{{ast.unparse(value.value)}}} {{{ast.unparse(thing.value)}}}"
            words = re.match(r" ([a-z-]+)(?: ([a-z-]+))?", str(text.value))
            decimals = value.format_spec is not None and re.search(r"[.%g]", ast.unparse(value.format_spec))
            if words and not decimals and (plural := _plural(words[1], words[2] or "")):
                yield node.lineno, f"{{{ast.unparse(value.value)}}} {plural}"


def _counts(value: ast.FormattedValue) -> bool:
    """Whether a value is surely a number of things: it is written with commas, or is a length."""
    commas = value.format_spec is not None and ast.unparse(value.format_spec) in ("f','", "','")
    return commas or ast.unparse(value.value).startswith("len(")


def _plural(first: str, second: str) -> str:
    if first.endswith("s") and second in ("are", "were", "have"):
        return first
    if first in NO_NOUN | NO_ADJECTIVE:
        return ""
    if first.endswith("s"):
        return first
    return f"{first} {second}" if second.endswith("s") and second not in NO_NOUN else ""


def test_no_message_has_a_fixed_plural_after_a_number():
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {text}: s2sjax.plural.counted"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in fixed_plurals(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("message, text", [
    ("f'{n} lines'", "{n} lines"),
    ("f'of {len(x):,} bad steps '  'more'", "{len(x)} bad steps"),
    ("f'{n} ' 'hypotheses'", "{n} hypotheses"),
    ("log('%d of %d bad pieces', 1, n)", "%d bad pieces"), ("f'{n} writes were lost'", "{n} writes"),
    ("f'{n:,} of {m:,} {what} hold'", "{m} {what}"), ("f'{len(x)} {noun}'", "{len(x)} {noun}"),
])  # fmt: skip
def test_a_fixed_plural_is_found(message, text):
    assert [found for _, found in fixed_plurals(message)] == [text]


@pytest.mark.parametrize("message", ["f'{path} has x'", "f'{n:.1f} epochs'", "f'{n:.0%} of texts'", "f'{n} and its'"])
def test_what_is_no_number_of_things_is_left_alone(message):
    assert not list(fixed_plurals(message))


@pytest.mark.parametrize("number, thing, text", [
    (1, "line", "1 line"), (0, "line", "0 lines"), (1200, "target token", "1,200 target tokens"),
    (2, "hypothesis", "2 hypotheses"), (2, "batch", "2 batches"), (3, "vocabulary", "3 vocabularies"),
])  # fmt: skip
def test_the_last_word_is_put_into_the_plural(number, thing, text):
    assert counted(number, thing) == text
