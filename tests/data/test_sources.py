import dataclasses
import gzip
import json
import lzma
import shlex
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.config import DataConfig
from s2sjax.data.lines import Lines
from s2sjax.data.splits import open_split
from s2sjax.errors import UserError
from s2sjax.metrics.measure import references_of

PAIRS = [("A dog runs.", "Ein Hund läuft."), ("", ""), ("日本 \u2028 x\x0by", "\tTab 'n' \"quote\"")]


def pairs_of(source):
    return [(pair["source"], pair["target"]) for pair in source]


def text_config(directory, **changes):
    return DataConfig(dir=str(directory), source="{split}.en", target="{split}.de", **changes)


def write_text(directory, pairs, split="train", opener=open, suffix=""):
    for side, language in enumerate(("en", "de")):
        with opener(directory / f"{split}.{language}{suffix}", "wb") as file:
            file.write("".join(pair[side] + "\n" for pair in pairs).encode())


@pytest.mark.parametrize(("opener", "suffix"), [(open, ""), (gzip.open, ".gz"), (lzma.open, ".xz")])
def test_text_is_read_plain_and_compressed_and_only_newlines_split_lines(tmp_path, opener, suffix):
    write_text(tmp_path, PAIRS, opener=opener, suffix=suffix)
    source = open_split(text_config(tmp_path), "train")
    assert pairs_of(source) == PAIRS
    assert source[2] == {"source": PAIRS[2][0], "target": PAIRS[2][1]}


def test_a_carriage_return_a_byte_order_mark_and_a_missing_last_newline_are_no_text(tmp_path):
    (tmp_path / "train.en").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rstill two\r\nthree")
    (tmp_path / "train.de").write_bytes(b"eins\nzwei\ndrei\n")
    source = open_split(text_config(tmp_path), "train")
    assert pairs_of(source) == [("one", "eins"), ("two\rstill two", "zwei"), ("three", "drei")]


