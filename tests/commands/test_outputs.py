"""What decode and align say beside the text: a tiny run, with a tag in front of its sources and words in letters."""

import contextlib
import io
import itertools
import json
import os
import re
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import s2sjax
from s2sjax.commands.sources import open_sources
from s2sjax.data.tokenizer import TokenizerPair, save
from s2sjax.data.units import CharTokenizer
from s2sjax.errors import UserError
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.training.loop import train
from tests.tiny import compiling_once, json_lines, on_devices, random_state, s2s, tiny, write_run, write_split

LINES = ["ab dc", "", "d", "c  ba\tz", "c d a b"]
OPTIONS = {
    "data__prompt": "<up> {source}", "batching__max_source_length": 8, "model__decoder_layers": 2,
    "decode__batch_size": 16, "decode__beam_size": 3, "decode__nbest": 2, "decode__max_length_factor": 1.0,
    "decode__max_length_offset": 6, "decode__min_length_offset": 9, "decode__no_repeat_ngram": 2,
    "decode__forbidden": ("<pad>", "<unk>", "<s>"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("outputs")
    with compiling_once(place / "xla"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2SJAX_CACHE", str(place / "cache"))
        on_devices(patch, 1)
        yield place


@pytest.fixture(scope="module")
def workdir(place):
    """Never trained: what it says is nonsense, but it is the same nonsense in every form."""
    experiment = tiny(place, **OPTIONS)
    workdir = write_run(place / "run", experiment, {1: (random_state(experiment, 0), {"loss": 1.0})})
    tokenizer = CharTokenizer("abcd ", ["<up>"])  # as many tokens as that of `write_run`, which knows no words
    save(TokenizerPair(tokenizer, tokenizer), workdir / "tokenizer")
    (place / "lines").write_text("".join(f"{line}\n" for line in LINES))
    return workdir


@pytest.fixture(scope="module")
def decoded(workdir, place):
    """All that decode says of the lines."""
    arguments = [f"--workdir={workdir}", f"--input={place / 'lines'}", f"--output={place / 'all.jsonl'}"]
    assert s2s("decode", *arguments, "--format=jsonl", "--details=attention") == 0
    return json_lines(place / "all.jsonl")


def test_a_split_is_decoded_as_its_records_are_read_with_its_references(workdir, place, tmp_path, capsys):
    """A field with a line end reaches the model whole, and so do the prompt and a slice."""
    rows = [{"s": "ab\ndc", "t": "x\ny"}, {"s": "", "t": "z"}, {"s": "d", "t": "w"}, {"s": "c", "t": "v"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"format": "jsonl", "file": "{split}.jsonl", "source": "s", "target": "t", "dir": tmp_path}
    data = [f"--config.data.{key}={value}" for key, value in keys.items()]
    arguments = [f"--workdir={workdir}", "--split=test[:3]", *data, f"--output={tmp_path / 'o'}"]
    assert s2s("decode", *arguments, "--format=jsonl") == 0
    written = json_lines(tmp_path / "o")
    assert [(record["source"], record["references"]) for record in written] == [(r["s"], [r["t"]]) for r in rows[:3]]
    found = s2sjax.load(workdir).decode([row["s"] for row in rows[:3]])
    ids = [[tuple(h["ids"]) for h in record["hypotheses"]] for record in written]
    assert ids == [[h.ids for h in hypotheses] for hypotheses in found]
    # As text, each has as many lines as hypotheses are asked for.
    assert s2s("decode", *arguments) == 0
    texts = [text for hypotheses in found for text in [*(h.text for h in hypotheses), ""][:2]]
    assert (tmp_path / "o").read_text() == "".join(f"{text}\n" for text in texts)


def test_one_text_may_be_given_on_the_command_line_or_as_a_file(workdir, tmp_path):
    (tmp_path / "text").write_text("ab\n\\dc\n")
    for given in (r"--prompt=ab\n\\dc", f"--prompt-file={tmp_path / 'text'}"):
        assert s2s("decode", f"--workdir={workdir}", given, f"--output={tmp_path / 'o'}", "--format=jsonl") == 0
        assert [record["source"] for record in json_lines(tmp_path / "o")] == ["ab\n\\dc"]


def test_what_is_told_of_sources_is_of_all_that_were_read(workdir, tmp_path, monkeypatch, capsys):
    """However many are read together."""
    lines = ["é", "a" * 9, "b", "é", "", "c" * 9, "é" * 9]
    for name in ("in", "out"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr("s2sjax.commands.streams.WINDOW", 2)
    monkeypatch.setattr("s2sjax.commands.align._TOGETHER", 2)
    pairs = [f"--source={tmp_path / 'in'}", f"--target={tmp_path / 'out'}"]
    for command, given in (("decode", [f"--input={tmp_path / 'in'}"]), ("align", pairs)):
        assert s2s(command, f"--workdir={workdir}", *given, f"--output={tmp_path / 'written'}") == 0
        said = capsys.readouterr().err
        assert "3 of 7 sources hold characters that the vocabulary lacks, 11 in all" in said
        assert "3 of 7 sources were longer than config.batching.max_source_length 8 tokens" in said
        assert ("3 of 7 targets hold" in said) == (command == "align")


def test_a_blank_source_has_an_empty_output_with_its_prompt_too(workdir, monkeypatch):
    """`decode` puts the prompt before it; evaluation and validation get it from the data with the prompt."""
    run = s2sjax.load(workdir)
    monkeypatch.setattr(run.predictor._search, "_compiled", None)  # there is nothing to search
    for found in (run.decode(["", " \t"]), run.predictor(["<up> ", "<up>  \t", "  ", "<up>"]).result):
        assert [[h.ids for h in hypotheses] for hypotheses in found] == [[()]] * len(found)


def test_token_log_probabilities_add_up_to_the_score_and_scores_are_of_each_convention(decoded):
    for record in decoded:
        for h in record["hypotheses"]:
            assert len(h["token_log_probs"]) == len(h["tokens"]) and all(x < 0 for x in h["token_log_probs"])
            assert sum(h["token_log_probs"]) == pytest.approx(h["score"], abs=1e-4)
            n = len(h["tokens"])
            expected = {"none": 1, "power": n**0.6, "gnmt": ((5 + n) / 6) ** 0.6, "sockeye": n**0.6}
            assert h["scores"] == pytest.approx({kind: h["score"] / (p or 1) for kind, p in expected.items()}, rel=1e-5)
            assert h["scores"]["gnmt"] == pytest.approx(h["ranking_score"], rel=1e-5)


def test_attention_has_a_row_a_token_and_a_column_for_each_that_was_read(decoded):
    for record in decoded:
        for h in record["hypotheses"]:
            read = h["source_tokens"]
            assert len(read) <= 8 and read[-1] == "</s>" and read[0] == "<up>"
            attention = np.reshape(h["attention"], (len(h["tokens"]), len(read)))
            np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-3)


def test_alignments_link_every_target_word_to_a_source_word_that_was_read(decoded):
    for line, record in zip(LINES, decoded, strict=True):
        for h in record["hypotheses"]:
            assert [target for _, target in h["alignment"]] == list(range(len(h["text"].split())))
            assert all(0 <= source < len(line.split()) for source, _ in h["alignment"])
    assert any(len(h["alignment"]) > 1 for record in decoded for h in record["hypotheses"])
    for h in decoded[0]["hypotheses"]:  # read as <up>, space, a, b, space, d, c
        attention = np.array(h["attention"])
        words = [[n for n, _ in group] for space, group in itertools.groupby(
            enumerate(h["tokens"][:-1]), key=lambda token: token[1] == " ") if not space]  # fmt: skip
        best = [int(attention[rows, 5:7].sum() > attention[rows, 2:4].sum()) for rows in words]
        assert h["alignment"] == [[source, target] for target, source in enumerate(best)]
    cut = decoded[-1]["hypotheses"]
    assert "".join(cut[0]["source_tokens"]) == "<up> c d a</s>"
    assert all(source < 3 for h in cut for source, _ in h["alignment"])


def test_fewer_details_are_the_same_and_score_passes_over_them(workdir, place, decoded, tmp_path, capsys):
    """And a source that was cut is counted once, by score for each of its hypotheses."""
    arguments = [f"--workdir={workdir}", f"--input={place / 'lines'}", f"--output={tmp_path / 'plain'}"]
    assert s2s("decode", *arguments, "--format=jsonl", "--details=tokens") == 0
    assert "2 of 5 sources were longer" in capsys.readouterr().err
    for record, full in zip(json_lines(tmp_path / "plain"), decoded, strict=True):
        for h, detailed in zip(record["hypotheses"], full["hypotheses"], strict=True):
            assert h.items() <= detailed.items() and detailed.keys() - h.keys() == {"source_tokens", "attention"}
    files = [f"--hypotheses={place / 'all.jsonl'}", f"--output={tmp_path / 'scores'}"]
    assert s2s("score", f"--workdir={workdir}", *files) == 0
    scores = [float(line) for line in (tmp_path / "scores").read_text().splitlines()]
    np.testing.assert_allclose(scores, [h["score"] for record in decoded for h in record["hypotheses"]], atol=1e-4)
    cut = "4 of 9 sources were longer than config.batching.max_source_length 8 tokens of "
    assert f"{cut}{workdir} and were cut there" in capsys.readouterr().err


@pytest.mark.slow
def test_draws_have_the_same_details(workdir, place, tmp_path):
    arguments = [f"--workdir={workdir}", f"--input={place / 'lines'}", f"--output={tmp_path / 'drawn'}"]
    asked = {"method": "sample", "nbest": 1, "samples": 2, "temperature": 0.5}
    drawing = [f"--config.decode.{name}={value}" for name, value in asked.items()]
    assert s2s("decode", *arguments, *drawing, "--format=jsonl", "--details=tokens") == 0
    hypotheses = [h for record in json_lines(tmp_path / "drawn") for h in record["hypotheses"]]
    assert len(hypotheses) == 9
    for h in hypotheses:
        assert sum(h["token_log_probs"]) == pytest.approx(h["score"], abs=1e-4) == h["scores"]["none"]
        assert [target for _, target in h["alignment"]] == list(range(len(h["text"].split())))


def test_align_writes_a_line_of_links_for_every_pair(workdir, place, tmp_path, monkeypatch, capsysbinary):
    targets = ["AB", "d", "", "ab cdz a", "A\u3000B\u2009C"]
    (tmp_path / "targets").write_text("".join(f"{line}\n" for line in targets), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((place / "lines").read_bytes())))
    files = [f"--workdir={workdir}", "--source=-", f"--target={tmp_path / 'targets'}"]
    assert s2s("align", *files) == 0
    said = capsysbinary.readouterr()
    assert b"2 of 5 sources were longer than config.batching.max_source_length 8 tokens" in said.err
    lines = said.out.decode().split("\n")
    assert len(lines) == 6 and lines[1] == lines[2] == lines[5] == ""
    for source, target, line in zip(LINES, targets, lines, strict=False):
        links = [tuple(map(int, pair.split("-"))) for pair in line.split()]
        if source:
            assert [j for _, j in links] == list(range(len(target.split())))
            assert all(i < len(source.split()) for i, _ in links)

    files[1] = f"--source={place / 'lines'}"
    assert s2s("align", *files, "--format=jsonl", f"--output={tmp_path / 'o'}", f"--plot={tmp_path / 'p'}") == 0
    written = json_lines(tmp_path / "o")
    assert [" ".join(f"{i}-{j}" for i, j in record["alignment"]) for record in written] == lines[:-1]
    assert [(record["source"], record["target"]) for record in written] == list(zip(LINES, targets, strict=True))
    for record in written:
        assert np.shape(record["attention"]) == (len(record["target_tokens"]), len(record["source_tokens"]))
    drawn = [f"attention_{n}.png" for n, record in enumerate(written, start=1) if record["alignment"]]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == drawn != []

    # One layer is another thing than all of them, and the same from Python.
    assert s2s("align", *files, "--format=jsonl", "--layer=-1", f"--output={tmp_path / 'top'}") == 0
    top = [np.array(record["attention"]) for record in json_lines(tmp_path / "top")]
    run = s2sjax.load(workdir)
    for ours, alignment, of_all in zip(top, run.align(LINES, targets, layer=2), written, strict=True):
        np.testing.assert_allclose(ours, alignment.attention, atol=1e-4)
        assert np.abs(ours - of_all["attention"]).max() > 1e-3


def test_a_hypothesis_is_aligned_by_its_own_tokens(workdir):
    """Whatever tokens its text would be cut into."""
    run = s2sjax.load(workdir)
    word = run.tokenizers.target.encode(["ab"])[0].tolist()
    found = [[Hypothesis("", (), 0.0, 0.0, (*word, 1, 9, *word, 3))]]
    ((details,),) = run.explain(["ab dc"], found)
    (alignment,) = run.align(["ab dc"], found[0])
    assert alignment.links == details.alignment.links and [j for _, j in alignment.links] == [0, 1]
    assert details.alignment.target_tokens == ("a", "b", "<unk>", " ", "a", "b", "</s>")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["decode", "--details=all"], "--details is 'all'.*known: attention, none, tokens"),
        (["decode", "--details=tokens"], "--details=tokens has no place in plain text; give --format=jsonl"),
        (["decode", "--input={lines}", "--split=test"], "--input and --split both say what to decode"),
        (["decode", "--prompt=a", "--prompt-file={lines}"], "--prompt and --prompt-file both say what to decode"),
        (["decode", "--prompt-file={lines}.none"], "cannot read .*none: No such file"),
        (["decode", "--split=tset"], "no file for split 'tset'"),
        (["align", "--source=-", "--target=-"], "standard input can be one of them"),
        (["align", "--source={lines}"], "--target is missing"),
        (["align", "--source={lines}", "--target={run}/config.json"], "lines has 5 lines and .*config.json has"),
        (["align", "--source={lines}", "--target={lines}", "--format=giza"], "--format is 'giza'"),
        (["align", "--source={lines}", "--target={lines}", "--layer=top"], "--layer is 'top': expected all"),
        (["align", "--source={lines}", "--target={lines}", "--layer=3"], "layer 3 is asked for"),
        (["align", "--source={lines}", "--target={lines}", "--plot={lines}"], "cannot write .*lines"),
        (["tag", "--input={lines}"], "transformer has no hidden states to tag with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_a_message_and_leaves_no_output(workdir, place, tmp_path, capsys, arguments, message):
    names = {"run": workdir, "lines": place / "lines"}
    filled = [argument.format(**names) for argument in arguments]
    assert s2s(*filled, f"--workdir={workdir}", f"--output={tmp_path / 'o'}") == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and "Traceback" not in said
    assert not (tmp_path / "o").exists() or "plot" in said + " ".join(filled)


def write_text(directory):
    """Lines of some words, and the same in capitals and in the opposite order."""
    rng = np.random.default_rng(0)
    for split, lines in (("train", 900), ("validation", 8), ("test", 20)):
        rows = [rng.choice(["ab", "cde", "f", "ba", "dcf", "ea"], rng.integers(1, 7)).tolist() for _ in range(lines)]
        targets = [" ".join(word.upper() for word in reversed(row)) for row in rows]
        write_split(directory, split, [" ".join(row) for row in rows], targets)


FAMILIES = {
    "transformer": {
        "model__decoder_layers": 2, "train__steps": 400, "tokenizer__kind": "bpe", "tokenizer__vocab_size": 60,
    },
    "rnn_seq2seq": {"train__steps": 400},
    "gnmt": {"train__steps": 300, "tokenizer__kind": "word"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_reverses_words_aligns_them_in_reverse(place, tmp_path, family):
    """Pieces, characters and words; the attention that predicts a word is not that of the word before or after."""
    options = {"batching__tokens": 600, "batching__pack_length": 48, "optimizer__warmup_steps": 30, "model__width": 32}
    write_text(tmp_path)
    train(tiny(tmp_path, family, **options, **FAMILIES[family]), tmp_path / "run")
    sources, targets = ((tmp_path / f"test.{side}").read_text().splitlines() for side in ("src", "tgt"))
    links = [link for alignment in s2sjax.load(tmp_path / "run").align(sources, targets) for link in alignment.links]
    expected = [(len(line.split()) - 1 - j, j) for line in targets for j in range(len(line.split()))]
    assert len(links) == len(expected)
    assert np.mean([a == b for a, b in zip(links, expected, strict=True)]) > 0.9


@hypothesis.given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\\0")))
def test_a_prompt_is_utf8_whatever_the_locale_is(text):
    """As ASCII, the locale C reads each byte of other letters as half of a surrogate pair."""
    for read in (text, text.encode().decode("ascii", "surrogateescape")):
        found = open_sources({"prompt": read, "given": {"prompt"}}, None, contextlib.ExitStack())
        assert list(found.texts) == [text]


@pytest.mark.parametrize("bytes_of_it", [b"a\xff b", "Gr\xfc\xdfe".encode("latin1")])
def test_a_prompt_that_is_no_utf8_is_told(bytes_of_it):
    read = os.fsdecode(bytes_of_it)
    with pytest.raises(UserError, match="^--prompt is not valid UTF-8 .*--prompt-file$"):
        open_sources({"prompt": read, "given": {"prompt"}}, None, contextlib.ExitStack())
