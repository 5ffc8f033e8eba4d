"""The embedded phrases: what the quickstart's score means hangs on these properties."""

import hashlib
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict

import pytest
import sentencepiece

from s2sjax.data.phrases import LANGUAGES, SPLITS, TAGS, phrases, table
from s2sjax.errors import UserError

SCRIPTS = {  # as in the names of Unicode characters
    "de": {"LATIN"},
    "ru": {"CYRILLIC"},
    "el": {"GREEK"},
    "hi": {"DEVANAGARI"},
    "ja": {"CJK", "HIRAGANA", "KATAKANA"},
    "ko": {"HANGUL"},
    "ar": {"ARABIC"},
}
KINDS = {"date", "time", "duration", "money", "measurement", "territories"}


def everything():
    return [phrase for split in SPLITS for phrase in table(split)]


def test_a_split_has_the_size_that_the_quickstart_is_made_for():
    assert 25_000 <= len(phrases("train")) <= 60_000
    assert 500 <= len(phrases("validation")) <= 1_500
    assert 1_500 <= len(phrases("test")) <= 2_500


@pytest.mark.parametrize("split", SPLITS)
def test_every_kind_is_said_in_every_language(split):
    counts = Counter((phrase.value.kind, phrase.language) for phrase in table(split))
    assert set(counts) == {(kind, language) for kind in KINDS for language in LANGUAGES}
    assert min(counts.values()) >= (10 if split != "train" else 500)


def test_a_source_has_one_target():
    targets = defaultdict(set)
    for phrase in everything():
        targets[phrase.source].add(phrase.target)
    assert max(len(of_one) for of_one in targets.values()) == 1
    assert len(targets) == len(everything())


def test_no_two_patterns_of_dates_or_times_share_an_english_form():
    """Beyond the drawn values: May 3, 2021 must not be a long date here and a medium one, with digits, there."""
    patterns = defaultdict(set)
    for phrase in everything():
        if phrase.value.kind in ("date", "time"):
            english = re.sub(r"^<2..> (\w+day\b)?", "", phrase.source)
            form = re.sub(r"\d+", lambda number: "Y" if len(number[0]) == 4 else "9", english)
            patterns[form].add(phrase.value.parts[0])
    assert {form: names for form, names in patterns.items() if len(names) > 1} == {}
    assert patterns["May 9, Y"] == {"as long"} and patterns["Jun 9, Y"] == {"as medium"}


def test_a_value_stands_in_one_split_whatever_the_language_and_the_pattern():
    splits = defaultdict(set)
    for split in SPLITS:
        for phrase in table(split):
            splits[phrase.value.kind, phrase.value.key].add(split)
    assert max(len(of_one) for of_one in splits.values()) == 1


def test_a_date_or_a_time_is_one_value_however_it_is_written():
    splits = defaultdict(set)
    for split in SPLITS:
        for phrase in table(split):
            if phrase.value.kind in ("date", "time"):
                what = (part for part in phrase.value.parts if not part.startswith(("as ", "weekday ")))
                splits[tuple(sorted(what))].add(split)
    assert max(len(of_one) for of_one in splits.values()) == 1


def test_no_english_phrase_is_in_two_splits():
    english = {
        split: {phrase.source.removeprefix(f"<2{phrase.language}> ") for phrase in table(split)} for split in SPLITS
    }
    assert not english["train"] & (english["validation"] | english["test"])
    assert not english["validation"] & english["test"]


def test_a_set_of_countries_is_one_value_in_any_order_and_with_and_or_or():
    sets = defaultdict(set)
    for split in SPLITS:
        for phrase in table(split):
            if phrase.value.kind == "territories":
                sets[frozenset(part for part in phrase.value.parts if len(part) == 2)].add(split)
    assert max(len(of_one) for of_one in sets.values()) == 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_part_of_a_held_out_phrase_is_in_training_in_its_language(split):
    known = {(phrase.language, phrase.value.kind, part) for phrase in table("train") for part in phrase.value.parts}
    needed = {(phrase.language, phrase.value.kind, part) for phrase in table(split) for part in phrase.value.parts}
    assert needed <= known, sorted(needed - known)[:5]
    letters = {(phrase.language, letter) for phrase in table("train") for letter in phrase.target}
    assert {(phrase.language, letter) for phrase in table(split) for letter in phrase.target} <= letters