@given(texts=st.lists(st.text(st.characters(exclude_characters="\0\r\n\ufeff", exclude_categories=["Cs"]))))
def test_lines_come_back_as_they_were_written(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes("".join(text + "\n" for text in texts).encode())
    assert [Lines(path)[i] for i in range(len(texts))] == texts
    assert len(Lines(path)) == len(texts)


def test_lines_and_broken_characters_are_found_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("s2sjax.data.lines._CHUNK", 3)
    path = tmp_path / "file"
    path.write_bytes("äöü\n日本語\nabc\n".encode())
    assert [Lines(path)[i] for i in range(3)] == ["äöü", "日本語", "abc"]
    for before in ("äöü\n日本語\n", "ä\nab\n", "a\n\n", "\n日\n"):
        path.write_bytes(before.encode() + b"\xe6\x97x\n")
        with pytest.raises(UserError, match=rf"line 3, byte offset {len(before.encode())}: not valid UTF-8"):
            Lines(path)


def test_any_other_split_name_is_used_literally_and_the_three_are_mapped(tmp_path):
    write_text(tmp_path, PAIRS, split="val")
    write_text(tmp_path, PAIRS[:1], split="test_2016_flickr")
    config = text_config(tmp_path, validation="val")
    assert len(open_split(config, "validation")) == 3
    assert len(open_split(config, "test_2016_flickr")) == 1


def test_a_missing_file_names_what_was_tried_and_what_is_near(tmp_path):
    write_text(tmp_path, PAIRS, split="val", opener=gzip.open, suffix=".gz")
    with pytest.raises(UserError) as error:
        open_split(text_config(tmp_path), "validation")
    for expected in (f"{tmp_path}/validation.en,", "validation.en.gz", "validation.en.xz", "val.en.gz", "data.source"):
        assert expected in str(error.value)
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_split(text_config(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match=r"config.data.source is 'train.en'; expected a file name with \{split\} in it"):
        open_split(dataclasses.replace(text_config(tmp_path), source="train.en"), "train")


def test_differing_line_counts_name_both_and_the_first_differing_place(tmp_path):
    write_text(tmp_path, [("a", "A"), ("b", "B")])
    with (tmp_path / "train.de").open("a") as file:
        file.write("C\n")
    with pytest.raises(UserError, match=r"train.en has 2, .*train.de has 3.*line 3, 'C' in .*line 2 is 'b' beside 'B'"):
        open_split(text_config(tmp_path), "train")
    (tmp_path / "train.en").write_text("a\n\nb\nc\n")
    with pytest.raises(UserError, match="First differing place: line 2, '' beside 'B'"):
        open_split(text_config(tmp_path), "train")
    (tmp_path / "train.en").write_text("")
    with pytest.raises(UserError, match="line 1, 'A' in"):
        open_split(text_config(tmp_path), "train")


def test_invalid_utf8_an_empty_file_and_a_broken_archive_are_user_errors(tmp_path):
    write_text(tmp_path, [("a", "A")])
    (tmp_path / "train.en").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"train.en, line 1, byte offset 3: not valid UTF-8"):
        open_split(text_config(tmp_path), "train")
    write_text(tmp_path, [])
    with pytest.raises(UserError, match="split 'train' has no examples"):
        open_split(text_config(tmp_path), "train")
    for suffix in (".gz", ".xz"):
        for language in ("en", "de"):
            (tmp_path / f"other.{language}{suffix}").write_bytes(b"no archive")
        with pytest.raises(UserError, match=f"cannot read .*other.en{suffix}"):
            open_split(text_config(tmp_path), "other")
        (tmp_path / f"other.en{suffix}").unlink()


def test_json_lines_have_flat_and_nested_fields(tmp_path):
    records = [{"translation": {"en": en, "de": de}, "a.b": en} for en, de in PAIRS]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = DataConfig(format="jsonl", dir=str(tmp_path), file="{split}.jsonl", source="a.b", target="translation.de")
    assert pairs_of(open_split(config, "train")) == PAIRS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"source": "x"',
            "line 2 is not valid JSON: Expecting ',' delimiter \\(column 15\\); expected one object a line",
        ),
        (" ", "line 2 is not valid JSON: Expecting value \\(column 2\\)"),
        ('{"source": "x", "taget": "y"}', "line 2: no field 'target'; did you mean 'taget'\\? there are: source"),
        ('["x", "y"]', r"line 2 holds a list, expected an object; .* one list of objects.*: jq -c '\.\[\]' OLD > NEW"),
        ("[", r"line 2 is not valid JSON: .* one list of objects.*: jq -c '\.\[\]' OLD > NEW"),
        ('"x"', "line 2 holds a text, expected an object; expected one object a line$"),
        ('{"source": 3, "target": "y"}', "line 2: field 'source' is a int, expected text"),
        ('{"source": "\\ud800", "target": "y"}', "line 2: field 'source' is not valid Unicode"),
    ],
)
def test_a_broken_line_of_json_names_file_and_line(tmp_path, line, message):
    (tmp_path / "train.jsonl").write_text('{"source": "x", "target": "y"}\n' + line + "\n")
    source = open_split(DataConfig(format="jsonl", dir=str(tmp_path), file="{split}.jsonl"), "train")
    assert source[0] == {"source": "x", "target": "y"}
    with pytest.raises(UserError, match=f"train.jsonl, {message}"):
        source[1]


def test_a_source_may_be_a_list_of_one_text_and_not_of_two(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"source": ["x"], "target": "y"}\n{"source": ["x", "z"], "target": "y"}\n')
    source = open_split(DataConfig(format="jsonl", dir=str(tmp_path), file="{split}.jsonl"), "train")
    assert source[0] == {"source": "x", "target": "y"}
    with pytest.raises(UserError, match="train.jsonl, line 2: field 'source' is a list, expected text"):
        source[1]


def test_csv_follows_rfc_4180_with_quoted_newlines(tmp_path):
    (tmp_path / "train.csv").write_bytes(b'id,source,target\r\n1,"a, ""b""\nc",d\r\n\r\n2,e,"f\r\ng"\r\n')
    config = DataConfig(format="csv", dir=str(tmp_path), file="{split}.csv")
    assert pairs_of(open_split(config, "train")) == [('a, "b"\nc', "d"), ("e", "f\r\ng")]
    (tmp_path / "train.csv").write_text('source,target\na,b\n"c"d,e\n')
    with pytest.raises(UserError, match="train.csv, line 3: not valid CSV"):
        open_split(config, "train")


