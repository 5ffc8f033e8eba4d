"""Configs for inflection: one language or all, and what the tokens of lemma and features are."""

import pytest

from s2sjax.data.prepare import prepare
from s2sjax.data.splits import open_split
from s2sjax.experiment import resolve
from tests.config_files import config_of

ROWS = [("sehen", "V;IMP;NOM(2,PL)", "seht"), ("sich (an)sehen", "V;IMP;ACC(2,SG);NOM(INFM,2,SG)", "sieh dich")]


def prepared(folder, name):
    """The config's data, and its tokenizer, learned from the two rows above for every language."""
    year, language = ("2022", "tur") if "2022" in name else ("2023", "deu")
    for other in ("ara", "hun", "kat", "kor", "pol", "tur", "deu", "eng", "fin", "spa"):
        for file in (f"{other}_large.train", f"{other}_small.train", f"{other}.trn", f"{other}.dev"):
            rows = [(lemma, form, tags) if year == "2022" else (lemma, tags, form) for lemma, tags, form in ROWS]
            (folder / file).write_text("".join("\t".join(row) + "\n" for row in rows[: 1 + ("small" not in file)]))
    config = config_of(name)
    config.data.dir, config.data.cache_dir = str(folder), str(folder / "cache")
    made = resolve(config)
    return made, prepare(made.data, made.tokenizer).tokenizers.source


@pytest.mark.parametrize("name", ["sigmorphon2023/inflection:deu", "sigmorphon2022/inflection:tur"])
def test_features_are_tokens_and_all_else_is_letters(name, tmp_path):
    made, tokenizer = prepared(tmp_path, name)
    for record, features in zip(open_split(made.data, "train"), (
        ["#V", ";IMP", ";NOM", "(2", ",PL", ")"],
        ["#V", ";IMP", ";ACC", "(2", ",SG", ")", ";NOM", "(INFM", ",2", ",SG", ")"],
    ), strict=True):  # fmt: skip
        (pieces,) = (tokenizer.pieces(row) for row in tokenizer.encode([record["source"]]))
        assert pieces[-len(features) :] == features
        assert set(map(len, pieces[: -len(features)])) == {1}


def test_one_model_of_all_languages_reads_which_it_is(tmp_path):
    made, tokenizer = prepared(tmp_path, "sigmorphon2022/inflection:small")
    assert list(made.data.mixture) == ["ara", "hun", "kat", "kor", "pol", "tur"]
    assert [len(open_split(made.data, split)) for split in ("train", "validation")] == [6, 12]
    sources = [record["source"] for record in open_split(made.data, "train")]
    assert sources[-1] == "<tur>sehen#V;IMP;NOM(2,PL)"
    assert tokenizer.pieces(tokenizer.encode(sources[-1:])[0])[:2] == ["<tur>", "s"]
