"""`s2sjax evaluate`: its table, the files it writes, and what happens where they cannot be written."""

import contextlib
import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.inference.translator import Translator
from s2sjax.metrics.text import TextMetrics, text_metrics
from s2sjax.runs.loading import load
from s2sjax.runs.results import result_name, write_results
from s2sjax.training.loop import train
from tests.tiny import on_one_device, random_state, records, s2s, tiny, write_run, write_split, write_text

PAIRS = {"data__source": "{split}.{source_language}", "data__target": "{split}.{target_language}",
         "data__pairs": ("a-b", "b-a"), "data__prompt": "{source}"}  # fmt: skip
SHORT = {"decode__max_length_factor": 1.0, "decode__max_length_offset": 2, "decode__beam_size": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluate")
    with on_one_device(place):
        yield place


@pytest.fixture(scope="module")
def workdir(place):
    """Never trained, of two pairs of languages: three examples each way."""
    (place / "data").mkdir()
    for name, lines in {"a": ["abc", "fed", "fa"], "b": ["cba", "de", ""]}.items():
        (place / "data" / f"test.{name}").write_text("".join(f"{line}\n" for line in lines))
    experiment = tiny(place / "data", "hmm", **PAIRS, **SHORT)
    return write_run(place / "run", experiment, {1: (random_state(experiment, 0), {"loss": 1.0})})


def test_each_pair_of_languages_has_a_row_and_what_was_decoded_is_kept(workdir, capsys):
    assert s2s("evaluate", f"--workdir={workdir}", "--config.evaluate.metrics=('chrf','perplexity','accuracy')") == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    start = table.index(["pair", "examples", "loss", "chrf", "perplexity", "accuracy", "tokens", "words", "bytes"])
    assert [(row[0], row[1]) for row in table[start + 1 :]] == [("a-b", "3"), ("b-a", "3"), ("all", "6")]

    results = json.loads((workdir / "results" / "test.a-b.b-a.json").read_text())
    parts = list(results["pairs"].values())
    for count in ("tokens", "words", "bytes"):
        assert results[count] == sum(part[count] for part in parts)
    nll = sum(part["loss"] * part["tokens"] for part in parts)
    assert results["loss"] == pytest.approx(nll / results["tokens"], rel=1e-6)
    assert parts[0]["loss"] != parts[1]["loss"]

    decoded = [json.loads(line) for line in (workdir / "results" / "test.a-b.b-a.hyp.jsonl").read_text().splitlines()]
    assert [(each["n"], each["pair"], each["source"]) for each in decoded] == [
        (1, "a-b", "abc"), (2, "a-b", "fed"), (3, "a-b", "fa"), (4, "b-a", "cba"), (5, "b-a", "de"), (6, "b-a", "")
    ]  # fmt: skip
    assert [each["references"] for each in decoded[3:]] == [["abc"], ["fed"], ["fa"]]
    columns = zip(*((each["source"], each["hypothesis"], each["references"]) for each in decoded), strict=True)
    again = text_metrics(*columns, TextMetrics(("chrf", "accuracy")))
    assert {name: results[name] for name in again} == again
    run = load(workdir)
    read = [each for each in decoded if each["source"]]  # a blank source has an empty output, which nobody scored
    scores = run.score([each["source"] for each in read], [run.decode([each["source"]])[0][0] for each in read])
    assert [each["score"] for each in read] == pytest.approx(scores, abs=1e-4)


def test_bleu_that_means_nothing_is_there_only_if_it_is_asked_for(workdir, place, capsys, caplog):
    for name in ("a", "b"):
        (place / "data" / f"chinese.{name}").write_text("我们在这里见面吧\n", encoding="utf-8")
    options = [f"--workdir={workdir}", "--split=chinese", "--config.data.pairs=('a-b',)"]
    assert s2s("evaluate", *options) == 0
    results = json.loads((workdir / "results" / "chinese.a-b.json").read_text())
    assert "bleu" not in results and "bleu_signature" not in results and "chrf" in results
    assert "bleu" not in capsys.readouterr().out
    assert "so there is no BLEU: set config.evaluate.bleu_tokenize=zh" in caplog.text
    for asked in ("--config.evaluate.metrics=('bleu',)", "--config.evaluate.bleu_tokenize=zh"):
        assert s2s("evaluate", *options, asked) == 0
        assert "bleu" in capsys.readouterr().out, asked


def test_a_run_directory_that_cannot_be_written_costs_the_files_and_not_the_table(workdir, tmp_path, capsys, caplog):
    """Whatever keeps them from being written: here a file. A link that leads elsewhere is refused before anything."""
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = workdir / "results"
    with contextlib.suppress(FileNotFoundError):
        kept.rename(tmp_path / "results")
    kept.write_text("")
    assert s2s("evaluate", f"--workdir={workdir}", "--config.evaluate.metrics=('bits_per_byte',)") == 0
    said = capsys.readouterr()
    assert "bits_per_byte" in said.out and "a-b" in said.out
    assert "test.a-b.b-a.json is not written: " in said.err + caplog.text
    kept.unlink()
    kept.symlink_to(outside)
    assert s2s("evaluate", f"--workdir={workdir}", "--config.evaluate.metrics=('bits_per_byte',)") == 2
    assert "results is a link" in capsys.readouterr().err
    kept.unlink()
    assert not list(outside.iterdir())


def test_nothing_is_decoded_where_no_metric_needs_it(workdir, monkeypatch):
    monkeypatch.setattr(Translator, "__call__", lambda *args, **kwargs: pytest.fail("decoded"))
    assert set(load(workdir).with_config(**{"evaluate.metrics": ("loss",)}).evaluate("test")) >= {"loss", "pairs"}
    names = os.listdir(workdir / "results")
    assert "test.a-b.b-a.json" in names


def test_a_tokenizer_of_bleu_that_is_not_there_is_told_before_anything_is_computed(workdir, monkeypatch, capsys):
    monkeypatch.setattr("s2sjax.data.prepare.tokenize", lambda *args, **kwargs: pytest.fail("tokenised"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert s2s("evaluate", f"--workdir={workdir}", "--config.evaluate.bleu_tokenize=ja-mecab") == 2
    assert "config.evaluate.bleu_tokenize is 'ja-mecab', and MeCab and ipadic are not" in capsys.readouterr().err


@pytest.mark.parametrize(
    "family, metric, scores, best",
    [
        ("hmm", "ter", {1: 40.0, 2: 30.0, 3: 35.0}, 2),
        ("hmm", "rougeL", {1: 40.0, 2: 30.0, 3: 35.0}, 1),
        ("hmm", "character_error_rate", {1: 4.0, 2: 3.0, 3: 2.0}, 3),
        ("lstm_lm", "bits_per_byte", {1: 1.5, 2: 1.25, 3: 1.3}, 2),
    ],
)
def test_any_metric_chooses_a_checkpoint_by_its_own_direction(family, metric, scores, best, place, tmp_path):
    options = {"data__source": ""} if family == "lstm_lm" else {"evaluate__decode": True}
    experiment = tiny(place / "data", family, checkpoint__metric=metric, **options)
    state = random_state(experiment, 0)
    run = write_run(tmp_path / "run", experiment, {step: (state, {metric: score}) for step, score in scores.items()})
    assert load(run).step == best


@settings(max_examples=50)
@given(st.text(), st.lists(st.text(max_size=30), max_size=9), st.booleans())
def test_the_name_of_a_results_file_is_a_name(split, pairs, ensemble):
    name = result_name(split, pairs, ensemble=ensemble)
    assert "/" not in name and "\\" not in name and name.isprintable()
    assert f"{name}.json" not in (".", "..") and len(f"{name}.hyp.jsonl".encode(errors="replace")) < 200


@pytest.mark.parametrize("split, pairs, name", [
    ("test", (), "test"), ("test[:10%]", (), "test[:10%]"), ("../other", (), ".._other"),
    ("test", ("en-de", "../../x-y"), "test.en-de..._.._x-y"), ("a\n\0b", (), "a__b"),
])  # fmt: skip
def test_names_stay_what_they_were_and_lead_nowhere(split, pairs, name):
    assert result_name(split, pairs) == name


def test_long_names_stay_apart():
    one, other = (result_name("test", [f"{pair}-de" for pair in "abcdefgh" * 10] + [end]) for end in ("x-y", "y-x"))
    assert one != other and len(one) == len(other) == 150


def test_validation_computes_what_chooses_checkpoints_though_nobody_asked_for_it(place, tmp_path):
    """Of plain text; a run that decodes is among the slow tests."""
    for split in ("train", "validation"):
        write_split(place / "data", split, ["abc", "fed"] * 20, ["abc", "fed"] * 20)
    options = {"evaluate__metrics": ("perplexity",), "checkpoint__metric": "word_perplexity", "train__steps": 2}
    assert train(tiny(place / "data", "hmm", data__source="", **options), tmp_path / "run") == 0
    (validated,) = records(tmp_path / "run", "validation")
    assert validated.keys() >= {"loss", "perplexity", "word_perplexity"} and "bits_per_byte" not in validated
    assert load(tmp_path / "run").step == 2


@pytest.mark.slow
def test_validation_says_of_text_what_evaluate_says(place, tmp_path, capsys):
    write_text(place / "text", train=40, held_out=6)
    names = ("ter", "accuracy", "word_error_rate", "rougeL", "perplexity", "bleu")
    options = {"evaluate__metrics": names, "evaluate__decode": True, "checkpoint__metric": "ter"}
    assert train(tiny(place / "text", **options, **SHORT), tmp_path / "run") == 0
    (validated,) = records(tmp_path / "run", "validation")
    results = load(tmp_path / "run").evaluate("validation")
    for name in ("loss", *names):
        assert validated[name] == pytest.approx(results[name], rel=1e-5), name


def test_characters_that_the_vocabulary_lacks_are_told(workdir, place, tmp_path, capsys, caplog):
    for name, lines in {"a": ["abc", "fé-", ""], "b": ["xa", "de", "f"]}.items():
        (place / "data" / f"odd.{name}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    options = [f"--workdir={workdir}", "--config.evaluate.metrics=('exact_match',)", "--config.data.pairs=('a-b',)"]
    assert s2s("evaluate", *options, "--split=odd") == 0
    said = capsys.readouterr().err + caplog.text
    assert "1 of 3 sources hold characters that the vocabulary lacks, 2 in all, and they are read as unknown" in said
    assert "1 of 3 targets hold characters that the vocabulary lacks, 1 in all" in said
    (tmp_path / "in").write_text("abc\n\né\n", encoding="utf-8")
    files = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--config.data.pairs=('a-b',)"]
    assert s2s("decode", f"--workdir={workdir}", *files) == 0
    assert "1 of 3 sources hold characters that the vocabulary lacks, 1 in all" in capsys.readouterr().err
    (tmp_path / "given").write_text("żß\n\nß\n", encoding="utf-8")
    files = [f"--source={tmp_path / 'in'}", f"--target={tmp_path / 'given'}", "--config.data.pairs=('a-b',)"]
    assert s2s("score", f"--workdir={workdir}", *files) == 0
    said = capsys.readouterr().err
    assert "1 of 3 sources hold characters that the vocabulary lacks, 1 in all" in said
    assert "2 of 3 targets hold characters that the vocabulary lacks, 3 in all, and they are read as unknown" in said


def test_results_are_json_whatever_a_model_says(tmp_path):
    """Lines are lines to every reader, and what is not finite is null."""
    write_results(
        tmp_path, "test", {"loss": math.nan, "pairs": {"a-b": {"loss": math.inf}}}, [{"hypothesis": "a\u2028b"}]
    )
    text = (tmp_path / "results" / "test.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "pairs": {"a-b": {"loss": None}}}
    (line,) = (tmp_path / "results" / "test.hyp.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"hypothesis": "a\u2028b"}