def test_one_and_two_of_something_are_only_in_training():
    """Their forms (1 Stunde, ساعتان) follow from no other value; lists of two durations only combine them."""
    for split in ("validation", "test"):
        for phrase in table(split):
            if phrase.value.kind in ("duration", "measurement", "money") and len(phrase.value.key.split()) == 2:
                assert not {"0", "1", "2", "-1", "-2"} & set(phrase.value.key.split()), phrase
    hours = {phrase.value.key for phrase in table("train") if phrase.value.kind == "duration"}
    assert {"1 hour", "2 hour"} <= hours


def test_held_out_values_are_said_in_all_languages():
    for split in ("validation", "test"):
        languages = defaultdict(set)
        for phrase in table(split):
            languages[phrase.value, phrase.source.split("> ")[1]].add(phrase.language)
        assert all(of_one == set(LANGUAGES) for of_one in languages.values())


def test_a_source_is_tagged_with_its_language():
    assert list(TAGS) == [f"<2{language}>" for language in LANGUAGES]
    for phrase in everything():
        tag, english = phrase.source.split(" ", 1)
        assert tag == f"<2{phrase.language}>"
        assert not set(english) & set("<>") and english.strip()


def test_targets_are_in_the_script_of_their_language():
    """A letter is of the language's script or Latin (km, US$, PM); most targets have one of the former."""
    with_script = Counter()
    for phrase in everything():
        scripts = {re.split("[ -]", unicodedata.name(letter))[0] for letter in phrase.target if letter.isalpha()}
        assert scripts <= SCRIPTS[phrase.language] | {"LATIN"}, phrase
        with_script[phrase.language] += bool(scripts & SCRIPTS[phrase.language])
    totals = Counter(phrase.language for phrase in everything())
    assert all(with_script[language] > totals[language] / 2 for language in LANGUAGES), with_script


def test_lines_are_plain_text():
    """One line, single plain spaces, Latin digits, no invisible marks."""
    for phrase in everything():
        for text in (phrase.source, phrase.target):
            assert text and text == text.strip() and "  " not in text
            assert text.replace(" ", "x").isprintable(), phrase  # neither controls nor any other kind of space
            assert all(c in "0123456789" for c in text if c.isdigit()), phrase


def test_the_usual_normalisation_of_sentencepiece_changes_nothing():
    """Or else no tokenizer with the defaults could reach an exact match."""
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc", add_dummy_prefix=False)
    for phrase in everything():
        for text in (phrase.source, phrase.target):
            assert normalizer.Normalize(text).replace("▁", " ") == text


def test_no_unit_is_left_as_its_identifier():
    """Babel writes "17 length-mile" where it has no pattern; a unit like that has to leave the list."""
    units = {part.split()[1] for phrase in everything() if phrase.value.kind == "measurement"
             for part in phrase.value.parts if not part.startswith("digit")}  # fmt: skip
    assert len(units) >= 25
    for phrase in everything():
        assert not any(unit in phrase.source or unit in phrase.target for unit in units)


def test_phrases_are_the_table_without_the_values():
    rows = phrases("test")
    assert rows == [{"source": phrase.source, "target": phrase.target} for phrase in table("test")]
    rows[0]["target"] = "changed"
    assert phrases("test")[0]["target"] != "changed"


def test_the_first_phrases_are_a_mixture():
    assert {phrase.value.kind for phrase in table("test")[:40]} == KINDS
    assert {phrase.language for phrase in table("test")[:40]} == set(LANGUAGES)


def test_another_process_with_another_locale_and_time_zone_makes_the_same_phrases():
    program = (
        "import hashlib; from s2sjax.data.phrases import SPLITS, phrases;"
        "print(hashlib.sha256(repr([phrases(s) for s in SPLITS]).encode()).hexdigest())"
    )
    other = {"TZ": "Pacific/Auckland", "LC_ALL": "C.UTF-8", "LANGUAGE": "ar", "LANG": "ja_JP", "PYTHONHASHSEED": "7"}
    digest = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | other, capture_output=True, text=True, check=True
    )
    expected = hashlib.sha256(repr([phrases(split) for split in SPLITS]).encode()).hexdigest()
    assert digest.stdout.strip() == expected


def test_translations_mean_what_the_values_say():
    for phrase in everything():
        if phrase.value.kind not in ("date", "time"):
            continue
        parts = dict(part.split(" ") for part in phrase.value.parts)
        if "year" in parts:
            assert parts["year"] in phrase.source and parts["year"] in phrase.target
        if phrase.value.kind == "time" and parts["as"] == "short" and phrase.language in ("de", "ru"):
            assert phrase.target == f"{int(parts['hour']):02}:{int(parts['minute']):02}"


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(UserError, match="no split 'dev'; there are train, validation, test"):
        phrases("dev")