def test_tsv_takes_quotes_as_text_and_columns_by_name_or_number(tmp_path):
    (tmp_path / "train.tsv").write_text('x\tsource\ttarget\n1\t"a\tb"\n2\tc\td\n')
    config = DataConfig(format="tsv", dir=str(tmp_path), file="{split}.tsv")
    assert pairs_of(open_split(config, "train")) == [('"a', 'b"'), ("c", "d")]
    numbered = dataclasses.replace(config, header=False, source="1", target="0")
    assert pairs_of(open_split(numbered, "train"))[1:] == [('"a', "1"), ("c", "2")]


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_an_unknown_column_and_a_short_row_are_user_errors(tmp_path, format):
    separator = "\t" if format == "tsv" else ","
    (tmp_path / "train").write_text(f"source{separator}target\na{separator}b\nc\n")
    config = DataConfig(format=format, dir=str(tmp_path), file="{split}")
    with pytest.raises(UserError, match="no column 'sorce'; did you mean 'source'\\? there are: source, target"):
        open_split(dataclasses.replace(config, source="sorce"), "train")
    with pytest.raises(UserError, match="columns are numbers from 0, but 'target'"):
        open_split(dataclasses.replace(config, header=False, source="0"), "train")
    with pytest.raises(UserError, match="line 3: 1 column, expected 2 as in the first row"):
        pairs_of(open_split(config, "train"))


def test_the_fingerprint_knows_the_content_and_not_the_path(tmp_path):
    prints = []
    for name, pairs in (("a", [("x", "y")]), ("b", [("x", "y")]), ("c", [("x", "z")]), ("d", [("z", "y")])):
        (tmp_path / name).mkdir()
        write_text(tmp_path / name, pairs)
        prints.append(open_split(text_config(tmp_path / name), "train").fingerprint())
    swapped = dataclasses.replace(text_config(tmp_path / "a"), source="{split}.de", target="{split}.en")
    prints.append(open_split(swapped, "train").fingerprint())
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_phrases_are_a_source(monkeypatch):
    import s2sjax.data.phrases

    made = {"train": [{"source": "<2de> May", "target": "Mai"}]}
    monkeypatch.setattr(s2sjax.data.phrases, "phrases", made.__getitem__)
    source = open_split(DataConfig(format="phrases"), "train")
    assert pairs_of(source) == [("<2de> May", "Mai")]
    before = source.fingerprint()
    made["train"][0]["target"] = "mai"
    assert open_split(DataConfig(format="phrases"), "train").fingerprint() != before


def test_an_unknown_choice_or_a_size_below_one_is_refused_with_the_choices():
    with pytest.raises(UserError, match="config.data.format is 'json': did you mean 'jsonl'.*phrases, text, tfds, tsv"):
        DataConfig(format="json")
    with pytest.raises(UserError, match="config.batching.kind is 'sort': known: bucket, pack"):
        BatchingConfig(kind="sort")
    with pytest.raises(UserError, match="config.batching.buckets is 0, but must be at least 1"):
        BatchingConfig(buckets=0)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A builder of our own, registered, and prepared on the spot."""
    import tensorflow_datasets as tfds

    class TinyTranslations(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")
        word = "Zahler"

        def _info(self):
            features = {"translation": tfds.features.Translation(languages=("en", "de"))}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(10), "test": self._generate_examples(3)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"translation": {"en": f"number {i}", "de": f"{self.word} {i}"}}

    directory = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("tiny_translations", data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return directory


def tfds_config(directory, **changes):
    fields = {"name": "tiny_translations", "source": "translation.en", "target": "translation.de", **changes}
    return DataConfig(format="tfds", dir=str(directory), **fields)


def test_tfds_is_read_by_random_access_without_tensorflow(tfds_dir):
    source = open_split(tfds_config(tfds_dir), "train")
    assert sorted(pairs_of(source)) == [(f"number {i}", f"Zahler {i}") for i in range(10)]
    half = open_split(tfds_config(tfds_dir, train="train[:50%]"), "train")
    assert pairs_of(half) == pairs_of(source)[:5]
    assert "tensorflow" not in sys.modules
    prints = {s.fingerprint() for s in (source, half, open_split(tfds_config(tfds_dir), "test"))}
    assert len(prints) == 3
    assert open_split(tfds_config(tfds_dir), "train").fingerprint() in prints


def test_a_sequence_or_an_array_of_tfds_is_several_references(tmp_path):
    import tensorflow_datasets as tfds

    class SeveralAnswers(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text, tensor = tfds.features.Text(), tfds.features.Tensor
            features = {"q": text, "answers": {"text": tfds.features.Sequence(text)}}
            features |= {"tensor": tensor(shape=(None,), dtype=np.str_), "starts": tensor(shape=(2,), dtype=np.int32)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            for number, answers in enumerate((["Zähler", "b"], ["c"])):
                record = {"q": f"q{len(answers)}", "answers": {"text": answers}, "tensor": answers, "starts": [1, 2]}
                yield number, record

    tfds.builder("several_answers", data_dir=tmp_path, file_format="array_record").download_and_prepare()
    for name in ("answers.text", "tensor"):
        config = tfds_config(tmp_path, name="several_answers", source="q", target=name)
        rows = sorted(open_split(config, "test"), key=lambda row: row["source"])
        assert [[row["source"], *references_of(row)] for row in rows] == [["q1", "c"], ["q2", "Zähler", "b"]]
    with pytest.raises(UserError, match="field 'starts' is a int, expected text"):
        open_split(tfds_config(tmp_path, name="several_answers", source="q", target="starts"), "test")


EVIL = [
    {"pythonClassName": "evil_module.Feature"},
    {"pythonClassName": "os.Feature"},
    {"pythonClassName": "evil_module"},
    {"type": "evil_module.Feature", "content": {}},
]


@pytest.mark.parametrize("feature", EVIL)
@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_tfds_imports_no_module_that_a_data_set_names(tfds_dir, tmp_path, monkeypatch, feature, depth):
    directory = tmp_path / "tfds"
    shutil.copytree(tfds_dir, directory)
    (tmp_path / "evil_module.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(depth):
        parts = {
            "features": {
                "en": feature,
                "de": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"},
            }
        }
        feature = {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "featuresDict": parts,
        }
    (path,) = directory.rglob("features.json")
    path.write_text(json.dumps(feature))
    # As for everybody who has not prepared it: TFDS does not know the builder's code.
    (name,) = {entry.name for entry in directory.iterdir() if entry.is_dir()} - {"downloads"}
    (directory / name).rename(directory / "of_a_stranger")
    with pytest.raises(UserError, match="not TFDS's own|cannot open"):
        open_split(tfds_config(directory, name="of_a_stranger"), "train")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["huggingface:evil", "somebody:evil/config:1.0.0"])
def test_tfds_looks_up_no_namespace(tfds_dir, name):
    with pytest.raises(UserError, match="on the network"):
        open_split(tfds_config(tfds_dir, name=name), "train")


def test_tfds_prepared_anew_with_other_text_has_another_fingerprint(tfds_dir, tmp_path):
    import tensorflow_datasets as tfds

    builder = tfds.builder("tiny_translations", data_dir=tmp_path, file_format="array_record")
    builder.word = "Nummer"  # as many bytes as before
    builder.download_and_prepare()
    prints = [open_split(tfds_config(directory), "train").fingerprint() for directory in (tfds_dir, tmp_path)]
    assert prints[0] != prints[1]


def test_tfds_mock_data_is_a_source(tfds_dir):
    import tensorflow_datasets as tfds

    for metadata in ({}, {"data_dir": str(tfds_dir)}):
        with tfds.testing.mock_data(num_examples=5, **metadata):
            source = open_split(tfds_config(""), "train")
            assert len(source) == 5
            assert all(isinstance(text, str) and text for pair in source for text in pair.values())


def test_what_tfds_does_not_have_is_a_user_error_that_says_how_to_prepare(tfds_dir, tmp_path):
    with pytest.raises(UserError) as refused:
        open_split(DataConfig(format="tfds", name="nothing", dir="'; touch x; '$(touch x)"), "train")
    *_, flag, code = shlex.split(str(refused.value).partition("prepared yet: ")[2])
    assert flag == "-c" and "data_dir=\"'; touch x; '$(touch x)\", file_format" in code
    prepare = r'tfds.builder\("tiny_translations", data_dir=".*", file_format="array_record"\).download_and_prepare\(\)'
    with pytest.raises(UserError, match=prepare):
        open_split(tfds_config(tmp_path), "train")
    with pytest.raises(UserError, match="Near names: .*tiny_translations"):
        open_split(tfds_config(tfds_dir, name="tiny_translation"), "train")
    with pytest.raises(UserError, match="Unknown split 'validation'.*'train', 'test'"):
        open_split(tfds_config(tfds_dir), "validation")
    with pytest.raises(UserError, match=r"tiny_translations/1.2.0, split train, example 0: no field 'translation.fr'"):
        open_split(tfds_config(tfds_dir, source="translation.fr"), "train")
